//! The folder of an attempt. This is where each file of attempts lies:
//!
//! ```text
//! work/<key>/checkout      the files the agent sees, with a disposable .git
//! work/<key>/home, tmp     the agent's HOME and TMPDIR
//! work/<key>/git           the runner's own gitdir
//! work/<key>/finished      "<task> <fence> <commit>": committed, but on no remote yet
//! trash/<key>-<random>     what is being removed
//! unpushed/<task>/<fence>  such a gitdir, kept after the end of its attempt
//! sessions/<task>/home     the files that an agent needs to continue a session
//! sessions/<task>/key      the folder's name under work/ that the session is bound to
//! ```
//!
//! `key` is the task's id, or that of the first task of a chain of
//! `continue_from`: some agents resume a session only at the path where it began.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use rdev_domain::git::CommitId;
use rdev_domain::ids::{Fence, TaskId};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::folder::{private_folder, read_folder};
use super::interrupt::Interrupt;
use super::trash::Trash;
use super::unpushed::{salvage, unpushed_folder};
use crate::config::Folders;
use crate::git::{self, Workdir};
use crate::machine::Machine;
use crate::process;

/// The folder of one attempt. It is removed on drop; a commit that is on no remote yet is moved
/// to `unpushed/` first.
pub(crate) struct Workspace {
    machine: Arc<dyn Machine>,
    root: PathBuf,
    _in_use: tokio::sync::OwnedMutexGuard<()>,
}

/// The folders that attempts of this process use now.
#[derive(Debug, Default)]
pub(crate) struct InUse(Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>);

impl Workspace {
    /// An empty folder. Waits until no other attempt uses it.
    pub(crate) async fn create(
        machine: Arc<dyn Machine>,
        root: PathBuf,
        in_use: &InUse,
        stop: &CancellationToken,
    ) -> Result<Self, Interrupt> {
        let lock = {
            let mut locks = in_use.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(root.clone()).or_default())
        };
        let guard = tokio::select! {
            biased;
            guard = lock.lock_owned() => guard,
            () = stop.cancelled() => return Err(Interrupt::Stopped),
        };
        machine.make_workspace(&root)?;
        Ok(Self { machine, root, _in_use: guard })
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

    /// Empties it.
    pub(crate) fn empty(&self) -> Result<()> {
        self.machine.make_workspace(&self.root)
    }

    /// Records that `commit` exists only here.
    pub(crate) fn record_finished(
        &self,
        task: TaskId,
        fence: Fence,
        commit: &CommitId,
    ) -> Result<()> {
        self.machine.record_finished(&self.root, task, fence, commit)
    }

    /// Removes that record: the commit is on a remote, or nobody needs it any more.
    pub(crate) fn clear_finished(&self) -> Result<()> {
        self.machine.clear_finished(&self.root)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // If this fails the folder stays; the next start of the runner tries again.
        if let Err(error) = self.machine.remove_workspace(&self.root) {
            warn!(folder = %self.root.display(), error = format!("{error:#}"), "a workspace was not removed");
        }
    }
}

/// Makes an empty workspace at `root`, on this machine.
pub(crate) fn make(folders: &Folders, trash: &Trash, root: &Path) -> Result<()> {
    remove(folders, trash, root)?;
    for folder in [root.join("home"), root.join("tmp")] {
        private_folder(&folder)?;
    }
    Ok(())
}

/// Takes the workspace at `root` away. Its files are removed later.
///
/// # Errors
/// When it is still there.
pub(crate) fn remove(folders: &Folders, trash: &Trash, root: &Path) -> Result<()> {
    let Err(error) = salvage(root, &unpushed_folder(folders), trash) else {
        return trash.discard(root);
    };
    // The next start tries to keep its commit again.
    if let Some(to) = trash.set_aside(root)? {
        warn!(folder = %to.display(), error = format!("{error:#}"), "a commit that is on no remote was not kept, so its workspace is set aside");
    }
    Ok(())
}

/// Before a runner claims work: kills processes that an earlier process of it has left, saves
/// its unpushed work, and empties `work/`. Nothing that a build has left makes it fail.
pub(crate) fn clean_start(folders: &Folders, trash: &Trash) -> Result<()> {
    for folder in [&folders.work, &folders.cache, &folders.sessions, &unpushed_folder(folders)] {
        private_folder(folder)?;
    }
    let killed = process::kill_leftovers(&folders.work);
    if killed > 0 {
        info!(killed, "killed processes that an earlier process of this runner had left running");
    }
    trash.open();
    for entry in read_folder(&folders.work)? {
        if let Err(error) = remove(folders, trash, &entry) {
            warn!(folder = %entry.display(), error = format!("{error:#}"), "what a build has left stays where it is");
        }
    }
    git::discard_leftovers(&folders.cache, |path| trash.discard(path));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::attempt::unpushed::{find_unpushed, forget_unpushed, tasks_with_unpushed};
    use crate::config::RunnerConfig;
    use crate::machine::LocalMachine;

    fn machine(folders: &Folders) -> Arc<dyn Machine> {
        Arc::new(LocalMachine::new(folders, &RunnerConfig::default()))
    }

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
        clean_start(&folders, &Trash::new(&folders)).expect("a clean start");
        let task: TaskId = "01JDGZ2V9QK8M3T5X7Y9ABCDEF".parse().expect("a ULID");
        let commit: CommitId = "a".repeat(40).parse().expect("a commit");
        for (fence, safe) in [(1, true), (2, false)] {
            let root = folders.work.join("k");
            let workspace = Workspace::create(machine(&folders), root, &in_use, &stop).await;
            let workspace = workspace.unwrap_or_else(|why| panic!("no workspace: {why:?}"));
            fs::create_dir_all(workspace.workdir().gitdir.join("objects")).expect("a gitdir");
            workspace.record_finished(task, Fence(fence), &commit).expect("a mark");
            if safe {
                workspace.clear_finished().expect("safe");
            }
            drop(workspace);
            assert_eq!(find_unpushed(&folders, task, Fence(0)).is_some(), !safe, "fence {fence}");
        }
        assert!(find_unpushed(&folders, task, Fence(2)).is_none(), "below the floor");
        assert_eq!(tasks_with_unpushed(&folders), [task]);
        assert!(read_folder(&folders.work).expect("work").is_empty());
        forget_unpushed(&folders, &Trash::new(&folders), task);
        assert!(tasks_with_unpushed(&folders).is_empty());
    }

    #[tokio::test]
    async fn a_second_attempt_waits_for_the_folder_and_sees_no_file_of_the_first_one() {
        let data = tempfile::tempdir().expect("a folder");
        let (folders, in_use) = (folders(data.path()), InUse::default());
        let stop = CancellationToken::new();
        clean_start(&folders, &Trash::new(&folders)).expect("a clean start");
        let create =
            || Workspace::create(machine(&folders), folders.work.join("k"), &in_use, &stop);
        let made =
            |made: Result<Workspace, Interrupt>| made.unwrap_or_else(|why| panic!("{why:?}"));
        let first = made(create().await);
        let locked = first.root().join("checkout/locked");
        fs::create_dir_all(&locked).expect("a folder");
        fs::write(locked.join("file"), "x").expect("a file");
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).expect("read-only");
        let second = create();
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        let second = made(second.await);
        assert!(!second.root().join("checkout").exists());
    }
}
