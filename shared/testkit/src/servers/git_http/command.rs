//! The `git` program, without anybody's configuration.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// An empty HOME for all commands of the process.
fn home() -> &'static Path {
    static HOME: OnceLock<TempDir> = OnceLock::new();
    HOME.get_or_init(|| TempDir::new().expect("an empty HOME for git")).path()
}

/// A command that sees nothing of the user's environment but `PATH`.
pub(super) fn clean(program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home())
        .env("LC_ALL", "C")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_AUTHOR_NAME", "A Person")
        .env("GIT_AUTHOR_EMAIL", "person@example.com")
        .env("GIT_COMMITTER_NAME", "A Person")
        .env("GIT_COMMITTER_EMAIL", "person@example.com");
    command
}

/// `git` in `folder`, without the machine's configuration, ready for its arguments.
pub fn git_command(folder: &Path) -> Command {
    let mut command = clean(OsStr::new("git"));
    command.current_dir(folder);
    command
}

/// Runs git; what it printed, trimmed, or what it said when it failed.
///
/// # Errors
/// git's own words, when its exit status is not 0.
pub fn try_git(folder: &Path, args: &[&str]) -> Result<String, String> {
    let output = git_command(folder).args(args).output().expect("git is installed");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Runs git; what it printed, trimmed. Panics when it fails.
pub fn git(folder: &Path, args: &[&str]) -> String {
    match try_git(folder, args) {
        Ok(printed) => printed,
        Err(said) => panic!("git {args:?} in {} failed: {said}", folder.display()),
    }
}
