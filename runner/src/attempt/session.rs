//! Agent sessions that are kept after their attempt, for `continue_from`.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rdev_domain::ids::TaskId;
use tracing::warn;

use super::folder::{copy_missing, private_folder, read_folder, read_note};
use super::trash::Trash;
use crate::config::Folders;

/// Keeps the agent's session of a finished task for `continue_from`.
pub(crate) fn keep_session(
    folders: &Folders,
    trash: &Trash,
    home: &Path,
    key: &str,
    task: TaskId,
) -> Result<()> {
    let folder = folders.sessions.join(task.to_string());
    trash.discard(&folder)?;
    private_folder(&folder)?;
    fs::write(folder.join("key"), key).context("cannot write the session's key")?;
    fs::rename(home, folder.join("home")).context("cannot keep the agent's session")?;
    // Verification after a rebase still needs a HOME.
    private_folder(home)
}

/// The name under `work/` that the session of `task` is bound to. `None`: this machine does not
/// have the session, or no longer.
pub(crate) fn session_key(folders: &Folders, task: TaskId) -> Option<String> {
    let key = read_note(&folders.sessions.join(task.to_string()).join("key")).ok()?;
    key.parse::<TaskId>().ok().map(|id| id.to_string())
}

/// Copies the session of `task` to the HOME of a workspace.
pub(crate) fn restore_session(folders: &Folders, home: &Path, task: TaskId) -> Result<()> {
    let from = folders.sessions.join(task.to_string()).join("home");
    copy_missing(&from, home).context("cannot restore the agent's session")
}

/// Removes sessions older than `keep`.
pub(crate) fn expire_sessions(folders: &Folders, trash: &Trash, keep: Duration) {
    for folder in read_folder(&folders.sessions).unwrap_or_default() {
        let age = fs::metadata(&folder).and_then(|meta| meta.modified());
        let old =
            age.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > keep));
        if old && let Err(error) = trash.discard(&folder) {
            warn!(error = format!("{error:#}"), "an old agent session was not removed");
        }
    }
}
