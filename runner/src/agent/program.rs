//! Finds an agent's program, and its version.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf, absolute};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::spec::AgentName;
use tokio_util::sync::CancellationToken;

use super::AgentRequest;
use crate::config::AgentSettings;
use crate::process::{self, Ended, Exit, Flow, Launch, Limits, Marker, Stream};

/// The time limit for `--version`.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

/// The absolute path of the configured program, or of the agent's usual one in `PATH`.
pub(super) fn find(
    agent: AgentName,
    usual: Option<&str>,
    settings: &AgentSettings,
) -> Result<PathBuf, Failure> {
    let invalid = |message| Failure::new(FailureClass::Invalid, message);
    let program = settings.program.clone().or_else(|| usual.map(PathBuf::from));
    let program = program.ok_or_else(|| {
        invalid(format!("no program is configured for {agent}: set agents.{agent}.program"))
    })?;
    let found = if program.components().count() > 1 {
        absolute(&program).ok().filter(|path| executable(path))
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(&program))
            .find(|path| executable(path))
    };
    found.ok_or_else(|| {
        invalid(format!(
            "{} is not installed or not executable: install {agent}, or set agents.{agent}.program",
            program.display()
        ))
    })
}

fn executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The version that `program --version` prints. It is called once per file. `None`: no version.
pub(super) async fn version(
    program: &Path,
    env: &[(OsString, OsString)],
    request: &AgentRequest<'_>,
    stop: &CancellationToken,
) -> Option<String> {
    type Known = Mutex<HashMap<(PathBuf, SystemTime), String>>;
    static KNOWN: LazyLock<Known> = LazyLock::new(Known::default);
    let key = (program.to_owned(), fs::metadata(program).ok()?.modified().ok()?);
    if let Some(known) = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Some(known.clone());
    }
    let launch = Launch {
        program: program.to_owned(),
        args: vec!["--version".into()],
        env: env.to_vec(),
        // Not in the checkout: the program might read settings there.
        cwd: request.home.to_owned(),
        stdin: None,
        marker: Marker::new(request.attempt_dir),
        grace: Duration::ZERO,
    };
    let limits = Limits { deadline: Instant::now() + VERSION_TIMEOUT, stall: None };
    let mut version = None;
    let ended = process::run(launch, limits, stop, |stream, line| {
        if stream == Stream::Stdout && version.is_none() {
            version = version_in(line);
        }
        Flow::Continue
    })
    .await;
    let version = version.filter(|_| matches!(ended, Ok(Ended::Exited(Exit::SUCCESS))))?;
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(key, version.clone());
    Some(version)
}

/// The first word that begins with a digit.
fn version_in(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    words.find(|word| word.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_among_words() {
        for (line, version) in [
            ("codex-cli 0.169.0", "0.169.0"),
            ("1.18.33", "1.18.33"),
            ("2.1.330 (Claude Code)", "2.1.330"),
        ] {
            assert_eq!(version_in(line).as_deref(), Some(version));
        }
        assert_eq!(version_in("no idea"), None);
    }
}
