//! The seam between a runner's decisions and everything that it does outside its ports: the clock,
//! chance, folders, git and processes.
//!
//! All code that decides (claims, renewals, phases, settlement) is above it and the same
//! everywhere. [`LocalMachine`] is the real one. The simulation in `lab` has one in memory, with a
//! clock of its own and faults; there nothing may run on another thread.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use rdev_domain::git::{Branch, CommitId, OwnRef, Tip};
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::spec::AgentName;
use rdev_domain::time::Timestamp;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::{AgentContext, AgentRequest, Progress, Report};
use crate::git::{
    Author, Caps, Changes, CheckedOut, Fetched, GitError, Ignored, Mirror, OwnTip, Push, Pushed,
    Rebased, Remote, Scan, Seen, TreeId, Workdir,
};
use crate::process::{Ended, Flow, Launch, Limits, RunError, Stream};

mod local;

pub use local::LocalMachine;

/// The machine that a runner works on.
///
/// Paths name folders of this machine; who calls decides their names, and only the machine reads
/// or writes below them.
#[async_trait]
pub trait Machine: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// A random number below `end`, for jitter and names. Nothing that a record keeps depends on
    /// it.
    fn random(&self, end: u32) -> u32;

    /// Runs work beside the caller's. It ends with the process.
    fn spawn(&self, work: BoxFuture<'static, ()>) -> AbortHandle;

    /// The agents that can run here.
    fn agents(&self) -> Vec<AgentName>;

    /// Runs an agent until it and every process that it started have ended. See
    /// [`crate::agent::run`].
    async fn run_agent(
        &self,
        agent: &AgentContext<'_>,
        request: &AgentRequest<'_>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Report;

    /// Runs a command until it and every process that it started have ended. See
    /// [`crate::process::run`].
    async fn run_command(
        &self,
        launch: Launch,
        limits: Limits,
        stop: &CancellationToken,
        on_line: OnLine<'_>,
    ) -> Result<Ended, RunError>;

    /// Before a runner claims work: ends what an earlier process of it has left running, keeps its
    /// unpushed commits, and empties its work folder. What cannot be removed is no failure.
    fn clean_start(&self) -> Result<()>;

    /// Makes an empty workspace. An unpushed commit of an earlier one of this name is kept.
    fn make_workspace(&self, root: &Path) -> Result<()>;

    /// Removes a workspace: it is gone at once, its files later. Its commit is kept if it is on no
    /// remote yet.
    fn remove_workspace(&self, root: &Path) -> Result<()>;

    /// Records that `commit` exists only in this workspace.
    fn record_finished(
        &self,
        root: &Path,
        task: TaskId,
        fence: Fence,
        commit: &CommitId,
    ) -> Result<()>;

    /// Removes that record: the commit is on a remote, or nobody needs it any more.
    fn clear_finished(&self, root: &Path) -> Result<()>;

    /// The newest commit of `task` that exists only on this machine, with a fence above `above`,
    /// and the repository that has it.
    fn find_unpushed(&self, task: TaskId, above: Fence) -> Option<(Fence, CommitId, PathBuf)>;

    /// Copies the objects of an unpushed commit's repository into the one of `dirs`.
    async fn borrow_unpushed(&self, dirs: &Workdir, repository: &Path) -> Result<()>;

    /// Removes the unpushed commits of a task: its work is delivered, or nobody needs it any more.
    fn forget_unpushed(&self, task: TaskId);

    /// The tasks with unpushed commits on this machine.
    fn tasks_with_unpushed(&self) -> Vec<TaskId>;

    /// Keeps the agent's session of a finished task, with the name of the workspace that it is
    /// bound to.
    fn keep_session(&self, home: &Path, key: &str, task: TaskId) -> Result<()>;

    /// The name of the workspace that the session of `task` is bound to. `None`: this machine does
    /// not have the session.
    fn session_key(&self, task: TaskId) -> Option<String>;

    /// Copies the session of `task` to the HOME of a workspace.
    async fn restore_session(&self, home: &Path, task: TaskId) -> Result<()>;

    /// Removes sessions older than `keep`.
    async fn expire_sessions(&self, keep: Duration);

    /// Whether this was learned about a git server.
    fn knows(&self, lack: ServerLack, url: &GitUrl) -> bool;

    /// Remembers what was learned about a git server, for later processes too.
    fn learn(&self, lack: ServerLack, url: &GitUrl);

    /// See [`crate::git::fetch_if_there`].
    async fn fetch(
        &self,
        remote: &Remote,
        branch: &Branch,
        base: &Branch,
        stop: &CancellationToken,
    ) -> Result<Fetched, GitError>;

    /// See [`crate::git::checkout`].
    async fn checkout(
        &self,
        mirror: &Mirror,
        start: Option<&CommitId>,
        branch: &Branch,
        dirs: &Workdir,
        stop: &CancellationToken,
    ) -> Result<CheckedOut, GitError>;

    /// See [`crate::git::reset`].
    async fn reset(
        &self,
        dirs: &Workdir,
        commit: Option<&CommitId>,
        ignored: Ignored,
    ) -> Result<(), GitError>;

    /// See [`crate::git::stage`].
    async fn stage(
        &self,
        dirs: &Workdir,
        start: Option<&CommitId>,
        caps: &Caps,
        ignore: &'static [&'static str],
    ) -> Result<Changes, GitError>;

    /// The changes of a commit against its first parent. See [`crate::git::diff_of`].
    async fn changes_of(
        &self,
        dirs: &Workdir,
        commit: &CommitId,
        caps: &Caps,
    ) -> Result<Changes, GitError>;

    /// See [`crate::git::commit`].
    async fn commit(
        &self,
        dirs: &Workdir,
        tree: &TreeId,
        parent: Option<&CommitId>,
        message: &str,
        author: &Author,
    ) -> Result<CommitId, GitError>;

    /// See [`crate::git::parent`].
    async fn parent(&self, dirs: &Workdir, commit: &CommitId)
    -> Result<Option<CommitId>, GitError>;

    /// See [`crate::git::rebase`].
    async fn rebase(
        &self,
        dirs: &Workdir,
        commit: &CommitId,
        onto: &CommitId,
        author: &Author,
    ) -> Result<Rebased, GitError>;

    /// See [`crate::git::find_lineage`].
    async fn find_lineage(
        &self,
        dirs: &Workdir,
        lineage: TaskId,
        base: &Tip,
        tip: &CommitId,
    ) -> Result<Scan, GitError>;

    /// See [`crate::git::contains`].
    async fn contains(
        &self,
        dirs: &Workdir,
        commit: &CommitId,
        tip: &CommitId,
    ) -> Result<bool, GitError>;

    /// See [`crate::git::look`].
    async fn look(
        &self,
        dirs: &Workdir,
        remote: &Remote,
        branch: &Branch,
        stop: &CancellationToken,
    ) -> Result<Seen, GitError>;

    /// See [`crate::git::fetch_commit`].
    async fn fetch_commit(
        &self,
        dirs: &Workdir,
        remote: &Remote,
        own: OwnRef,
        stop: &CancellationToken,
    ) -> Result<CommitId, GitError>;

    /// See [`crate::git::push`].
    async fn push(&self, push: &Push<'_>, stop: &CancellationToken) -> Result<Pushed, GitError>;

    /// See [`crate::git::pushes_ended`].
    async fn pushes_ended(&self, limit: Duration);

    /// See [`crate::git::list_own`].
    async fn own_refs(
        &self,
        remote: &Remote,
        stop: &CancellationToken,
    ) -> Result<Vec<OwnTip>, GitError>;

    /// See [`crate::git::delete_refs`].
    async fn delete_refs(
        &self,
        remote: &Remote,
        refs: &[String],
        stop: &CancellationToken,
    ) -> Result<(), GitError>;

    /// See [`crate::git::in_log`].
    async fn in_log(
        &self,
        remote: &Remote,
        branch: &Branch,
        commits: &[CommitId],
    ) -> Result<Option<CommitId>, GitError>;
}

/// Gets each line of a command's output, and tells how to continue.
pub type OnLine<'a> = &'a mut (dyn FnMut(Stream, &str) -> Flow + Send);

/// What a git server cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerLack {
    /// It accepts no refs outside `refs/heads`.
    OtherRefs,
    /// It does not delete a ref and move another one, both or none.
    AtomicDeletion,
}
