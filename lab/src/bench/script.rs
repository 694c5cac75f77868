//! The script that a person would write.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdev_testkit::servers::git_http::git_command;
use tokio::process::Command;

use super::Work;
use super::forge::Forge;

/// What it does. `$1`: the repository.
const SCRIPT: &str = r#"
set -e
git clone --quiet $DEPTH "$1" work
cd work
/bin/sh -c 'eval "$RDEV_PROMPT"'
if [ -n "$VERIFY" ]; then /bin/sh -c "$VERIFY"; fi
git add --all
git commit --quiet --message "$RDEV_PROMPT"
git push --quiet origin HEAD
"#;

/// Runs it; how long it took.
pub(super) async fn run(
    folder: &Path,
    forge: &Forge,
    depth: Option<u32>,
    work: &Work,
) -> Result<Duration> {
    let folder = folder.join("script");
    tokio::fs::create_dir(&folder).await.context("cannot make the script's folder")?;
    // The environment of git without anybody's configuration.
    let git = git_command(&folder);
    let mut command = Command::new("/bin/sh");
    command.env_clear();
    for (name, value) in git.get_envs() {
        command.envs(value.map(|value| (name, value)));
    }
    let depth = depth.map(|depth| format!("--depth={depth}")).unwrap_or_default();
    command
        .args(["-c", SCRIPT, "script", &forge.url_of_script()])
        .current_dir(&folder)
        // The login is sent with the first request, and not only after a refusal.
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "http.extraHeader")
        .env("GIT_CONFIG_VALUE_0", format!("Authorization: {}", forge.login()))
        .env("DEPTH", depth)
        .env("RDEV_PROMPT", &work.prompt)
        .env("VERIFY", work.verify.as_deref().unwrap_or_default())
        .stdin(Stdio::null());
    let begun = Instant::now();
    let output = command.output().await.context("cannot run the script")?;
    let took = begun.elapsed();
    if !output.status.success() {
        bail!("the script failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    tokio::fs::remove_dir_all(&folder).await.context("cannot remove the script's folder")?;
    Ok(took)
}
