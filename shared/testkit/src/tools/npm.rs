//! `npm ci` in tests: what is installed is kept in a cache below the user's cache folder, so that
//! only the first run needs the registry.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::tools::agents::cache_folder;
use crate::tools::needs::NotRun;

/// What npm says when it cannot have a package, and the lock file is not to blame.
const AWAY: [&str; 10] = [
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ENETUNREACH",
    "ENOTCACHED",
    "ENOTFOUND",
    "ENOSPC",
    "ETIMEDOUT",
    "ERR_SOCKET_TIMEOUT",
    "FETCH_ERROR",
];

/// Where npm keeps what it has fetched for tests: `npm_config_cache` of a program that runs it.
///
/// # Errors
/// [`NotRun`] without a home.
pub fn cache() -> Result<PathBuf, NotRun> {
    let folder =
        cache_folder().map_err(|error| NotRun::needs(format!("a cache folder ({error:#})")))?;
    Ok(folder.join("rdev").join("npm"))
}

/// Installs what the lock file of `folder` names. Safe to call from several processes at once.
///
/// # Errors
/// [`NotRun`] when npm or what it fetches cannot be had: no npm, no network, no room.
///
/// # Panics
/// When the installation fails by itself, with what npm said.
pub fn ci(folder: &Path) -> Result<(), NotRun> {
    let output = Command::new("npm")
        .args(["ci", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error"])
        .args(["--fetch-retries=2", "--fetch-timeout=60000"])
        .arg("--cache")
        .arg(cache()?)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| NotRun::needs(format!("npm, which comes with Node.js ({error})")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if AWAY.iter().any(|code| said.contains(code)) {
        let lines: Vec<&str> = said.lines().take(4).collect();
        return Err(NotRun::needs(format!(
            "packages from the npm registry ({})",
            lines.join("; ")
        )));
    }
    panic!("npm ci fails in {}: {said}", folder.display());
}
