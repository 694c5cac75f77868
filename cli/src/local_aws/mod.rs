//! `rdev local-aws up`: the AWS shape on this machine. It runs an emulator with the real template
//! and functions, and a runner.
//!
//! Only `infra/local/emulator.py` knows which emulator that is.

mod child_process;
mod deploy;
mod localstack;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdev_configuration::{Environment, default_data_dir};
use rdev_domain::spec::AgentName;
use serde_json::json;
use tokio::process::Command;

use crate::args::Common;
use crate::args::local_aws::LocalAwsUp;
use crate::config::{Config, Flags};
use crate::exit::Exit;
use crate::folder::Local;
use crate::up::{Signals, default_agent};
use crate::{agents, log, out};
use child_process::ChildProcess;
use deploy::{Checkout, Deployed};

/// How long a runner may take to start.
const START: Duration = Duration::from_secs(60);

/// How long the emulator may take to stop.
const END: Duration = Duration::from_secs(10);

/// The started processes.
struct Running {
    deployed: Deployed,
    local: Local,
    /// The emulator; with LocalStack, the process that runs the functions.
    emulator: ChildProcess,
    runner: ChildProcess,
}

/// Starts everything and waits for a signal. The first one lets running builds finish, a second one
/// gives them back to the queue.
pub(crate) async fn run(
    common: &Common,
    up: &LocalAwsUp,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let mut signals = Signals::new()?;
    log::init(common.log_format, "info", environment.text("RUST_LOG"))?;
    let mut config = Config::load(&Flags::from(common), environment)?;
    if up.sample_agent {
        agents::use_sample(&mut config.agents)?;
    }
    let folder = match &config.data_dir {
        Some(folder) => folder.clone(),
        // Not the folder of `rdev up`: both commands store their address and key in `rdev.json`.
        None => default_data_dir(environment)?.with_file_name("rdev-local-aws"),
    };
    let _lock = lock(&folder)?;
    let checkout = Checkout::find()?;
    let starting = start(common, up, environment, &config, &checkout, &folder);
    let ended = tokio::select! {
        running = Box::pin(starting) => match running {
            Ok(running) => match show(common.json, &running, &folder) {
                Ok(()) => serve(running, &folder, &mut signals).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        },
        () = signals.next() => Ok(Exit::Done),
    };
    if up.localstack {
        // An earlier error is more useful than one of the clean-up.
        let ended_too = localstack::end(&checkout).await;
        return ended.and_then(|exit| ended_too.map(|()| exit));
    }
    ended
}

async fn start(
    common: &Common,
    up: &LocalAwsUp,
    environment: &Environment,
    config: &Config,
    checkout: &Checkout,
    folder: &Path,
) -> anyhow::Result<Running> {
    let agent = if up.sample_agent { AgentName::Command } else { default_agent(config) };
    let runner = checkout.runner(environment).await?;
    let (emulator, deployed) = if up.localstack {
        out::note("starting LocalStack");
        localstack::start(checkout, agent, folder).await?
    } else {
        let functions = checkout.functions(environment).await?;
        out::note("starting the emulator");
        let (emulator, address) = deploy::emulator(checkout, &folder.join("emulator")).await?;
        out::note("deploying infra/template.yaml");
        (emulator, deploy::template(checkout, &address, &functions, agent).await?)
    };
    let admin_key = deploy::first_key(&deployed).await?;
    out::note("starting a runner");
    let port = free_port().await?;
    let mut command = ChildProcess::command(&checkout.script("child_process.py"), &runner);
    deployed.connect(&mut command);
    command
        .env("RDEV_DATA_DIR", folder.join("runner"))
        .env("RDEV_HEALTH_LISTEN", format!("127.0.0.1:{port}"))
        .env("RDEV_GIT__ALLOW_PRIVATE_ADDRESSES", "true")
        .env_remove("RDEV_LOCAL_FUNCTIONS")
        .env_remove("RDEV_LOCAL_RUNNER");
    if let Some(file) = &common.config {
        command.env("RDEV_CONFIG", file);
    }
    if up.sample_agent {
        set_agent(&mut command, config)?;
    }
    let log = folder.join("runner.log");
    let written = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut runner =
        ChildProcess::spawn(command.stderr(written)).context("cannot start the runner")?;
    ready(&mut runner, port, &log).await?;
    let local = Local { url: deployed.url.clone(), admin_key, pid: Some(std::process::id()) };
    local.write(folder)?;
    Ok(Running { deployed, local, emulator, runner })
}

/// Locks the data folder as long as the file is open; `rdev up` locks the same file.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let context = || format!("cannot use the data folder {}", folder.display());
    std::fs::create_dir_all(folder).with_context(context)?;
    let file = File::options().write(true).create(true).truncate(false).open(folder.join("lock"));
    let file = file.with_context(context)?;
    file.try_lock().with_context(|| format!("the data folder {} is in use", folder.display()))?;
    Ok(file)
}

fn set_agent(command: &mut Command, config: &Config) -> anyhow::Result<()> {
    let sample = config.agents.get(&AgentName::Command);
    let sample = sample.context("there is no sample agent")?;
    let args = serde_json::to_string(&sample.args).context("arguments that are not text")?;
    command.envs(sample.program.iter().map(|program| ("RDEV_AGENTS__COMMAND__PROGRAM", program)));
    command.env("RDEV_AGENTS__COMMAND__ARGS", args);
    Ok(())
}

async fn free_port() -> anyhow::Result<u16> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
    Ok(listener.local_addr().context("no free port")?.port())
}

/// Waits until the runner answers.
async fn ready(runner: &mut ChildProcess, port: u16, log: &Path) -> anyhow::Result<()> {
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build();
    let http = http.context("cannot set up the HTTP client")?;
    let url = format!("http://127.0.0.1:{port}/live");
    let begun = Instant::now();
    loop {
        let answer = http.get(&url).timeout(Duration::from_secs(5)).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        if let Some(status) = runner.ended()? {
            bail!("the runner ended with {status}; see {}", log.display());
        }
        if begun.elapsed() > START {
            bail!("the runner does not answer; see {}", log.display());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn show(json: bool, running: &Running, folder: &Path) -> anyhow::Result<()> {
    let Running { deployed, local, .. } = running;
    if json {
        out::json(&json!({
            "url": local.url,
            "admin_key": local.admin_key.expose(),
            "endpoint": deployed.endpoint,
            "table": deployed.table,
            "queue_url": deployed.queue_url,
            "dead_queue_url": deployed.dead_queue_url,
            "data_dir": folder,
            "pid": std::process::id(),
        }))?;
        return Ok(());
    }
    out::line(format_args!("url  {}", local.url))?;
    out::line(format_args!("key  {}", local.admin_key.expose()))?;
    let folder = folder.display();
    out::note(format_args!("logs are in {folder}; when this ends, everything is deleted"));
    out::note(format_args!("rdev --data-dir {folder} project create site --git-url …"));
    Ok(())
}

/// Waits until a signal arrives and the runner has ended, or something ends by itself.
async fn serve(running: Running, folder: &Path, signals: &mut Signals) -> anyhow::Result<Exit> {
    let Running { local, mut emulator, mut runner, .. } = running;
    let mut draining = false;
    let ended = loop {
        tokio::select! {
            status = runner.wait() => break match status? {
                status if status.success() && draining => Ok(Exit::Done),
                status => Err(anyhow::anyhow!("the runner ended with {status}")),
            },
            status = emulator.wait() => {
                break Err(anyhow::anyhow!("the emulator ended with {}", status?));
            }
            () = signals.next() => {
                out::note(if draining { "giving running builds back" } else { "running builds may finish" });
                draining = true;
                runner.terminate().await;
            }
        }
    };
    Local { pid: None, ..local }.write(folder)?;
    emulator.close_stdin();
    drop(tokio::time::timeout(END, emulator.wait()).await);
    ended
}

/// The path in a variable that replaces a build step.
fn named(environment: &Environment, name: &str) -> anyhow::Result<Option<PathBuf>> {
    let Some(path) = environment.path(name) else { return Ok(None) };
    let path = path.canonicalize().with_context(|| format!("{name} is not an existing path"))?;
    Ok(Some(path))
}
