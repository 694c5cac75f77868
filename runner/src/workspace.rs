//! The folders of an attempt, the work that must outlive them, and agent sessions.
//!
//! ```text
//! work/<key>/checkout      the files the agent sees, with a disposable .git
//! work/<key>/home, tmp     the agent's HOME and TMPDIR
//! work/<key>/git           the runner's own gitdir
//! work/<key>/finished      "<task> <fence> <commit>": committed, not yet safe on a remote
//! unpushed/<task>/<fence>  such a gitdir, kept after its attempt
//! sessions/<task>/home     what an agent needs to go on with a session
//! sessions/<task>/key      the folder's name under work/ that the session is bound to
//! ```
//!
//! `key` is the task's id, or that of the first task of a chain of
//! `continue_from`: some agents resume a session only at the path where it began.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rdev_domain::git::CommitId;
use rdev_domain::ids::{Fence, TaskId};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::attempt::Interrupt;
use crate::config::Folders;
use crate::git::Workdir;
use crate::process;

/// The folder of one attempt. Removed on drop, but for work that is not safe
/// on a remote yet: that goes to `unpushed/`.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    unpushed: PathBuf,
    _in_use: tokio::sync::OwnedMutexGuard<()>,
}

/// Which folders are in use by an attempt of this process.
#[derive(Debug, Default)]
pub(crate) struct InUse(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Workspace {
    /// An empty folder named `key`; waits until an earlier attempt has left it.
    pub(crate) async fn create(
        folders: &Folders,
        in_use: &InUse,
        key: &str,
        stop: &CancellationToken,
    ) -> Result<Self, Interrupt> {
        let lock = {
            let mut locks = in_use.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(key.to_owned()).or_default())
        };
        let guard = tokio::select! {
            guard = lock.lock_owned() => guard,
            () = stop.cancelled() => return Err(Interrupt::Stopped),
        };
        let root = folders.work.join(key);
        salvage(&root, &unpushed_folder(folders))?;
        remove(&root)?;
        for folder in [root.join("home"), root.join("tmp")] {
            private_folder(&folder)?;
        }
        Ok(Self { root, unpushed: unpushed_folder(folders), _in_use: guard })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn workdir(&self) -> Workdir {
        Workdir { gitdir: self.root.join("git"), checkout: self.root.join("checkout") }
    }

    /// Notes that `commit` exists nowhere but here.
    pub(crate) fn mark_finished(
        &self,
        task: TaskId,
        fence: Fence,
        commit: &CommitId,
    ) -> Result<()> {
        let path = self.root.join("finished");
        fs::write(&path, format!("{task} {fence} {commit}"))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Notes that it is safe on a remote, or of no use any more.
    pub(crate) fn mark_safe(&self) -> Result<()> {
        match fs::remove_file(self.root.join("finished")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("cannot remove the mark of unpushed work")
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // What cannot be saved stays where it is, for the next start to try again.
        let gone = salvage(&self.root, &self.unpushed).and_then(|()| remove(&self.root));
        if let Err(error) = gone {
            warn!(folder = %self.root.display(), error = format!("{error:#}"), "a workspace was not removed");
        }
    }
}

/// Before a runner takes work: kills what an earlier process left running,
/// saves its unpushed work, and empties `work/`.
pub(crate) fn clean_start(folders: &Folders) -> Result<()> {
    for folder in [&folders.work, &folders.cache, &folders.sessions, &unpushed_folder(folders)] {
        private_folder(folder)?;
    }
    let killed = process::kill_leftovers(&folders.work);
    if killed > 0 {
        info!(killed, "killed what an earlier process of this runner had left running");
    }
    for entry in read_folder(&folders.work)? {
        salvage(&entry, &unpushed_folder(folders))?;
        remove(&entry)?;
    }
    Ok(())
}

/// A commit of an earlier attempt of `task` that is only on this machine.
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

/// Makes the objects of an unpushed gitdir readable from `workdir`'s.
pub(crate) fn borrow_objects(workdir: &Workdir, unpushed: &Path) -> Result<()> {
    let objects = workdir.gitdir.join("objects");
    copy_missing(&unpushed.join("objects"), &objects)
        .with_context(|| format!("cannot read the unpushed work in {}", unpushed.display()))
}

/// Forgets the unpushed work of a task: it is delivered, or of no use any more.
pub(crate) fn forget_unpushed(folders: &Folders, task: TaskId) {
    let folder = unpushed_folder(folders).join(task.to_string());
    if let Err(error) = remove(&folder) {
        warn!(error = format!("{error:#}"), "unpushed work was not removed");
    }
}

/// The tasks that have unpushed work here.
pub(crate) fn tasks_with_unpushed(folders: &Folders) -> Vec<TaskId> {
    let entries = read_folder(&unpushed_folder(folders)).unwrap_or_default();
    entries.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect()
}

/// Keeps the agent's session of a finished task for `continue_from`.
pub(crate) fn keep_session(
    folders: &Folders,
    workspace: &Workspace,
    key: &str,
    task: TaskId,
) -> Result<()> {
    let folder = folders.sessions.join(task.to_string());
    remove(&folder)?;
    private_folder(&folder)?;
    fs::write(folder.join("key"), key).context("cannot write the session's key")?;
    fs::rename(workspace.home(), folder.join("home")).context("cannot keep the agent's session")?;
    // Verification after a rebase still needs a HOME.
    private_folder(&workspace.home())
}

/// The name under `work/` that the session of `task` is bound to; `None` when
/// the session is not (or no longer) on this machine.
pub(crate) fn session_key(folders: &Folders, task: TaskId) -> Option<String> {
    let key = fs::read_to_string(folders.sessions.join(task.to_string()).join("key")).ok()?;
    key.parse::<TaskId>().ok().map(|id| id.to_string())
}

/// Puts the session of `task` into a workspace's HOME.
pub(crate) fn restore_session(
    folders: &Folders,
    workspace: &Workspace,
    task: TaskId,
) -> Result<()> {
    let from = folders.sessions.join(task.to_string()).join("home");
    copy_missing(&from, &workspace.home()).context("cannot restore the agent's session")
}

/// Removes sessions that were kept for longer than `keep`.
pub(crate) fn expire_sessions(folders: &Folders, keep: Duration) {
    for folder in read_folder(&folders.sessions).unwrap_or_default() {
        let age = fs::metadata(&folder).and_then(|meta| meta.modified());
        let old =
            age.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > keep));
        if old && let Err(error) = remove(&folder) {
            warn!(error = format!("{error:#}"), "an old agent session was not removed");
        }
    }
}

/// Moves an attempt's gitdir to `unpushed/` if it holds a commit that is
/// nowhere else. May be repeated after a crash at any line of it.
fn salvage(root: &Path, unpushed: &Path) -> Result<()> {
    let Some((task, fence, _)) = read_finished(root) else {
        return Ok(());
    };
    let to = unpushed.join(task.to_string()).join(fence.to_string());
    private_folder(&to)?;
    if root.join("git").exists() {
        remove(&to.join("git"))?;
        fs::rename(root.join("git"), to.join("git")).context("cannot keep an unpushed commit")?;
    }
    fs::rename(root.join("finished"), to.join("finished"))
        .context("cannot keep the mark of an unpushed commit")?;
    info!(%task, %fence, "kept a commit that is not on its remote yet");
    Ok(())
}

fn read_finished(folder: &Path) -> Option<(TaskId, Fence, CommitId)> {
    let text = fs::read_to_string(folder.join("finished")).ok()?;
    let mut words = text.split(' ');
    let (task, fence, commit) = (words.next()?, words.next()?, words.next()?);
    Some((task.parse().ok()?, Fence(fence.parse().ok()?), commit.parse().ok()?))
}

fn unpushed_folder(folders: &Folders) -> PathBuf {
    folders.work.with_file_name("unpushed")
}

/// Creates a folder that only its owner may enter.
fn private_folder(folder: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot create {}", folder.display()))
}

/// Removes a folder (or nothing), also one whose inner folders an agent made read-only.
fn remove(folder: &Path) -> Result<()> {
    let gone = |outcome: io::Result<()>| match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    if gone(fs::remove_dir_all(folder)).is_ok() {
        return Ok(());
    }
    make_writable(folder);
    gone(fs::remove_dir_all(folder)).with_context(|| format!("cannot remove {}", folder.display()))
}

fn make_writable(folder: &Path) {
    let is_folder = fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir());
    if !is_folder {
        return;
    }
    // What cannot be changed shows in the removal that follows.
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in read_folder(folder).unwrap_or_default() {
        make_writable(&entry);
    }
}

fn read_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let read =
        || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    read().with_context(|| format!("cannot read {}", folder.display()))
}

/// Copies what `to` does not have yet. Symbolic links are copied as links;
/// sockets and the like are left out.
fn copy_missing(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_missing(&entry.path(), &target)?;
        } else if fs::symlink_metadata(&target).is_ok() {
            continue;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(data: &Path) -> Folders {
        Folders {
            work: data.join("work"),
            cache: data.join("cache"),
            sessions: data.join("sessions"),
            repositories: None,
        }
    }

    #[tokio::test]
    async fn a_workspace_goes_with_its_attempt_but_a_commit_that_is_nowhere_else_stays() {
        let data = tempfile::tempdir().expect("a folder");
        let (folders, in_use) = (folders(data.path()), InUse::default());
        let stop = CancellationToken::new();
        clean_start(&folders).expect("a clean start");
        let task: TaskId = "01JDGZ2V9QK8M3T5X7Y9ABCDEF".parse().expect("a ULID");
        let commit: CommitId = "a".repeat(40).parse().expect("a commit");
        for (fence, safe) in [(1, true), (2, false)] {
            let workspace =
                Workspace::create(&folders, &in_use, "k", &stop).await.expect("a workspace");
            fs::create_dir_all(workspace.workdir().gitdir.join("objects")).expect("a gitdir");
            workspace.mark_finished(task, Fence(fence), &commit).expect("a mark");
            if safe {
                workspace.mark_safe().expect("safe");
            }
            drop(workspace);
            assert_eq!(find_unpushed(&folders, task, Fence(0)).is_some(), !safe, "fence {fence}");
        }
        assert!(find_unpushed(&folders, task, Fence(2)).is_none(), "below the floor");
        assert_eq!(tasks_with_unpushed(&folders), [task]);
        assert!(read_folder(&folders.work).expect("work").is_empty());
        forget_unpushed(&folders, task);
        assert!(tasks_with_unpushed(&folders).is_empty());
    }

    #[tokio::test]
    async fn a_second_attempt_waits_for_the_folder_and_read_only_folders_are_removed() {
        let data = tempfile::tempdir().expect("a folder");
        let (folders, in_use) = (folders(data.path()), InUse::default());
        let stop = CancellationToken::new();
        clean_start(&folders).expect("a clean start");
        let first = Workspace::create(&folders, &in_use, "k", &stop).await.expect("a workspace");
        let locked = first.root().join("checkout/locked");
        fs::create_dir_all(&locked).expect("a folder");
        fs::write(locked.join("file"), "x").expect("a file");
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).expect("read-only");
        let second = Workspace::create(&folders, &in_use, "k", &stop);
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        let second = second.await.expect("a workspace");
        assert!(!second.root().join("checkout").exists());
    }
}
