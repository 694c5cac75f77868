//! Tools from PyPI, at fixed versions, installed once below the user's cache folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::tools::agents::{cache_folder, remove};
use crate::tools::needs::NotRun;

/// A set of packages in an environment of its own.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// The environment's name; another set of packages needs another one.
    pub name: &'static str,
    /// What `pip install` gets, each pinned.
    pub packages: &'static [&'static str],
}

/// The AWS emulator: SQS, DynamoDB, Lambda, HTTP APIs, CloudFormation with the SAM transform.
pub const MINISTACK: Tool = Tool {
    name: "ministack-1.5.33",
    packages: &["ministack==1.5.33", "aws-sam-translator==1.115.0"],
};

/// Builds the Lambda functions.
pub const CARGO_LAMBDA: Tool =
    Tool { name: "cargo-lambda-1.9.2", packages: &["cargo-lambda==1.9.2", "ziglang==0.17.1"] };

/// Checks and deploys the SAM template; cfn-lint comes with it.
pub const SAM: Tool =
    Tool { name: "aws-sam-cli-1.170.0", packages: &["aws-sam-cli==1.170.0", "cfn-lint==1.58.0"] };

/// Checks Kubernetes manifests; it brings the schemas along.
pub const KUBERNETES_VALIDATE: Tool =
    Tool { name: "kubernetes-validate-1.37.0", packages: &["kubernetes-validate==1.37.0"] };

/// The folder with the tool's programs, installed when it is not there yet. Safe to call from
/// several processes at once.
///
/// # Errors
/// [`NotRun`] when it cannot be installed: no Python, no network, no room.
pub fn installed(tool: Tool) -> Result<PathBuf, NotRun> {
    install(tool).map_err(|error| {
        NotRun::needs(format!("{} from PyPI ({error:#})", tool.packages.join(", ")))
    })
}

fn install(tool: Tool) -> Result<PathBuf> {
    let tools = cache_folder()?.join("rdev").join("python");
    let folder = tools.join(tool.name);
    let (programs, ready) = (folder.join("bin"), folder.join("ready"));
    if ready.is_file() {
        return Ok(programs);
    }
    fs::create_dir_all(&tools).with_context(|| format!("cannot create {}", tools.display()))?;
    let lock = tools.join(format!("{}.lock", tool.name));
    let lock = File::create(lock).context("cannot create a lock")?;
    lock.lock().context("cannot lock")?;
    if ready.is_file() {
        return Ok(programs);
    }
    // Its programs name their own folder: it is made in its place, and marked when it is whole.
    remove(&folder)?;
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder), "python3 -m venv")?;
    let pip = folder.join("bin").join("pip");
    let mut command = Command::new(pip);
    command.args(["install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]);
    run(command.args(tool.packages), "pip install")?;
    File::create(&ready).context("cannot mark the environment as ready")?;
    Ok(programs)
}

fn run(command: &mut Command, name: &str) -> Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {name}: install Python 3"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().rev().take(4).collect();
    ensure!(output.status.success(), "{name} failed: {}", said.join("; "));
    Ok(())
}

/// `PATH` with the tool's programs before all others.
pub fn path_with(programs: &Path) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", programs.display())
}
