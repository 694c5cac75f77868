//! Commits that are on no server yet: the runner keeps them when their attempt ends.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rdev_domain::git::CommitId;
use rdev_domain::ids::{Fence, TaskId};
use rdev_removal::make_writable;
use tracing::{info, warn};

use super::folder::{copy_missing, private_folder, read_folder, read_note};
use super::trash::Trash;
use crate::config::Folders;
use crate::git::Workdir;

/// Finds the newest commit of `task` that exists only on this machine, with a fence above `above`.
pub(crate) fn find_unpushed(
    folders: &Folders,
    task: TaskId,
    above: Fence,
) -> Option<(Fence, CommitId, PathBuf)> {
    let attempts = read_folder(&unpushed_folder(folders).join(task.to_string())).ok()?;
    attempts
        .into_iter()
        .filter_map(|folder| {
            let (_, fence, commit) = read_finished(&folder)?;
            (fence > above).then_some((fence, commit, folder.join("git")))
        })
        .max_by_key(|(fence, ..)| *fence)
}

/// Copies the objects of an unpushed gitdir into the gitdir of `workdir`.
pub(crate) fn borrow_objects(workdir: &Workdir, unpushed: &Path) -> Result<()> {
    let objects = workdir.gitdir.join("objects");
    copy_missing(&unpushed.join("objects"), &objects)
        .with_context(|| format!("cannot read the unpushed work in {}", unpushed.display()))
}

/// Removes the unpushed work of a task: it is delivered, or nobody needs it any more.
pub(crate) fn forget_unpushed(folders: &Folders, trash: &Trash, task: TaskId) {
    let folder = unpushed_folder(folders).join(task.to_string());
    if let Err(error) = trash.discard(&folder) {
        warn!(error = format!("{error:#}"), "unpushed work was not removed");
    }
}

/// The tasks with unpushed work on this machine.
pub(crate) fn tasks_with_unpushed(folders: &Folders) -> Vec<TaskId> {
    let entries = read_folder(&unpushed_folder(folders)).unwrap_or_default();
    entries.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect()
}

/// Records that `commit` exists only in the workspace at `root`.
pub(crate) fn record_finished(
    root: &Path,
    task: TaskId,
    fence: Fence,
    commit: &CommitId,
) -> Result<()> {
    let path = root.join("finished");
    fs::write(&path, format!("{task} {fence} {commit}"))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Removes that record.
pub(crate) fn clear_finished(root: &Path) -> Result<()> {
    match fs::remove_file(root.join("finished")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context("cannot remove the record of unpushed work")
        }
        _ => Ok(()),
    }
}

/// Moves an attempt's gitdir to `unpushed/` if it has a commit that exists nowhere else. It can
/// be repeated after a crash at any line.
pub(super) fn salvage(root: &Path, unpushed: &Path, trash: &Trash) -> Result<()> {
    let Some((task, fence, _)) = read_finished(root) else {
        return Ok(());
    };
    let to = unpushed.join(task.to_string()).join(fence.to_string());
    private_folder(&to)?;
    // What moves out of it must be writable, and so must what moves. If not, moving says why.
    for folder in [root, &root.join("git")] {
        let _ = make_writable(folder);
    }
    if root.join("git").exists() {
        trash.discard(&to.join("git"))?;
        fs::rename(root.join("git"), to.join("git")).context("cannot keep an unpushed commit")?;
    }
    fs::rename(root.join("finished"), to.join("finished"))
        .context("cannot keep the record of an unpushed commit")?;
    info!(%task, %fence, "kept a commit that is not on its remote yet");
    Ok(())
}

fn read_finished(folder: &Path) -> Option<(TaskId, Fence, CommitId)> {
    let text = read_note(&folder.join("finished")).ok()?;
    let mut words = text.split(' ');
    let (task, fence, commit) = (words.next()?, words.next()?, words.next()?);
    Some((task.parse().ok()?, Fence(fence.parse().ok()?), commit.parse().ok()?))
}

pub(super) fn unpushed_folder(folders: &Folders) -> PathBuf {
    folders.work.with_file_name("unpushed")
}
