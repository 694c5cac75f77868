//! The AWS shape: table, queues and functions in an emulator, behind a proxy that breaks calls, and
//! runners as processes of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rand::RngExt;
use rand::rngs::StdRng;
use rdev_testkit::servers::emulator::{Account, Emulator, REGION};
use rdev_testkit::servers::proxy::{Fault, On, Proxy, Rule};
use rdev_testkit::tools::python::{CARGO_LAMBDA, MINISTACK, installed, path_with};
use serde_json::{Value, json};

use super::api::Place;
use super::checker::processes::{self, Found, VARIABLE};
use super::processes::{Process, Reach};
use super::{RDEV, note, programs};

/// How many runners there are, and how many builds each runs at once.
const RUNNERS: usize = 3;
const SLOTS: usize = 3;

/// How long a runner may take to drain: its own limit, and what comes after.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a function's process is waited for that can be killed.
const WAIT_FOR_FUNCTION: Duration = Duration::from_secs(2);

/// The variable that tells the agents of one runner from those of another.
const OF_RUNNER: &str = "CHAOS_RUNNER";

/// The account that the emulator's gateway works for.
const ACCOUNT: &str = "000000000000";

/// The programs that it runs.
pub(crate) struct Programs {
    pub(crate) rdev: PathBuf,
    pub(crate) runner: PathBuf,
    /// The folder with the functions.
    pub(crate) functions: PathBuf,
}

/// Everything that runs.
pub(crate) struct Aws {
    emulator: Emulator,
    proxy: Proxy,
    place: Place,
    table: String,
    runners: Vec<Runner>,
}

/// One runner. It keeps its name and its data folder over its restarts.
struct Runner {
    name: String,
    program: PathBuf,
    data: PathBuf,
    mark: String,
    variables: Vec<(String, String)>,
    process: Option<Process>,
}

impl Programs {
    /// Builds what is not given.
    pub(crate) fn find(
        rdev: Option<&Path>,
        runner: Option<&Path>,
        functions: Option<&Path>,
    ) -> Result<Self> {
        let whole = |path: &Path| {
            fs::canonicalize(path).with_context(|| format!("{} is not there", path.display()))
        };
        Ok(Self {
            rdev: match rdev {
                Some(path) => whole(path)?,
                None => programs::build("rdev", "rdev", &["aws"])?,
            },
            runner: match runner {
                Some(path) => whole(path)?,
                None => programs::build("rdev-runner", "rdev-runner", &["aws"])?,
            },
            functions: match functions {
                Some(path) => whole(path)?,
                None => functions_of_this_checkout()?,
            },
        })
    }
}

impl Aws {
    /// Deploys a stack and makes the first key. `credentials` are those of the git server.
    pub(crate) fn deploy(
        programs: &Programs,
        folder: &Path,
        mark: &str,
        credentials: &str,
        seed: u64,
    ) -> Result<Self> {
        let proxy = Proxy::start("http://127.0.0.1:9", seed);
        note(format_args!("starting the emulator"));
        let endpoint = proxy.endpoint();
        let emulator = Emulator::start_with(&[("AWS_ENDPOINT_URL", &endpoint)])?;
        proxy.forward_to(&emulator.endpoint());
        let account = Account { id: ACCOUNT.to_owned(), endpoint: emulator.endpoint() };
        note(format_args!("deploying infra/template.yaml"));
        let mut deploy = Command::new(programs::root().join("infra/local/deploy.sh"));
        deploy.args([account.endpoint.as_str(), "chaos"]).arg(&programs.functions);
        deploy.arg("DefaultAgent=command").envs(account.variables());
        deploy.env("PATH", path_with(&installed(MINISTACK)?));
        let outputs = printed(&mut deploy, "deploy.sh")?;
        let output = |name: &str| {
            let text = outputs[name].as_str().map(str::to_owned);
            text.with_context(|| format!("the stack has no {name}"))
        };
        let mut bootstrap = Command::new(&programs.rdev);
        bootstrap.args(["key", "bootstrap", "--stack", "chaos", "--json"]);
        bootstrap.env_clear().envs(account.variables());
        let key = printed(&mut bootstrap, "rdev key bootstrap")?;
        let key = key["key"].as_str().context("no key")?.to_owned();
        let mut variables: Vec<(String, String)> = Vec::new();
        for (name, value) in account.at(&endpoint).variables() {
            variables.push((name.to_owned(), value));
        }
        for (name, value) in [
            ("RDEV_TABLE", output("TableName")?),
            ("RDEV_QUEUE_URL", output("QueueUrl")?),
            ("RDEV_DEAD_QUEUE_URL", output("DeadQueueUrl")?),
        ] {
            variables.push((name.to_owned(), value));
        }
        let runners = (0..RUNNERS).map(|n| {
            let name = format!("runner-{n}");
            let data = folder.join(&name);
            let program = programs.runner.clone();
            let (mark, variables) = (mark.to_owned(), variables.clone());
            let runner = Runner { name, program, data, mark, variables, process: None };
            runner.configure(credentials).map(|()| runner)
        });
        let runners = runners.collect::<Result<_>>()?;
        let place = Place { url: output("ApiUrl")?, key };
        Ok(Self { emulator, proxy, place, table: output("TableName")?, runners })
    }

    /// Starts the runners.
    pub(crate) fn start(&mut self) -> Result<Place> {
        for runner in &mut self.runners {
            runner.start()?;
        }
        Ok(self.place.clone())
    }

    /// Where the API is.
    pub(crate) fn place(&self) -> Place {
        self.place.clone()
    }

    /// Lets some calls of AWS go wrong from now on.
    pub(crate) fn break_some(&self) {
        let share = |share, fault| Rule::share(share, On::Any, fault);
        self.proxy.plan([
            share(0.05, Fault::Throttle),
            share(0.02, Fault::Error),
            share(0.02, Fault::LoseAnswer),
            share(0.002, Fault::Hang),
        ]);
    }

    /// Lets nothing go wrong any more.
    pub(crate) fn heal(&self) {
        self.proxy.plan([]);
    }

    /// How many calls there were since the last time, and how many of them went wrong.
    pub(crate) fn counted(&self) -> (usize, usize) {
        let seen = self.proxy.seen();
        self.proxy.forget_seen();
        (seen.len(), seen.iter().filter(|seen| seen.fault.is_some()).count())
    }

    /// Whether no runner has ended by itself.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        let mut all = self.runners.iter_mut().filter_map(|runner| runner.process.as_mut());
        all.try_for_each(Process::still_runs)
    }

    /// SIGKILL for a runner, or for a function that serves a request: the runner's name.
    pub(crate) fn kill(&mut self, random: &mut StdRng) -> Result<Option<String>> {
        if random.random_bool(0.25) && self.kill_a_function() {
            return Ok(None);
        }
        let runner = self.one(random);
        let mut process = runner.process.take().context("the runner does not run")?;
        process.kill(Reach::Process)?;
        Ok(Some(runner.name.clone()))
    }

    /// The emulator starts a process for each request.
    fn kill_a_function(&self) -> bool {
        let variable = format!("AWS_ENDPOINT_URL={}", self.proxy.endpoint());
        let end = Instant::now() + WAIT_FOR_FUNCTION;
        while Instant::now() < end {
            if processes::kill_one("bootstrap", &variable) {
                return true;
            }
        }
        false
    }

    /// Starts a killed runner again.
    pub(crate) fn restart(&mut self, name: &str) -> Result<()> {
        let mut all = self.runners.iter_mut();
        all.find(|runner| runner.name == name).context("no such runner")?.start()
    }

    /// Those of the marked processes that belong to a runner.
    pub(crate) fn agents_of(name: &str, marked: Vec<Found>) -> Vec<Found> {
        let variable = format!("{OF_RUNNER}={name}");
        marked.into_iter().filter(|found| processes::has_variable(found.pid, &variable)).collect()
    }

    /// SIGSTOP for a runner, and SIGCONT after a while: often after its leases have expired.
    pub(crate) async fn pause(&mut self, pause: Duration, random: &mut StdRng) -> Result<()> {
        let pause = if random.random_bool(0.3) {
            Duration::from_secs(random.random_range(62..80))
        } else {
            pause
        };
        let runner = self.one(random);
        runner.process.as_ref().context("the runner does not run")?.pause(pause).await
    }

    /// SIGTERM for a runner, and its next start.
    pub(crate) async fn drain(&mut self, random: &mut StdRng) -> Result<()> {
        let runner = self.one(random);
        runner.stop().await?;
        runner.start()
    }

    /// SIGTERM for all runners.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        for runner in &mut self.runners {
            runner.stop().await?;
        }
        Ok(())
    }

    /// The runners' data folders.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.runners.iter().map(|runner| runner.data.as_path())
    }

    /// All items of the table, read past the proxy.
    pub(crate) async fn items(&self) -> Result<Vec<Value>> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        // The emulator reads the account from the key's id and checks no signature.
        let scope = format!("{ACCOUNT}/20260101/{REGION}/dynamodb/aws4_request");
        let signed =
            format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0");
        let (mut items, mut from) = (Vec::new(), Value::Null);
        loop {
            let mut body = json!({"TableName": self.table, "ConsistentRead": true});
            if !from.is_null() {
                body["ExclusiveStartKey"] = from;
            }
            let request = http
                .post(self.emulator.endpoint())
                .header("x-amz-target", "DynamoDB_20120810.Scan")
                .header("content-type", "application/x-amz-json-1.0")
                .header("authorization", &signed)
                .body(body.to_string());
            let text = request.send().await?.error_for_status()?.text().await?;
            let mut page: Value = serde_json::from_str(&text).context("a page of the table")?;
            let found = page["Items"].as_array_mut().context("a page without items")?;
            items.append(found);
            from = page["LastEvaluatedKey"].take();
            if from.is_null() {
                return Ok(items);
            }
        }
    }

    fn one(&mut self, random: &mut StdRng) -> &mut Runner {
        let n = random.random_range(0..self.runners.len());
        &mut self.runners[n]
    }
}

impl Runner {
    fn configure(&self, credentials: &str) -> Result<()> {
        fs::create_dir_all(&self.data)?;
        let (name, mark) = (&self.name, &self.mark);
        let config = format!(
            r#"
[git]
name = "{RDEV}"
email = "rdev@chaos.invalid"
allow_private_addresses = true
timeout_s = 10

{credentials}
[runner]
worker_id = "{name}"
slots = {SLOTS}
term_grace_s = 1
drain_s = 2

[agents.command]
program = "/bin/sh"
args = ["-c", 'eval "$RDEV_PROMPT"']
set_env = {{ {VARIABLE} = "{mark}", {OF_RUNNER} = "{name}" }}
"#
        );
        Ok(fs::write(self.data.join("rdev.toml"), config)?)
    }

    fn start(&mut self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.data)
            .env("RDEV_CONFIG", self.data.join("rdev.toml"))
            .env("RDEV_DATA_DIR", &self.data)
            .env("RDEV_HEALTH_LISTEN", "127.0.0.1:0")
            .env(VARIABLE, &self.mark)
            .env(OF_RUNNER, &self.name)
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        let log = self.data.with_extension("log");
        self.process = Some(Process::start(&self.name, &mut command, &log)?);
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the runner does not run")?;
        process.stop(PATIENCE).await
    }
}

/// Builds the functions, or finds that they are built.
fn functions_of_this_checkout() -> Result<PathBuf> {
    let folder = programs::root().join("target/lambda");
    let mut command = programs::cargo();
    command
        .args(["lambda", "build", "--locked", "--profile", "lambda"])
        .args(["-p", "rdev-functions", "--features", "lambda", "--lambda-dir"])
        .arg(&folder)
        .current_dir(programs::root())
        .env("PATH", path_with(&installed(CARGO_LAMBDA)?));
    note(format_args!("building the functions; the first time takes minutes"));
    let output = ended_well(&mut command, "cargo lambda build")?;
    drop(output);
    Ok(fs::canonicalize(folder)?)
}

/// The JSON that a command prints.
fn printed(command: &mut Command, name: &str) -> Result<Value> {
    let output = ended_well(command, name)?;
    // It may have a key in it.
    serde_json::from_slice(&output.stdout).map_err(|_| anyhow!("{name} printed no JSON"))
}

fn ended_well(command: &mut Command, name: &str) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(output)
}
