//! `--localstack`: table and queues in LocalStack (Docker), and the functions in
//! `cargo lambda watch`, since LocalStack's free edition has no HTTP API.
//!
//! Neither rdev's authors nor its tests ever ran the Docker part; the rest was run on another
//! emulator.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdev_domain::spec::AgentName;
use tokio::process::Command;

use super::child_process::ChildProcess;
use super::deploy::{Checkout, Deployed};
use super::free_port;
use crate::out;

/// The addresses that `infra/localstack` sets up.
const ENDPOINT: &str = "http://127.0.0.1:4566";
const QUEUES: &str = "http://127.0.0.1:4566/000000000000";

/// The first request compiles its function.
const START: Duration = Duration::from_secs(15 * 60);

/// The time between two sweeps.
const EVERY: Duration = Duration::from_secs(60);

/// Starts LocalStack and serves the functions. Returns the process of `cargo lambda watch`.
pub(super) async fn start(
    checkout: &Checkout,
    agent: AgentName,
    folder: &Path,
) -> anyhow::Result<(ChildProcess, Deployed)> {
    compose(checkout, &["up", "--wait"]).await?;
    let port = free_port().await?;
    let deployed = Deployed {
        endpoint: ENDPOINT.to_owned(),
        url: format!("http://127.0.0.1:{port}"),
        table: "rdev".to_owned(),
        queue_url: format!("{QUEUES}/rdev-wake-ups"),
        dead_queue_url: format!("{QUEUES}/rdev-dead-letters"),
    };
    let log = folder.join("functions.log");
    let written = std::fs::File::create(&log);
    let written = written.with_context(|| format!("cannot write {}", log.display()))?;
    let mut command =
        ChildProcess::command(&checkout.script("child_process.py"), Path::new("cargo"));
    command
        .args(["lambda", "watch", "--ignore-changes", "-A", "127.0.0.1", "-P", &port.to_string()])
        .args(["-p", "rdev-functions", "--features", "lambda", "--global"])
        .arg(checkout.root().join("infra/localstack/cargo-lambda.toml"))
        .current_dir(checkout.root())
        .env("PATH", checkout.path_with_cargo_lambda().await?)
        .env("RDEV_DEAD_QUEUE_URL", &deployed.dead_queue_url)
        .env("RDEV_DEFAULT_AGENT", agent.to_string())
        .env("RDEV_ALLOW_PRIVATE_ADDRESSES", "true")
        .stdout(written.try_clone().context("cannot share the log")?)
        .stderr(written);
    deployed.connect(&mut command);
    let mut watch = ChildProcess::spawn(&mut command).context("cannot start cargo lambda watch")?;
    out::note("building each function at its first request; the first time takes minutes");
    answers(&mut watch, &deployed, &log).await?;
    tokio::spawn(sweep(deployed.url.clone()));
    Ok((watch, deployed))
}

/// Removes LocalStack.
pub(super) async fn end(checkout: &Checkout) -> anyhow::Result<()> {
    compose(checkout, &["down", "--volumes"]).await
}

async fn compose(checkout: &Checkout, what: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("docker");
    command.args(["compose", "-f", "infra/localstack/compose.yaml"]).args(what);
    command.stdin(Stdio::null());
    checkout.run(&mut command, "docker compose").await
}

async fn answers(watch: &mut ChildProcess, deployed: &Deployed, log: &Path) -> anyhow::Result<()> {
    let http = http()?;
    let begun = Instant::now();
    loop {
        let answer = http.get(format!("{}/health", deployed.url)).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        if watch.ended()?.is_some() || begun.elapsed() > START {
            bail!("the functions do not answer; see {}", log.display());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Does what a schedule does on AWS.
async fn sweep(url: String) {
    let Ok(http) = http() else { return };
    loop {
        tokio::time::sleep(EVERY).await;
        let invoke = format!("{url}/2015-03-31/functions/maintenance/invocations");
        // The function logs its own errors; the next sweep is in a minute.
        drop(http.post(invoke).body("{}").send().await);
    }
}

fn http() -> anyhow::Result<reqwest::Client> {
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build();
    http.context("cannot set up the HTTP client")
}
