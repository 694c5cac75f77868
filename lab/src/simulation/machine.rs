//! The machine of a simulated runner: its clock, its disk, git and agents, all in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use rdev_domain::git::{Branch, CommitId, OwnRef, Tip};
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::{Fence, Owner, TaskId, WorkerId};
use rdev_domain::spec::AgentName;
use rdev_domain::time::Timestamp;
use rdev_runner::agent::{AgentContext, AgentRequest, Progress, Report};
use rdev_runner::git::{
    Author, Caps, Changes, CheckedOut, Fetched, GitError, Ignored, Mirror, Push, Pushed, Rebased,
    Remote, Scan, Seen, TreeId, Workdir,
};
use rdev_runner::machine::{Machine, OnLine, ServerLack};
use rdev_runner::process::{Ended, Launch, Limits, RunError};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::agent;
use super::commits::Files;
use super::process::Process;
use super::remote;
use super::server::{Refs, Server};
use super::world::World;
use crate::memory::MemoryStore;

/// The machine of one process of a runner.
pub(super) struct SimulatedMachine {
    pub(super) world: Arc<World>,
    pub(super) server: Arc<Server>,
    pub(super) process: Arc<Process>,
    /// What the checks look into.
    pub(super) store: Arc<MemoryStore>,
    pub(super) worker: WorkerId,
    /// How far its clock is ahead, in milliseconds.
    pub(super) skew: i64,
    pub(super) disk: Arc<Disk>,
    /// The process's name, as its runner has drawn it.
    pub(super) drawn: Mutex<String>,
    pub(super) agents: Vec<AgentName>,
}

/// What a runner keeps from one process to the next.
#[derive(Default)]
pub(super) struct Disk(Mutex<Kept>);

#[derive(Default)]
pub(super) struct Kept {
    workspaces: BTreeMap<PathBuf, Folder>,
    unpushed: BTreeMap<(TaskId, Fence), CommitId>,
    learned: BTreeSet<(String, String)>,
}

/// A workspace.
#[derive(Default)]
pub(super) struct Folder {
    pub(super) files: Files,
    finished: Option<(TaskId, Fence, CommitId)>,
}

impl Kept {
    fn remove(&mut self, root: &Path) {
        let finished = self.workspaces.remove(root).and_then(|folder| folder.finished);
        if let Some((task, fence, commit)) = finished {
            self.unpushed.insert((task, fence), commit);
        }
    }

    /// The workspace that a folder of it belongs to.
    pub(super) fn of(&mut self, folder: &Path) -> &mut Folder {
        self.workspaces.entry(root(folder).to_owned()).or_default()
    }
}

/// The workspace's folder of one of its folders.
fn root(folder: &Path) -> &Path {
    folder.parent().unwrap_or(folder)
}

/// The task that a workspace is named after.
pub(super) fn task_of(folder: &Path) -> Option<TaskId> {
    folder.file_name()?.to_str()?.parse().ok()
}

impl SimulatedMachine {
    pub(super) fn disk(&self) -> MutexGuard<'_, Kept> {
        self.disk.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who holds the leases that this process claims.
    pub(super) fn owner(&self) -> Owner {
        let drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        Owner::new(&self.worker, &drawn)
    }

    /// The time that work on the disk takes: also a moment in which the process may be killed.
    async fn work(&self) {
        tokio::time::sleep(self.world.millis(1, 20)).await;
    }

    pub(super) fn trace(&self, line: impl FnOnce() -> String) {
        self.world.trace(|| format!("{} {}", self.process.name(), line()));
    }
}

#[async_trait]
impl Machine for SimulatedMachine {
    fn now(&self) -> Timestamp {
        let skew = if self.world.is_calm() { 0 } else { self.skew };
        Timestamp::from_millis(self.world.now().as_millis() + skew)
    }

    fn random(&self, end: u32) -> u32 {
        let number = self.world.below(end);
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if drawn.len() < 8 {
            drawn.extend(char::from_u32(u32::from(b'a') + number));
        }
        number
    }

    fn spawn(&self, work: BoxFuture<'static, ()>) -> AbortHandle {
        self.process.spawn(work)
    }

    fn agents(&self) -> Vec<AgentName> {
        self.agents.clone()
    }

    async fn run_agent(
        &self,
        agent: &AgentContext<'_>,
        request: &AgentRequest<'_>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Report {
        agent::run(self, agent, request, progress).await
    }

    async fn run_command(
        &self,
        launch: Launch,
        limits: Limits,
        stop: &CancellationToken,
        _: OnLine<'_>,
    ) -> Result<Ended, RunError> {
        Ok(agent::verify(self, &launch, limits, stop).await)
    }

    fn clean_start(&self) -> Result<()> {
        let mut disk = self.disk();
        let roots: Vec<PathBuf> = disk.workspaces.keys().cloned().collect();
        roots.iter().for_each(|root| disk.remove(root));
        Ok(())
    }

    fn make_workspace(&self, root: &Path) -> Result<()> {
        let mut disk = self.disk();
        disk.remove(root);
        disk.workspaces.insert(root.to_owned(), Folder::default());
        Ok(())
    }

    fn remove_workspace(&self, root: &Path) -> Result<()> {
        // A killed process removes nothing.
        if !self.process.is_dead() {
            self.disk().remove(root);
        }
        Ok(())
    }

    fn record_finished(
        &self,
        root: &Path,
        task: TaskId,
        fence: Fence,
        commit: &CommitId,
    ) -> Result<()> {
        let mut disk = self.disk();
        let folder = disk.workspaces.entry(root.to_owned()).or_default();
        folder.finished = Some((task, fence, commit.clone()));
        Ok(())
    }

    fn clear_finished(&self, root: &Path) -> Result<()> {
        self.disk().workspaces.entry(root.to_owned()).or_default().finished = None;
        Ok(())
    }

    fn find_unpushed(&self, task: TaskId, above: Fence) -> Option<(Fence, CommitId, PathBuf)> {
        let disk = self.disk();
        let of_task = disk.unpushed.range((task, above.next())..=(task, Fence(u64::MAX)));
        let ((_, fence), commit) = of_task.last()?;
        Some((*fence, commit.clone(), PathBuf::new()))
    }

    async fn borrow_unpushed(&self, _: &Workdir, _: &Path) -> Result<()> {
        // All repositories of the simulation share their commits.
        Ok(())
    }

    fn forget_unpushed(&self, task: TaskId) {
        self.disk().unpushed.retain(|(of, _), _| *of != task);
    }

    fn tasks_with_unpushed(&self) -> Vec<TaskId> {
        let mut tasks: Vec<TaskId> = self.disk().unpushed.keys().map(|(task, _)| *task).collect();
        tasks.dedup();
        tasks
    }

    fn keep_session(&self, _: &Path, _: &str, task: TaskId) -> Result<()> {
        anyhow::bail!("the simulated agent has no session to keep for {task}")
    }

    fn session_key(&self, _: TaskId) -> Option<String> {
        None
    }

    async fn restore_session(&self, _: &Path, task: TaskId) -> Result<()> {
        anyhow::bail!("the simulated agent has no session of {task}")
    }

    async fn expire_sessions(&self, _: Duration) {}

    fn knows(&self, lack: ServerLack, url: &GitUrl) -> bool {
        self.disk().learned.contains(&(format!("{lack:?}"), url.to_string()))
    }

    fn learn(&self, lack: ServerLack, url: &GitUrl) {
        self.trace(|| format!("learns {lack:?}"));
        self.disk().learned.insert((format!("{lack:?}"), url.to_string()));
    }

    async fn fetch(
        &self,
        remote: &Remote,
        branch: &Branch,
        base: &Branch,
        stop: &CancellationToken,
    ) -> Result<Fetched, GitError> {
        let refs = remote::list(self, remote, stop).await?;
        let tip = refs.get(&branch.full_name());
        Ok(Fetched {
            mirror: Mirror::of_folder(PathBuf::from(remote.url.as_str())),
            tip: tip_of(tip),
            start: tip.or_else(|| refs.get(&base.full_name())).cloned(),
            own: own_refs(&refs),
            own_branches: refs
                .keys()
                .filter(|name| name.starts_with("refs/heads/"))
                .filter_map(|name| OwnRef::parse(name))
                .collect(),
            has_branches: refs
                .keys()
                .any(|name| name.starts_with("refs/heads/") && OwnRef::parse(name).is_none()),
        })
    }

    async fn checkout(
        &self,
        _: &Mirror,
        start: Option<&CommitId>,
        _: &Branch,
        dirs: &Workdir,
        stop: &CancellationToken,
    ) -> Result<CheckedOut, GitError> {
        self.work().await;
        if stop.is_cancelled() {
            return Err(GitError::Cancelled);
        }
        let files = self.server.state().commits.files(start);
        let count = files.len() as u64;
        self.disk().of(&dirs.checkout).files = (*files).clone();
        Ok(CheckedOut { lfs_pointers: false, files: count })
    }

    async fn reset(
        &self,
        dirs: &Workdir,
        commit: Option<&CommitId>,
        _: Ignored,
    ) -> Result<(), GitError> {
        self.work().await;
        let files = self.server.state().commits.files(commit);
        self.disk().of(&dirs.checkout).files = (*files).clone();
        Ok(())
    }

    async fn stage(
        &self,
        dirs: &Workdir,
        start: Option<&CommitId>,
        _: &Caps,
        _: &'static [&'static str],
    ) -> Result<Changes, GitError> {
        self.work().await;
        let files = self.disk().of(&dirs.checkout).files.clone();
        let commits = &mut self.server.state().commits;
        let before = commits.files(start);
        Ok(changes(&before, files, commits))
    }

    async fn changes_of(
        &self,
        _: &Workdir,
        commit: &CommitId,
        _: &Caps,
    ) -> Result<Changes, GitError> {
        self.work().await;
        let commits = &mut self.server.state().commits;
        let of = commits.get(commit);
        let (before, after) = (commits.files(of.parent.as_ref()), (*of.files).clone());
        Ok(changes(&before, after, commits))
    }

    async fn commit(
        &self,
        _: &Workdir,
        tree: &TreeId,
        parent: Option<&CommitId>,
        message: &str,
        _: &Author,
    ) -> Result<CommitId, GitError> {
        self.work().await;
        let commits = &mut self.server.state().commits;
        let files = commits.tree(tree.hash()).unwrap_or_default();
        Ok(commits.make(parent, None, files, message))
    }

    async fn parent(&self, _: &Workdir, commit: &CommitId) -> Result<Option<CommitId>, GitError> {
        self.work().await;
        Ok(self.server.state().commits.get(commit).parent.clone())
    }

    async fn rebase(
        &self,
        _: &Workdir,
        commit: &CommitId,
        onto: &CommitId,
        _: &Author,
    ) -> Result<Rebased, GitError> {
        self.work().await;
        let rebased = self.server.state().commits.rebase(commit, onto);
        self.trace(|| format!("rebases {commit} onto {onto}: {rebased:?}"));
        Ok(rebased)
    }

    async fn find_lineage(
        &self,
        _: &Workdir,
        lineage: TaskId,
        base: &Tip,
        tip: &CommitId,
    ) -> Result<Scan, GitError> {
        self.work().await;
        Ok(self.server.state().commits.find(&lineage.to_string(), base, tip))
    }

    async fn contains(
        &self,
        _: &Workdir,
        commit: &CommitId,
        tip: &CommitId,
    ) -> Result<bool, GitError> {
        self.work().await;
        Ok(self.server.state().commits.contains(commit, tip))
    }

    async fn look(
        &self,
        _: &Workdir,
        remote: &Remote,
        branch: &Branch,
        stop: &CancellationToken,
    ) -> Result<Seen, GitError> {
        let refs = remote::list(self, remote, stop).await?;
        Ok(Seen { tip: tip_of(refs.get(&branch.full_name())), own: own_refs(&refs) })
    }

    async fn fetch_commit(
        &self,
        _: &Workdir,
        remote: &Remote,
        own: OwnRef,
        stop: &CancellationToken,
    ) -> Result<CommitId, GitError> {
        let refs = remote::list(self, remote, stop).await?;
        let found = remote::names(own).iter().find_map(|name| refs.get(name).cloned());
        found.ok_or(GitError::Moved { tip: Tip::Absent })
    }

    async fn push(&self, push: &Push<'_>, stop: &CancellationToken) -> Result<Pushed, GitError> {
        let pushed = remote::push(self, push, stop).await;
        self.trace(|| {
            let deleted = push.delete.map(|(own, at)| format!("{} at {at}", own.path()));
            let (commit, target) = (push.commit, push.target);
            format!("pushed {commit} to {target}, deleting {deleted:?}: {pushed:?}")
        });
        pushed
    }

    async fn pushes_ended(&self, _: Duration) {
        // A push here ends when it is done.
    }

    async fn own_refs(
        &self,
        remote: &Remote,
        stop: &CancellationToken,
    ) -> Result<Vec<(OwnRef, CommitId)>, GitError> {
        Ok(own_refs(&remote::list(self, remote, stop).await?))
    }

    async fn delete_refs(
        &self,
        remote: &Remote,
        refs: &[String],
        stop: &CancellationToken,
    ) -> Result<(), GitError> {
        remote::delete(self, remote, refs, stop).await
    }

    async fn in_log(
        &self,
        _: &Remote,
        _: &Branch,
        _: &[CommitId],
    ) -> Result<Option<CommitId>, GitError> {
        // A server shows no log.
        Ok(None)
    }
}

pub(super) fn tip_of(commit: Option<&CommitId>) -> Tip {
    commit.map_or(Tip::Absent, |commit| Tip::Commit(commit.clone()))
}

fn own_refs(refs: &Refs) -> Vec<(OwnRef, CommitId)> {
    refs.iter().filter_map(|(name, commit)| Some((OwnRef::parse(name)?, commit.clone()))).collect()
}

fn changes(before: &Files, after: Files, commits: &mut super::commits::Commits) -> Changes {
    let changed = after.iter().filter(|(path, text)| before.get(*path) != Some(*text)).count()
        + before.keys().filter(|path| !after.contains_key(*path)).count();
    let tree = TreeId::from_hash(commits.keep_tree(after));
    Changes { tree, files: Vec::new(), total: changed as u64, diff: String::new() }
}
