//! The program `rdev-runner`: what it refuses to start with, its health, and how it ends.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_sqs::config::{Credentials, Region};
use rdev_domain::worker::WorkerStatus;
use rdev_runner::Health;
use rdev_testkit::servers::emulator::{Account, Emulator, REGION};
use rdev_testkit::tools::trial::Outcome;
use serde_json::Value;

rdev_testkit::trials! {
    fn what_it_is_told_wrongly_ends_it_with_78_and_a_line_that_says_what;
    async it_works_on_a_table_and_a_queue_tells_how_it_is_and_ends_on_sigterm;
    async a_table_or_queue_that_is_missing_or_not_ours_ends_it_with_78;
    fn a_runner_is_well_until_the_store_has_missed_three_heartbeats;
}

const PATIENCE: Duration = Duration::from_secs(600);

/// The program with nothing in its environment but this.
fn program(data: &Path, variables: &[(&str, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdev-runner"));
    command.env_clear().env("RDEV_DATA_DIR", data).env("PATH", "/usr/bin:/bin").current_dir(data);
    command.env("RDEV_HEALTH_LISTEN", "127.0.0.1:0").stdin(Stdio::null());
    command.envs(variables.iter().map(|(name, value)| (*name, value.as_str())));
    command
}

/// Its exit status, and the last thing it has to say.
fn refusal(data: &Path, variables: &[(&str, String)]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = program(data, variables).output().expect("it runs");
    let log = String::from_utf8(stderr).expect("UTF-8");
    let last = log.lines().last().unwrap_or_default();
    let line: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("no JSON: {log}"));
    (status.code(), line["error"].as_str().unwrap_or_else(|| panic!("no error: {log}")).to_owned())
}

fn set(name: &'static str, value: &str) -> (&'static str, String) {
    (name, value.to_owned())
}

fn what_it_is_told_wrongly_ends_it_with_78_and_a_line_that_says_what() {
    let data = tempfile::tempdir().expect("a folder");
    let table = set("RDEV_TABLE", "t");
    let queue = set("RDEV_QUEUE_URL", "http://127.0.0.1:1/0/q");
    for (variables, part) in [
        (vec![], "RDEV_TABLE is not set"),
        (vec![table.clone()], "RDEV_QUEUE_URL is not set"),
        (vec![set("RDEV_RUNNER__SLOTS", "many")], "runner.slots"),
        (vec![set("RDEV_RUNNER__SLTS", "1")], "unknown setting 'slts'"),
        (vec![set("RDEV_HEALTH_LISTEN", "here")], "health_listen"),
        (vec![set("RDEV_CONFIG", "/nowhere")], "/nowhere"),
        (
            vec![table.clone(), queue.clone(), set("RDEV_QUEUE_AGENT", "codex")],
            "RDEV_QUEUE_URL_CODEX must be the URL of its queue",
        ),
        (vec![table, queue], "AWS_REGION and credentials"),
    ] {
        let mut all = vec![set("AWS_EC2_METADATA_DISABLED", "true"), set("HOME", "/nowhere")];
        all.extend(variables);
        let (status, error) = refusal(data.path(), &all);
        assert_eq!(status, Some(78), "{error}");
        assert!(error.contains(part), "no {part:?} in {error:?}");
    }
    // One file may be for the server too.
    let file = "listen = '127.0.0.1:1'\ndefault_agent = 'codex'\n[api]\nrate_limit_per_s = 1\n";
    std::fs::write(data.path().join("rdev.toml"), file).expect("a file");
    let (_, error) = refusal(data.path(), &[]);
    assert!(error.contains("RDEV_TABLE is not set"), "{error}");
    let answer = program(data.path(), &[]).arg("--nonsense").output().expect("it runs");
    assert_eq!(answer.status.code(), Some(64));
}

/// The variables of a table and a queue of the account's own.
async fn resources(account: &Account) -> Vec<(&'static str, String)> {
    let sdk = rdev_aws::config::loader()
        .endpoint_url(&account.endpoint)
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(&account.id, "test", None, None, "test"))
        .load()
        .await;
    let tables = aws_sdk_dynamodb::Client::new(&sdk);
    rdev_aws::schema::create_table(&tables, "rdev").await.expect("a table");
    let queue = aws_sdk_sqs::Client::new(&sdk).create_queue().queue_name("rdev").send().await;
    let queue_url = queue.expect("a queue").queue_url.expect("its URL");
    let mut variables = account.variables().to_vec();
    variables.extend([("RDEV_TABLE", "rdev".to_owned()), ("RDEV_QUEUE_URL", queue_url)]);
    variables
}

/// A running program; it ends with this value.
struct Running {
    process: Child,
    port: u16,
}

impl Running {
    fn start(data: &Path, variables: &[(&str, String)]) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let log = std::fs::File::create(data.join("log")).expect("a log");
        let mut command = program(data, variables);
        command.env("RDEV_HEALTH_LISTEN", format!("127.0.0.1:{port}")).stderr(log);
        Self { process: command.spawn().expect("it starts"), port }
    }

    /// The answer's status and body; `None` when nobody answers.
    async fn get(&self, path: &str) -> Option<(u16, String)> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build();
        let answer = http.expect("a client").get(url).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    async fn health(&mut self) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some((status, text)) = self.get("/health").await {
                assert_eq!(status, 200, "{text}");
                return serde_json::from_str(&text).expect("JSON");
            }
            assert!(self.process.try_wait().expect("a status").is_none(), "it has ended");
            assert!(Instant::now() < end, "it does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn terminated(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_raw(self.process.id().cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().expect("a status") {
                return status.code();
            }
            assert!(Instant::now() < end, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn it_works_on_a_table_and_a_queue_tells_how_it_is_and_ends_on_sigterm() -> Outcome {
    let emulator = Emulator::shared()?;
    // Before anything uses TLS: the program does it in `main`, here the first test does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let data = tempfile::tempdir().expect("a folder");
    let mut variables = resources(&emulator.account()).await;
    variables.push(set("RDEV_RUNNER__WORKER_ID", "one"));
    variables.push(set("RDEV_RUNNER__SLOTS", "3"));
    let mut running = Running::start(data.path(), &variables);
    let health = running.health().await;
    assert_eq!((&health["status"], &health["worker_id"]), (&"ok".into(), &"one".into()));
    assert_eq!((&health["slots"], &health["running"]), (&3.into(), &serde_json::json!([])));
    assert_eq!(running.get("/live").await.map(|(status, _)| status), Some(200));
    assert_eq!(running.get("/metrics").await.map(|(status, _)| status), Some(200));

    let (status, error) = refusal(data.path(), &variables);
    assert!(status == Some(1) && error.contains("another runner's"), "{status:?} {error}");
    assert_eq!(running.terminated().await, Some(0));
    Ok(())
}

async fn a_table_or_queue_that_is_missing_or_not_ours_ends_it_with_78() -> Outcome {
    let emulator = Emulator::shared()?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let data = tempfile::tempdir().expect("a folder");
    let variables = resources(&emulator.account()).await;
    let with = |name: &'static str, value: &str| {
        let mut all = variables.clone();
        all.push(set(name, value));
        refusal(data.path(), &all)
    };
    let (status, error) = with("RDEV_TABLE", "other");
    assert!(status == Some(78) && error.contains("table other"), "{status:?} {error}");
    let other = format!("{}/000000000000/other", emulator.endpoint());
    let (status, error) = with("RDEV_QUEUE_URL", &other);
    assert!(status == Some(78) && error.contains("other"), "{status:?} {error}");
    Ok(())
}

fn a_runner_is_well_until_the_store_has_missed_three_heartbeats() {
    let health = |seconds| Health {
        worker_id: "one".parse().expect("an id"),
        status: WorkerStatus::Idle,
        slots: 1,
        running: Vec::new(),
        store_ok_age: Duration::from_secs(seconds),
    };
    assert!(health(0).is_well() && health(89).is_well());
    assert!(!health(90).is_well());
}
