//! The real machine: this process's clock, files, git and child processes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

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

use super::{Machine, OnLine, ServerLack};
use crate::agent::{self, AgentContext, AgentRequest, Progress, Report};
use crate::attempt::trash::Trash;
use crate::attempt::{session, unpushed, workspace};
use crate::config::{AgentSettings, Folders, RunnerConfig};
use crate::git::{
    self, Author, Caps, Changes, CheckedOut, Fetched, GitError, Ignored, Mirror, OwnTip, Push,
    Pushed, Rebased, Remembered, Remote, Scan, Seen, TreeId, Workdir, blocking,
};
use crate::process::{self, Ended, Launch, Limits, RunError};

/// This machine. Git's work runs on threads that may block.
pub struct LocalMachine {
    folders: Folders,
    trash: Trash,
    max_cache_bytes: u64,
    agents: BTreeMap<AgentName, AgentSettings>,
    heads_only: Remembered,
    not_atomic: Remembered,
}

impl LocalMachine {
    /// This machine, for a runner with these folders and settings.
    pub fn new(folders: &Folders, config: &RunnerConfig) -> Self {
        Self {
            max_cache_bytes: config.runner.max_cache_bytes,
            agents: config.agents.clone(),
            heads_only: Remembered::new(folders.cache.join("heads-only")),
            not_atomic: Remembered::new(git::not_atomic_folder(&folders.cache)),
            trash: Trash::new(folders),
            folders: folders.clone(),
        }
    }

    fn remembered(&self, lack: ServerLack) -> &Remembered {
        match lack {
            ServerLack::OtherRefs => &self.heads_only,
            ServerLack::AtomicDeletion => &self.not_atomic,
        }
    }
}

#[async_trait]
impl Machine for LocalMachine {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    fn random(&self, end: u32) -> u32 {
        rand::random_range(0..end)
    }

    fn spawn(&self, work: BoxFuture<'static, ()>) -> AbortHandle {
        tokio::spawn(work).abort_handle()
    }

    fn agents(&self) -> Vec<AgentName> {
        agent::available(&self.agents)
    }

    async fn run_agent(
        &self,
        agent: &AgentContext<'_>,
        request: &AgentRequest<'_>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Report {
        agent::run(agent, request, progress).await
    }

    async fn run_command(
        &self,
        launch: Launch,
        limits: Limits,
        stop: &CancellationToken,
        on_line: OnLine<'_>,
    ) -> Result<Ended, RunError> {
        process::run(launch, limits, stop, |stream, line| on_line(stream, line)).await
    }

    fn clean_start(&self) -> Result<()> {
        workspace::clean_start(&self.folders, &self.trash)
    }

    fn make_workspace(&self, root: &Path) -> Result<()> {
        workspace::make(&self.folders, &self.trash, root)
    }

    fn remove_workspace(&self, root: &Path) -> Result<()> {
        workspace::remove(&self.folders, &self.trash, root)
    }

    fn record_finished(
        &self,
        root: &Path,
        task: TaskId,
        fence: Fence,
        commit: &CommitId,
    ) -> Result<()> {
        unpushed::record_finished(root, task, fence, commit)
    }

    fn clear_finished(&self, root: &Path) -> Result<()> {
        unpushed::clear_finished(root)
    }

    fn find_unpushed(&self, task: TaskId, above: Fence) -> Option<(Fence, CommitId, PathBuf)> {
        unpushed::find_unpushed(&self.folders, task, above)
    }

    async fn borrow_unpushed(&self, dirs: &Workdir, repository: &Path) -> Result<()> {
        let (dirs, repository) = (dirs.clone(), repository.to_owned());
        on_files(move || unpushed::borrow_objects(&dirs, &repository)).await
    }

    fn forget_unpushed(&self, task: TaskId) {
        unpushed::forget_unpushed(&self.folders, &self.trash, task);
    }

    fn tasks_with_unpushed(&self) -> Vec<TaskId> {
        unpushed::tasks_with_unpushed(&self.folders)
    }

    fn keep_session(&self, home: &Path, key: &str, task: TaskId) -> Result<()> {
        session::keep_session(&self.folders, &self.trash, home, key, task)
    }

    fn session_key(&self, task: TaskId) -> Option<String> {
        session::session_key(&self.folders, task)
    }

    async fn restore_session(&self, home: &Path, task: TaskId) -> Result<()> {
        let (folders, home) = (self.folders.clone(), home.to_owned());
        on_files(move || session::restore_session(&folders, &home, task)).await
    }

    async fn expire_sessions(&self, keep: Duration) {
        let (folders, trash) = (self.folders.clone(), self.trash.clone());
        let work = move || session::expire_sessions(&folders, &trash, keep);
        // The only possible failure is a panic, which the runtime has reported.
        let _ = tokio::task::spawn_blocking(work).await;
    }

    fn knows(&self, lack: ServerLack, url: &GitUrl) -> bool {
        self.remembered(lack).contains(url)
    }

    fn learn(&self, lack: ServerLack, url: &GitUrl) {
        self.remembered(lack).insert(url);
    }

    async fn fetch(
        &self,
        remote: &Remote,
        branch: &Branch,
        base: &Branch,
        stop: &CancellationToken,
    ) -> Result<Fetched, GitError> {
        let (cache, cap) = (self.folders.cache.clone(), self.max_cache_bytes);
        let (remote, branch, base) = (remote.clone(), branch.clone(), base.clone());
        let stop = stop.clone();
        blocking(move || git::fetch_if_there(&cache, cap, &remote, &branch, &base, &stop)).await
    }

    async fn checkout(
        &self,
        mirror: &Mirror,
        start: Option<&CommitId>,
        branch: &Branch,
        dirs: &Workdir,
        stop: &CancellationToken,
    ) -> Result<CheckedOut, GitError> {
        let (mirror, start, branch) = (mirror.clone(), start.cloned(), branch.clone());
        let (dirs, stop) = (dirs.clone(), stop.clone());
        blocking(move || git::checkout(&mirror, start.as_ref(), &branch, &dirs, &stop)).await
    }

    async fn reset(
        &self,
        dirs: &Workdir,
        commit: Option<&CommitId>,
        ignored: Ignored,
    ) -> Result<(), GitError> {
        let (dirs, commit) = (dirs.clone(), commit.cloned());
        blocking(move || git::reset(&dirs, commit.as_ref(), ignored)).await
    }

    async fn stage(
        &self,
        dirs: &Workdir,
        start: Option<&CommitId>,
        caps: &Caps,
        ignore: &'static [&'static str],
    ) -> Result<Changes, GitError> {
        let (dirs, start, caps) = (dirs.clone(), start.cloned(), *caps);
        blocking(move || git::stage(&dirs, start.as_ref(), &caps, ignore)).await
    }

    async fn changes_of(
        &self,
        dirs: &Workdir,
        commit: &CommitId,
        caps: &Caps,
    ) -> Result<Changes, GitError> {
        let (dirs, commit, caps) = (dirs.clone(), commit.clone(), *caps);
        blocking(move || {
            let parent = git::parent(&dirs, &commit)?;
            git::diff_of(&dirs, &commit, parent.as_ref(), &caps)
        })
        .await
    }

    async fn commit(
        &self,
        dirs: &Workdir,
        tree: &TreeId,
        parent: Option<&CommitId>,
        message: &str,
        author: &Author,
    ) -> Result<CommitId, GitError> {
        let (dirs, tree, parent) = (dirs.clone(), tree.clone(), parent.cloned());
        let (message, author, now) = (message.to_owned(), author.clone(), self.now());
        blocking(move || git::commit(&dirs, &tree, parent.as_ref(), &message, &author, now)).await
    }

    async fn parent(
        &self,
        dirs: &Workdir,
        commit: &CommitId,
    ) -> Result<Option<CommitId>, GitError> {
        let (dirs, commit) = (dirs.clone(), commit.clone());
        blocking(move || git::parent(&dirs, &commit)).await
    }

    async fn rebase(
        &self,
        dirs: &Workdir,
        commit: &CommitId,
        onto: &CommitId,
        author: &Author,
    ) -> Result<Rebased, GitError> {
        let (dirs, commit, onto) = (dirs.clone(), commit.clone(), onto.clone());
        let (author, now) = (author.clone(), self.now());
        blocking(move || git::rebase(&dirs, &commit, &onto, &author, now)).await
    }

    async fn find_lineage(
        &self,
        dirs: &Workdir,
        lineage: TaskId,
        base: &Tip,
        tip: &CommitId,
    ) -> Result<Scan, GitError> {
        let (dirs, base, tip) = (dirs.clone(), base.clone(), tip.clone());
        blocking(move || git::find_lineage(&dirs, lineage, &base, &tip)).await
    }

    async fn contains(
        &self,
        dirs: &Workdir,
        commit: &CommitId,
        tip: &CommitId,
    ) -> Result<bool, GitError> {
        let (dirs, commit, tip) = (dirs.clone(), commit.clone(), tip.clone());
        blocking(move || git::contains(&dirs, &commit, &tip)).await
    }

    async fn look(
        &self,
        dirs: &Workdir,
        remote: &Remote,
        branch: &Branch,
        stop: &CancellationToken,
    ) -> Result<Seen, GitError> {
        let (dirs, remote) = (dirs.clone(), remote.clone());
        let (branch, stop) = (branch.clone(), stop.clone());
        blocking(move || git::look(&dirs, &remote, &branch, &stop)).await
    }

    async fn fetch_commit(
        &self,
        dirs: &Workdir,
        remote: &Remote,
        own: OwnRef,
        stop: &CancellationToken,
    ) -> Result<CommitId, GitError> {
        let (dirs, remote, stop) = (dirs.clone(), remote.clone(), stop.clone());
        blocking(move || git::fetch_commit(&dirs, &remote, own, &stop)).await
    }

    async fn push(&self, push: &Push<'_>, stop: &CancellationToken) -> Result<Pushed, GitError> {
        let (dirs, remote) = (push.dirs.clone(), push.remote.clone());
        let (commit, target) = (push.commit.clone(), push.target.to_owned());
        let (expect, watch) = (push.expect.clone(), push.watch.clone());
        let delete = push.delete.map(|(own, at)| (own, at.clone()));
        let (known, until, stop) = (push.known.cloned(), push.until, stop.clone());
        blocking(move || {
            let push = Push {
                dirs: &dirs,
                remote: &remote,
                commit: &commit,
                target: &target,
                expect: &expect,
                delete: delete.as_ref().map(|(own, at)| (*own, at)),
                watch: &watch,
                known: known.as_ref(),
                until,
            };
            git::push(&push, &stop)
        })
        .await
    }

    async fn pushes_ended(&self, limit: Duration) {
        git::pushes_ended(limit).await;
    }

    async fn own_refs(
        &self,
        remote: &Remote,
        stop: &CancellationToken,
    ) -> Result<Vec<OwnTip>, GitError> {
        let (remote, stop) = (remote.clone(), stop.clone());
        blocking(move || git::list_own(&remote, &stop)).await
    }

    async fn delete_refs(
        &self,
        remote: &Remote,
        refs: &[String],
        stop: &CancellationToken,
    ) -> Result<(), GitError> {
        let (remote, refs, stop) = (remote.clone(), refs.to_vec(), stop.clone());
        blocking(move || git::delete_refs(&remote, &refs, &stop)).await
    }

    async fn in_log(
        &self,
        remote: &Remote,
        branch: &Branch,
        commits: &[CommitId],
    ) -> Result<Option<CommitId>, GitError> {
        let (remote, branch, commits) = (remote.clone(), branch.clone(), commits.to_vec());
        blocking(move || git::in_log(&remote, &branch, &commits)).await
    }
}

/// Reads and writes files on a thread that may block: how many, an agent decides.
async fn on_files<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Nobody has its handle, so it was not cancelled: it panicked.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
