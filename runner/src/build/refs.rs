//! rdev's own refs in a repository: push to them, find them, fetch their commits.

use rdev_domain::git::{CommitId, OwnRef, Tip};
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::task::WipRef;
use tokio_util::sync::CancellationToken;

use super::target::BuildTarget;
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::workspace::Workspace;
use crate::git::{self, Expect, Fetched, GitError, Push, blocking};

/// Pushes a commit to one of rdev's own refs. Returns the tip of the branch, which the push
/// sees in the server's list of refs.
pub(super) async fn push_own(
    attempt: &Attempt,
    target: &BuildTarget,
    workspace: &Workspace,
    own: OwnRef,
    commit: &CommitId,
    stop: &CancellationToken,
) -> Result<Tip, Interrupt> {
    let known = &attempt.context.heads_only;
    let mut heads_only = known.contains(&target.remote.url);
    loop {
        let prefix = if heads_only { "refs/heads" } else { "refs" };
        let name = format!("{prefix}/{}", own.path());
        attempt.remember_ref(&target.remote, &name);
        let (dirs, remote, commit) = (workspace.workdir(), target.remote.clone(), commit.clone());
        let (watch, stop) = (target.branch.clone(), stop.clone());
        let pushed = blocking(move || {
            let push = Push {
                dirs: &dirs,
                remote: &remote,
                commit: &commit,
                target: &name,
                expect: &Expect::Any,
                watch: &watch,
            };
            git::push(&push, &stop)
        });
        match pushed.await {
            // It may also be a hook that refuses this one push: the server is remembered only
            // after it has accepted a branch.
            Err(GitError::RefNamespaceRefused) if !heads_only => heads_only = true,
            Ok(tip) => {
                if heads_only && !known.contains(&target.remote.url) {
                    known.insert(&target.remote.url);
                }
                return Ok(tip);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The newest wip ref that this attempt may continue from: one of its own task above the
/// floor, or else the one that a retry names.
pub(super) fn newest_wip(attempt: &Attempt, fetched: &Fetched) -> Option<(WipRef, CommitId)> {
    let task = &attempt.task;
    newest_of(fetched, task.id, task.wip_floor).or_else(|| {
        let named = task.resume_from.filter(|_| task.wip_floor == Fence(0))?;
        Some((named, at_wip(fetched, named)?))
    })
}

/// The newest wip ref of a task above a fence.
pub(super) fn newest_of(
    fetched: &Fetched,
    task: TaskId,
    floor: Fence,
) -> Option<(WipRef, CommitId)> {
    let wips = fetched.own.iter().filter_map(|(own, commit)| match own {
        OwnRef::Wip(id, fence) if *id == task && *fence > floor => {
            Some((WipRef { task: *id, fence: *fence }, commit.clone()))
        }
        _ => None,
    });
    wips.max_by_key(|(wip, _)| wip.fence)
}

/// The commit at a wip ref, if the server has the ref.
pub(super) fn at_wip(fetched: &Fetched, wip: WipRef) -> Option<CommitId> {
    let name = OwnRef::Wip(wip.task, wip.fence);
    fetched.own.iter().find(|(own, _)| *own == name).map(|(_, commit)| commit.clone())
}

/// Fetches the commit of one of rdev's own refs.
pub(super) async fn fetch_own(
    attempt: &Attempt,
    target: &BuildTarget,
    workspace: &Workspace,
    own: OwnRef,
) -> Result<CommitId, Interrupt> {
    let (dirs, remote) = (workspace.workdir(), target.remote.clone());
    let stop = attempt.lease.stop.token().clone();
    Ok(blocking(move || git::fetch_commit(&dirs, &remote, own, &stop)).await?)
}

/// The tip of the branch that a commit is based on: its parent, or absent while the branch
/// does not exist.
pub(super) async fn based_on(
    attempt: &Attempt,
    workspace: &Workspace,
    commit: &CommitId,
    tip: &Tip,
) -> Result<Tip, Interrupt> {
    if *tip == Tip::Absent && !matches!(attempt.task.scan_base, Some(Tip::Commit(_))) {
        return Ok(Tip::Absent);
    }
    let (dirs, commit) = (workspace.workdir(), commit.clone());
    let parent = blocking(move || git::parent(&dirs, &commit)).await?;
    Ok(parent.map_or(Tip::Absent, Tip::Commit))
}
