//! The real agents, at the versions that the runner was written for.
//!
//! Each ships a native binary in a package per platform. Only that package is installed, once per
//! version, below the user's cache folder; its scripts are not run.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

use crate::tools::needs::NotRun;

/// An agent with a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cli {
    /// `claude`, proprietary, 364 MB.
    ClaudeCode,
    /// `opencode`, MIT, 177 MB.
    Opencode,
    /// `codex`, Apache-2.0, 404 MB.
    Codex,
}

impl Cli {
    pub const ALL: [Self; 3] = [Self::ClaudeCode, Self::Opencode, Self::Codex];

    /// The name of its program.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude",
            Self::Opencode => "opencode",
            Self::Codex => "codex",
        }
    }

    /// The version that is installed.
    pub fn version(self) -> &'static str {
        match self {
            Self::ClaudeCode => "2.1.330",
            Self::Opencode => "1.18.33",
            Self::Codex => "0.169.0",
        }
    }

    /// The package for this machine, as npm names it.
    fn package(self) -> Result<String> {
        ensure!(cfg!(target_os = "linux"), "Linux");
        let arch = match env::consts::ARCH {
            "x86_64" => "x64",
            "aarch64" => "arm64",
            other => bail!("a processor that the agents are built for, not {other}"),
        };
        let musl = if musl() { "-musl" } else { "" };
        let version = self.version();
        Ok(match self {
            Self::ClaudeCode => format!("@anthropic-ai/claude-code-linux-{arch}{musl}@{version}"),
            Self::Opencode => {
                let baseline = if arch == "x64" && !avx2() { "-baseline" } else { "" };
                format!("opencode-linux-{arch}{baseline}{musl}@{version}")
            }
            // Its builds are static.
            Self::Codex => format!("@openai/codex@{version}-linux-{arch}"),
        })
    }

    /// The program within its package.
    fn program(self) -> PathBuf {
        match self {
            Self::ClaudeCode => "claude".into(),
            Self::Opencode => "bin/opencode".into(),
            Self::Codex => {
                format!("vendor/{}-unknown-linux-musl/bin/codex", env::consts::ARCH).into()
            }
        }
    }
}

/// The program of `cli`, installed when it is not there yet. Safe to call from several
/// processes at once; each process tries once.
///
/// # Errors
/// [`NotRun`] when it cannot be installed: no npm, no network, no room.
pub fn installed(cli: Cli) -> Result<&'static Path, NotRun> {
    static PROGRAMS: [OnceLock<Result<PathBuf, NotRun>>; 3] = [const { OnceLock::new() }; 3];
    let program = PROGRAMS[cli as usize].get_or_init(|| {
        install(cli).map_err(|error| {
            let (name, version) = (cli.name(), cli.version());
            NotRun::needs(format!("{name} {version} from the npm registry ({error:#})"))
        })
    });
    program.as_deref().map_err(Clone::clone)
}

fn install(cli: Cli) -> Result<PathBuf> {
    let package = cli.package()?;
    let agents = cache_folder()?.join("rdev").join("agents");
    let name = format!("{}-{}", cli.name(), cli.version());
    let folder = agents.join(&name);
    let program = folder.join(cli.program());
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(&agents).with_context(|| format!("cannot create {}", agents.display()))?;
    let lock = File::create(agents.join(format!("{name}.lock"))).context("cannot create a lock")?;
    lock.lock().context("cannot lock")?;
    if program.is_file() {
        return Ok(program);
    }
    let fresh = agents.join(format!("{name}.new"));
    remove(&fresh)?;
    let outcome = fetch(cli, &package, &fresh).and_then(|unpacked| {
        remove(&folder)?;
        fs::rename(unpacked, &folder).context("cannot put the package in its place")
    });
    remove(&fresh)?;
    outcome?;
    Ok(program)
}

/// Installs into `folder` and returns where the package is in it.
fn fetch(cli: Cli, package: &str, folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let output = Command::new("npm")
        .args(["install", "--ignore-scripts", "--no-save", "--no-package-lock", "--no-audit"])
        .args(["--no-fund", "--loglevel=error", "--fetch-retries=2", "--fetch-timeout=60000"])
        // Its own cache would keep a second copy.
        .arg("--cache")
        .arg(folder.join("cache"))
        .arg("--prefix")
        .arg(folder)
        .arg(format!("agent@npm:{package}"))
        .stdin(Stdio::null())
        .output()
        .context("cannot run npm: install Node.js")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().filter(|line| line.contains("error")).take(4).collect();
    ensure!(output.status.success(), "npm could not install {package}: {}", said.join("; "));
    let unpacked = folder.join("node_modules").join("agent");
    let program = unpacked.join(cli.program());
    let mode = fs::metadata(&program)
        .with_context(|| format!("{package} has no {}", cli.program().display()))?
        .permissions()
        .mode();
    fs::set_permissions(&program, fs::Permissions::from_mode(mode | 0o755))
        .context("cannot make the program executable")?;
    Ok(unpacked)
}

pub(crate) fn cache_folder() -> Result<PathBuf> {
    let named = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    named.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")
}

pub(crate) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Whether this machine's programs use musl as their C library.
fn musl() -> bool {
    let loader = format!("/lib/ld-musl-{}.so.1", env::consts::ARCH);
    let glibc = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    Path::new(&loader).exists() && !glibc.iter().any(|path| Path::new(path).exists())
}

fn avx2() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("avx2"))
}
