//! `rdev up` as a process of its own, and a client of its API that reads as prose.

// Each test binary uses its own part of this.
#![allow(dead_code, unused_imports)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) use rdev_testkit::servers::git_http::git;
use serde_json::{Value, json};

/// How long anything may take before a test gives up: only what hangs takes so long, on a busy
/// machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// A running `rdev up`.
pub(crate) struct Server {
    process: Child,
    pub(crate) url: String,
    pub(crate) key: String,
    client: reqwest::Client,
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Server {
    /// Starts `rdev up` on a data folder and waits until it is ready. What it
    /// logs goes to `up.log` in the folder. `env` are variables of its own.
    pub(crate) async fn start(data: &Path, env: &[(&str, &str)]) -> Self {
        Self::start_on(data, "127.0.0.1:0", env).await
    }

    /// The same on a given address.
    pub(crate) async fn start_on(data: &Path, listen: &str, env: &[(&str, &str)]) -> Self {
        let ready_file = data.join("rdev.json");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(data.join("up.log"))
            .expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdev"));
        command.args(["up", "--listen", listen, "--data-dir"]).arg(data).current_dir(data);
        command
            .env_clear()
            .env("HOME", data)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(env.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().expect("rdev starts");
        // From here on it ends with this value, whatever fails.
        let mut server =
            Self { process, url: String::new(), key: String::new(), client: http_client() };
        let end = Instant::now() + PATIENCE;
        loop {
            // The file of a killed predecessor has another pid.
            if let Some(ready) = read_json(&ready_file)
                && ready["pid"].as_u64() == Some(u64::from(server.process.id()))
            {
                let text = |name: &str| ready[name].as_str().expect("a text").to_owned();
                (server.url, server.key) = (text("url"), text("admin_key"));
                return server;
            }
            let log = || std::fs::read_to_string(data.join("up.log")).unwrap_or_default();
            if let Ok(Some(status)) = server.process.try_wait() {
                panic!("rdev up ended with {status}:\n{}", log());
            }
            assert!(Instant::now() < end, "rdev up was not ready in time:\n{}", log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGKILL, as a crash.
    pub(crate) fn kill(mut self) {
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it can be waited for");
    }

    /// SIGTERM, and waits until it has drained.
    pub(crate) async fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(self.process.id().cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .expect("it can be asked to end");
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().expect("it can be waited for") {
                assert!(status.success(), "rdev up ended with {status}");
                return;
            }
            assert!(Instant::now() < end, "rdev up did not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// One request; `Err` when there was no answer.
    pub(crate) async fn try_request(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
        idempotency_key: Option<&str>,
    ) -> Result<Answer, reqwest::Error> {
        let method = method.parse().expect("a method");
        let mut request =
            self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        if let Some(key) = idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        let response = request.timeout(PATIENCE).send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        Ok(Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.try_request("POST", path, Some(body), None).await.expect("an answer")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.try_request("GET", path, None, None).await.expect("an answer")
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.try_request("DELETE", path, None, None).await.expect("an answer")
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.try_request("PATCH", path, Some(body), None).await.expect("an answer")
    }

    /// Creates a project from the template `static`; the folder of its repository.
    pub(crate) async fn project(&self, name: &str, build_limit: u32) -> PathBuf {
        let answer = self.post("/project", json!({"name": name, "template": "static"})).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        if build_limit != 1 {
            let patch = Some(json!({"build_limit": build_limit}));
            let answer = self
                .try_request("PATCH", &format!("/projects/{name}"), patch, None)
                .await
                .expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let url = answer.body["git_url"].as_str().expect("a clone URL").to_owned();
        PathBuf::from(url.strip_prefix("file://").expect("a local repository"))
    }

    /// Starts a build; its task's id.
    pub(crate) async fn build(&self, project: &str, spec: Value) -> String {
        let answer = self.post(&format!("/projects/{project}/builds"), spec).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.body["id"].as_str().expect("a task id").to_owned()
    }

    /// Waits until a build has ended; its record.
    pub(crate) async fn ended(&self, project: &str, task: &str) -> Value {
        self.until(project, task, |state| matches!(state, "succeeded" | "failed" | "cancelled"))
            .await
    }

    /// Waits until a build's state is as wanted; its record.
    pub(crate) async fn until(
        &self,
        project: &str,
        task: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let record = self.get(&format!("/projects/{project}/builds/{task}")).await.body;
            if record["state"].as_str().is_some_and(&wanted) {
                return record;
            }
            assert!(
                Instant::now() < end,
                "{task} stayed as it was: {record:#}\n{:#}",
                self.events(project, task).await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All events of a build.
    pub(crate) async fn events(&self, project: &str, task: &str) -> Value {
        self.get(&format!("/projects/{project}/builds/{task}/events?limit=100")).await.body["items"]
            .clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already, but where a test has failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes the data folder's `rdev.toml`: the `command` agent runs a build's prompt as a shell
/// script.
pub(crate) fn configure(data: &Path, more: &str) {
    let text = format!(
        r#"
default_agent = "command"

[git]
name = "Rdev Test"
email = "rdev@test.invalid"
allow_private_addresses = true

[runner]
slots = 4
term_grace_s = 1
event_flush_ms = 50

[agents.command]
program = "/bin/sh"
args = ["-c", 'eval "$RDEV_PROMPT"']

{more}
"#
    );
    std::fs::write(data.join("rdev.toml"), text).expect("a configuration");
}

/// The processes whose environment or folder is an attempt's below `work`: pid
/// and start time, which together name a process for good.
pub(crate) fn processes_below(work: &Path) -> Vec<(u32, String)> {
    let wanted = work.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let folder = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let marked = environment.split(|byte| *byte == 0).any(|variable| {
            String::from_utf8_lossy(variable)
                .strip_prefix("RDEV_ATTEMPT=")
                .is_some_and(|path| path.starts_with(&wanted))
        });
        if (marked || folder.starts_with(work))
            && let Some(started) = start_time(pid)
        {
            found.push((pid, started));
        }
    }
    found
}

/// When a process began, in ticks since boot; `None` when it is gone or a zombie.
pub(crate) fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    (fields[0] != "Z").then(|| fields[19].to_owned())
}

/// What a command of the client has printed.
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command of the client against the server.
pub(crate) async fn rdev(server: &Server, args: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdev"));
    command.args(args).env("RDEV_URL", &server.url).env("RDEV_KEY", &server.key);
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.expect("it runs").expect("rdev starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("a text");
    let status = output.status.code().expect("a status");
    Said { status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A client that never goes through a proxy: everything here is on loopback.
pub(crate) fn http_client() -> reqwest::Client {
    // An error says that another test of this binary was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}
