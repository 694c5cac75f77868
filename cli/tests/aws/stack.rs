//! A stack of its own for each test: deployed, with its first key, a git server and runners.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rdev_testkit::servers::emulator::{Account, Emulator};
use rdev_testkit::servers::git_http::{GitServer, TOKEN, USER};
use rdev_testkit::tools::needs::NotRun;
use rdev_testkit::tools::python::{CARGO_LAMBDA, MINISTACK, installed, path_with};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::http_client;

/// How long anything may take before a test gives up. It only catches what never ends: leases
/// expire after a minute, the sweep comes once a minute, and the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(900);

/// A deployed stack.
pub(crate) struct Stack {
    pub(crate) account: Account,
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) table: String,
    pub(crate) queue_url: String,
    pub(crate) dead_queue_url: String,
    pub(crate) git: GitServer,
    pub(crate) folder: TempDir,
    client: reqwest::Client,
}

/// A runner's process. It is killed when this is dropped.
pub(crate) struct Runner(Child);

/// The checkout's top.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a parent").to_owned()
}

/// The folder with the functions, built once for this process.
pub(crate) fn built_functions() -> Result<PathBuf, NotRun> {
    static BUILT: OnceLock<Result<PathBuf, NotRun>> = OnceLock::new();
    let build = || {
        let programs = installed(CARGO_LAMBDA)?;
        let folder = root().join("target/lambda");
        // Two builds at once move each other's programs away.
        let lock = fs::File::create(root().join("target/lambda.lock")).expect("a lock");
        lock.lock().expect("it can be taken");
        let mut command = cargo();
        command
            .args(["lambda", "build", "--locked", "--profile", "lambda"])
            .args(["-p", "rdev-functions", "--features", "lambda", "--lambda-dir"])
            .arg(&folder)
            .current_dir(root())
            .env("PATH", path_with(&programs));
        said(&mut command, "cargo lambda build");
        Ok(folder)
    };
    BUILT.get_or_init(build).clone()
}

/// The runner's program, with the features that its image has. It is another package's: where
/// these tests run alone, nothing has built it, and one that is there may be an old one.
///
/// It is built as `cargo test --workspace` builds it, for the runner's own tests. So there is
/// nothing to do within such a run; any other selection of packages has other features, for
/// which most dependencies would be compiled a second time.
fn runner_program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let mut command = cargo();
        command.args(["test", "--workspace", "--locked", "--no-run", "--test", "it"]);
        said(command.current_dir(root()), "cargo test --no-run");
        Path::new(env!("CARGO_BIN_EXE_rdev")).with_file_name("rdev-runner")
    };
    BUILT.get_or_init(build)
}

/// Cargo, without the variables that name the package of these tests. The build script of a
/// dependency runs again when they change, and then most of the workspace is compiled anew: once
/// here, and once more by whoever compiles next.
fn cargo() -> Command {
    let mut command = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// What a command prints, when it ends well.
pub(crate) fn said(command: &mut Command, name: &str) -> String {
    let output = command.stdin(Stdio::null()).output();
    let Output { status, stdout, stderr } = output.unwrap_or_else(|e| panic!("{name}: {e}"));
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{name} ended with {status}: {stderr}");
    String::from_utf8(stdout).expect("text")
}

/// An emulator, and a stack on it.
pub(crate) async fn deployed() -> Result<(Emulator, Stack), NotRun> {
    let emulator = emulator(&[])?;
    let stack = Stack::deploy(&emulator).await?;
    Ok((emulator, stack))
}

/// An emulator with variables in its environment. What it is to run is built before: it would
/// only wait for that.
pub(crate) fn emulator(variables: &[(&str, &str)]) -> Result<Emulator, NotRun> {
    built_functions()?;
    runner_program();
    Emulator::start_with(variables)
}

impl Stack {
    /// Deploys one to the account that an emulator takes requests without a signature for, as
    /// those of the gateway are: one stack for each emulator.
    pub(crate) async fn deploy(emulator: &Emulator) -> Result<Self, NotRun> {
        let account = Account { id: "000000000000".to_owned(), endpoint: emulator.endpoint() };
        let (programs, functions) = (installed(MINISTACK)?, built_functions()?);
        let mut command = Command::new(root().join("infra/local/deploy.sh"));
        command
            .args([account.endpoint.as_str(), "site"])
            .arg(&functions)
            .arg("DefaultAgent=command")
            .envs(account.variables())
            .env("PATH", path_with(&programs));
        let outputs = said(&mut command, "deploy.sh");
        let outputs: Value = serde_json::from_str(&outputs).expect("the stack's outputs");
        let output = |name: &str| outputs[name].as_str().expect("an output").to_owned();
        let mut stack = Self {
            account,
            url: output("ApiUrl"),
            key: String::new(),
            table: output("TableName"),
            queue_url: output("QueueUrl"),
            dead_queue_url: output("DeadQueueUrl"),
            git: GitServer::start(),
            folder: tempfile::tempdir().expect("a folder"),
            client: http_client(),
        };
        let mut bootstrap = Command::new(env!("CARGO_BIN_EXE_rdev"));
        bootstrap.args(["key", "bootstrap", "--stack", "site", "--json"]);
        bootstrap.env_clear().envs(stack.account.variables());
        let made = said(&mut bootstrap, "key bootstrap");
        let made: Value = serde_json::from_str(&made).expect("the key");
        made["key"].as_str().expect("the key").clone_into(&mut stack.key);
        Ok(stack)
    }

    /// What a program of the product needs in its environment to use the stack, at an endpoint.
    pub(crate) fn variables(&self, endpoint: &str) -> Vec<(&'static str, String)> {
        let mut all = self.account.at(endpoint).variables().to_vec();
        all.extend([
            ("RDEV_TABLE", self.table.clone()),
            ("RDEV_QUEUE_URL", self.queue_url.clone()),
            ("RDEV_DEAD_QUEUE_URL", self.dead_queue_url.clone()),
            ("RDEV_ALLOW_PRIVATE_ADDRESSES", "true".to_owned()),
            ("RDEV_DEFAULT_AGENT", "command".to_owned()),
        ]);
        all
    }

    /// Starts a runner with a data folder of its own: `name` is both. Its `command` agent runs a
    /// build's prompt as a shell script.
    pub(crate) fn runner(&self, name: &str, endpoint: &str, slots: u32) -> Runner {
        let data = self.data_of(name);
        fs::create_dir_all(&data).expect("a folder");
        let config = format!(
            r#"
[git]
name = "Rdev Test"
email = "rdev@test.invalid"
allow_private_addresses = true

[[git.credentials]]
origin = "{origin}"
username = "{USER}"
token = "{TOKEN}"

[runner]
worker_id = "{name}"
slots = {slots}
term_grace_s = 1

[agents.command]
program = "/bin/sh"
args = ["-c", 'eval "$RDEV_PROMPT"']
"#,
            origin = self.git.origin(),
        );
        fs::write(data.join("rdev.toml"), config).expect("a configuration");
        let log = fs::File::create(data.join("log")).expect("a log");
        let child = Command::new(runner_program())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &data)
            .env("RDEV_CONFIG", data.join("rdev.toml"))
            .env("RDEV_DATA_DIR", &data)
            .env("RDEV_HEALTH_LISTEN", "127.0.0.1:0")
            .envs(self.variables(endpoint).into_iter().take(9))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the runner starts");
        Runner(child)
    }

    /// A runner's data folder.
    pub(crate) fn data_of(&self, runner: &str) -> PathBuf {
        self.folder.path().join(runner)
    }

    /// `rdev` with the stack's address and key, which tell nothing of AWS.
    pub(crate) fn rdev(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdev"));
        command.args(arguments).env_clear().env("HOME", self.folder.path());
        command.env("RDEV_URL", &self.url).env("RDEV_KEY", &self.key);
        command.stdin(Stdio::null()).output().expect("rdev runs")
    }

    /// One request: status and body; `None` when there was no answer.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        idempotency_key: Option<&str>,
    ) -> Option<(u16, Value)> {
        let method = method.parse().expect("a method");
        let request = self.client.request(method, format!("{}{path}", self.url));
        let mut request = request.bearer_auth(&self.key).timeout(Duration::from_secs(300));
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let text = response.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// A request that must be answered with this status; its body.
    pub(crate) async fn expect(
        &self,
        wanted: u16,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Value {
        let answer = self.ask(method, path, body.as_ref(), None).await;
        let (status, body) = answer.expect("an answer");
        assert_eq!(status, wanted, "{method} {path}: {body:#}");
        body
    }

    /// A project over a repository with one commit.
    pub(crate) async fn project(&self, name: &str, build_limit: u32) {
        self.git.create(name, &[("README.md", "a site\n")]);
        let body = json!({"name": name, "git_url": self.git.url(name)});
        self.expect(201, "POST", "/project", Some(body)).await;
        if build_limit != 1 {
            let patch = json!({"build_limit": build_limit});
            self.expect(200, "PATCH", &format!("/projects/{name}"), Some(patch)).await;
        }
    }

    /// Starts a build; its task's id.
    pub(crate) async fn build(&self, project: &str, spec: Value) -> String {
        let path = format!("/projects/{project}/builds");
        let task = self.expect(202, "POST", &path, Some(spec)).await;
        task["id"].as_str().expect("a task id").to_owned()
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
            let path = format!("/projects/{project}/builds/{task}");
            let answer = self.ask("GET", &path, None, None).await;
            if let Some((200, record)) = &answer
                && record["state"].as_str().is_some_and(&wanted)
            {
                return record.clone();
            }
            assert!(Instant::now() < end, "{task} stayed as it was: {answer:#?}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until a build has ended; its record.
    pub(crate) async fn ended(&self, project: &str, task: &str) -> Value {
        self.until(project, task, |state| matches!(state, "succeeded" | "failed" | "cancelled"))
            .await
    }

    /// The commits on `main` that carry a task's name.
    pub(crate) fn commits_of(&self, project: &str, task: &str) -> Vec<String> {
        let pattern = format!("--grep=^Rdev-Task: {task}$");
        let folder = self.git.folder(project);
        let log = crate::support::git(&folder, &["log", "--format=%H", &pattern, "main"]);
        log.lines().map(str::to_owned).collect()
    }

    /// Asserts that a build was delivered as one commit.
    pub(crate) fn assert_delivered(&self, project: &str, record: &Value) {
        assert_eq!(record["result"]["outcome"], "delivered", "{record:#}\n{}", self.logs());
        let commit = record["result"]["commit_sha"].as_str().expect("a commit");
        let task = record["id"].as_str().expect("an id");
        assert_eq!(self.commits_of(project, task), [commit], "{record:#}");
    }

    /// The ends of the runners' logs.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for entry in fs::read_dir(self.folder.path()).expect("the folder").flatten() {
            let log = fs::read_to_string(entry.path().join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(15)..].join("\n");
            all.push_str(&format!("== {}\n{end}\n", entry.path().display()));
        }
        all
    }
}

impl Runner {
    /// SIGKILL, as a crash.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it can be waited for");
    }

    /// SIGTERM, and waits until it has drained.
    pub(crate) async fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(self.0.id().cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it lives");
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().expect("it can be waited for") {
                assert!(status.success(), "the runner ended with {status}");
                return;
            }
            assert!(Instant::now() < end, "the runner did not end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Ended already, but where a test has failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a file is there.
pub(crate) async fn appears(path: &Path) {
    let end = Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(Instant::now() < end, "{} does not appear", path.display());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
