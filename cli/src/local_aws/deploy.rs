//! Deploying a stack from a checkout, with the scripts in `infra/local`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use rdev_configuration::Environment;
use rdev_domain::secret::Secret;
use rdev_domain::spec::AgentName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::child_process::ChildProcess;
use super::named;
use crate::out;
use crate::usage::UsageError;

/// The stack's name.
const STACK: &str = "rdev-local";

/// The variables of a program that uses the emulator. They hide the user's own AWS account.
const VARIABLES: [(&str, &str); 7] = [
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test"),
    ("AWS_REGION", "us-east-1"),
    ("AWS_DEFAULT_REGION", "us-east-1"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
    ("AWS_CONFIG_FILE", "/dev/null"),
    ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
];

/// A checkout of rdev: sources, template and scripts.
pub(super) struct Checkout(PathBuf);

/// The address of the emulator.
#[derive(Debug, Deserialize)]
pub(super) struct Address {
    endpoint: String,
    /// A folder with a `python3` that has boto3.
    programs: PathBuf,
}

/// A deployed stack.
#[derive(Debug)]
pub(super) struct Deployed {
    /// The emulator.
    pub(super) endpoint: String,
    /// The API.
    pub(super) url: String,
    /// The table's name.
    pub(super) table: String,
    /// The queue of wake-ups.
    pub(super) queue_url: String,
    /// The dead-letter queue.
    pub(super) dead_queue_url: String,
}

impl Checkout {
    /// The checkout that contains the working folder.
    pub(super) fn find() -> anyhow::Result<Self> {
        let here = std::env::current_dir().context("cannot read the working folder")?;
        let found = here.ancestors().find(|folder| folder.join("infra/template.yaml").is_file());
        let why = "local-aws needs rdev's sources: run it in a checkout";
        found.map(|root| Self(root.to_owned())).ok_or_else(|| UsageError(why.to_owned()).into())
    }

    /// Its top folder.
    pub(super) fn root(&self) -> &Path {
        &self.0
    }

    /// A script of `infra/local`.
    pub(super) fn script(&self, name: &str) -> PathBuf {
        self.0.join("infra/local").join(name)
    }

    /// The folder with the functions: the one in `RDEV_LOCAL_FUNCTIONS`, else builds them.
    pub(super) async fn functions(&self, environment: &Environment) -> anyhow::Result<PathBuf> {
        if let Some(folder) = named(environment, "RDEV_LOCAL_FUNCTIONS")? {
            return Ok(folder);
        }
        let folder = self.0.join("target/lambda");
        out::note("building the functions; the first time takes minutes");
        let mut build = Command::new("cargo");
        build
            .args(["lambda", "build", "--profile", "lambda"])
            .args(["-p", "rdev-functions", "--features", "lambda", "--lambda-dir"])
            .arg(&folder)
            .env("PATH", self.path_with_cargo_lambda().await?);
        self.run(&mut build, "cargo lambda build").await?;
        Ok(folder)
    }

    /// The runner's program: the one in `RDEV_LOCAL_RUNNER`, else builds it.
    pub(super) async fn runner(&self, environment: &Environment) -> anyhow::Result<PathBuf> {
        if let Some(program) = named(environment, "RDEV_LOCAL_RUNNER")? {
            return Ok(program);
        }
        out::note("building the runner");
        let mut build = Command::new("cargo");
        build.args(["build", "-p", "rdev-runner", "--features", "aws", "--bin", "rdev-runner"]);
        self.run(&mut build, "cargo build").await?;
        let target = environment.path("CARGO_TARGET_DIR");
        let target = target.unwrap_or_else(|| PathBuf::from("target"));
        Ok(self.0.join(target).join("debug/rdev-runner"))
    }

    /// Installs cargo-lambda from PyPI the first time.
    pub(super) async fn path_with_cargo_lambda(&self) -> anyhow::Result<OsString> {
        let mut install = Command::new("python3");
        install.arg(self.script("tools.py")).arg("cargo-lambda");
        let programs = output(&mut install, "tools.py").await?;
        path_with(Path::new(programs.trim()))
    }

    /// Runs a command in the checkout and shows its output to the user.
    pub(super) async fn run(&self, command: &mut Command, name: &str) -> anyhow::Result<()> {
        command.current_dir(&self.0).stdin(Stdio::null()).stdout(std::io::stderr());
        let status = command.kill_on_drop(true).status().await;
        let status = status.with_context(|| format!("cannot run {name}"))?;
        if !status.success() {
            bail!("{name} failed");
        }
        Ok(())
    }
}

impl Deployed {
    /// Sets the variables that connect a program with the stack.
    pub(super) fn connect(&self, command: &mut Command) {
        use_emulator(command, &self.endpoint);
        command.env("RDEV_TABLE", &self.table).env("RDEV_QUEUE_URL", &self.queue_url);
    }
}

/// Starts the emulator, which is installed from PyPI the first time. It writes below `folder`.
pub(super) async fn emulator(
    checkout: &Checkout,
    folder: &Path,
) -> anyhow::Result<(ChildProcess, Address)> {
    // The files of an earlier emulator would only disturb this one.
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", folder.display()));
        }
        _ => {}
    }
    let mut command = Command::new("python3");
    command.arg(checkout.script("emulator.py")).arg(folder).stdout(Stdio::piped());
    let mut emulator =
        ChildProcess::spawn(&mut command).context("cannot run python3: install Python 3")?;
    let output = emulator.stdout().context("the emulator has no output")?;
    let line = BufReader::new(output).lines().next_line().await;
    let line = line.context("the emulator's output cannot be read")?;
    let line = line.context("the emulator did not start")?;
    let address = serde_json::from_str(&line).context("the emulator printed no address")?;
    Ok((emulator, address))
}

/// Deploys `infra/template.yaml`.
pub(super) async fn template(
    checkout: &Checkout,
    address: &Address,
    functions: &Path,
    agent: AgentName,
) -> anyhow::Result<Deployed> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Outputs {
        api_url: String,
        table_name: String,
        queue_url: String,
        dead_queue_url: String,
    }
    let mut command = Command::new(checkout.script("deploy.sh"));
    command
        .args([&address.endpoint, STACK])
        .arg(functions)
        .arg(format!("DefaultAgent={agent}"))
        .env("PATH", path_with(&address.programs)?);
    use_emulator(&mut command, &address.endpoint);
    let outputs: Outputs = json_output(&mut command, "deploy.sh").await?;
    Ok(Deployed {
        endpoint: address.endpoint.clone(),
        url: outputs.api_url,
        table: outputs.table_name,
        queue_url: outputs.queue_url,
        dead_queue_url: outputs.dead_queue_url,
    })
}

/// Creates the admin key as a deployer does, with this program.
pub(super) async fn first_key(deployed: &Deployed) -> anyhow::Result<Secret> {
    #[derive(Deserialize)]
    struct NewKey {
        key: Secret,
    }
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command.args(["key", "bootstrap", "--json", "--name", "local admin", "--table"]);
    command.arg(&deployed.table);
    use_emulator(&mut command, &deployed.endpoint);
    let new: NewKey = json_output(&mut command, "key bootstrap").await?;
    Ok(new.key)
}

/// Makes a program use the emulator.
fn use_emulator(command: &mut Command, endpoint: &str) {
    command.envs(VARIABLES).env("AWS_ENDPOINT_URL", endpoint);
    for name in ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_DYNAMODB"] {
        command.env_remove(name);
    }
    command.env_remove("AWS_ENDPOINT_URL_SQS");
}

async fn json_output<T: DeserializeOwned>(command: &mut Command, name: &str) -> anyhow::Result<T> {
    let text = output(command, name).await?;
    // The output may contain a key.
    serde_json::from_str(&text).map_err(|_| anyhow::anyhow!("{name} printed unexpected output"))
}

/// The standard output of a command; its standard error goes to ours.
async fn output(command: &mut Command, name: &str) -> anyhow::Result<String> {
    let context = || format!("cannot run {name}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().with_context(context)?;
    let finished = child.wait_with_output().await.with_context(context)?;
    if !finished.status.success() {
        bail!("{name} failed");
    }
    String::from_utf8(finished.stdout).with_context(|| format!("{name} printed no text"))
}

/// `PATH` with another folder at the front.
fn path_with(folder: &Path) -> anyhow::Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(all).context("PATH cannot be extended")
}
