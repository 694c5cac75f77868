//! rdev's own refs in a repository: pushing to them, finding them, and fetching what they hold.

use rdev_domain::git::{CommitId, OwnRef, Tip};
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::task::WipRef;
use tokio_util::sync::CancellationToken;

use super::target::Site;
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::workspace::Workspace;
use crate::git::{self, Expect, Fetched, GitError, blocking};

/// Pushes a commit to one of rdev's own refs; returns where the branch is, as
/// the push's own advertisement tells.
pub(super) async fn push_own(
    attempt: &Attempt,
    site: &Site,
    workspace: &Workspace,
    own: OwnRef,
    commit: &CommitId,
    stop: &CancellationToken,
) -> Result<Tip, Interrupt> {
    let known = &attempt.shared.heads_only;
    let mut heads_only = known.contains(&site.remote.url);
    loop {
        let prefix = if heads_only { "refs/heads" } else { "refs" };
        let name = format!("{prefix}/{}", own.path());
        attempt.remember_ref(&site.remote, &name);
        let (dirs, remote, commit) = (workspace.workdir(), site.remote.clone(), commit.clone());
        let (watch, stop) = (site.target.clone(), stop.clone());
        let pushed = blocking(move || {
            git::push(&dirs, &remote, &commit, &name, &Expect::Any, &watch, &stop)
        });
        match pushed.await {
            // Or a hook that refuses this very push: it is remembered only when a branch is taken.
            Err(GitError::RefNamespaceRefused) if !heads_only => heads_only = true,
            Ok(tip) => {
                if heads_only && !known.contains(&site.remote.url) {
                    known.insert(&site.remote.url);
                }
                return Ok(tip);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The newest wip ref that this attempt may go on from: its own task's above
/// the floor, else the one that a retry was handed.
pub(super) fn newest_wip(attempt: &Attempt, fetched: &Fetched) -> Option<(WipRef, CommitId)> {
    let task = &attempt.task;
    newest_of(fetched, task.id, task.wip_floor).or_else(|| {
        let handed = task.resume_from.filter(|_| task.wip_floor == Fence(0))?;
        Some((handed, at_wip(fetched, handed)?))
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

/// The commit at a wip ref, if the ref was advertised.
pub(super) fn at_wip(fetched: &Fetched, wip: WipRef) -> Option<CommitId> {
    let wanted = OwnRef::Wip(wip.task, wip.fence);
    fetched.own.iter().find(|(own, _)| *own == wanted).map(|(_, commit)| commit.clone())
}

/// Brings the commit of a ref of rdev's own here; where the ref is now.
pub(super) async fn fetch_own(
    attempt: &Attempt,
    site: &Site,
    workspace: &Workspace,
    own: OwnRef,
) -> Result<CommitId, Interrupt> {
    let (dirs, remote) = (workspace.workdir(), site.remote.clone());
    let stop = attempt.held.stop.token().clone();
    Ok(blocking(move || git::fetch_commit(&dirs, &remote, own, &stop)).await?)
}

/// What a commit is based on, in terms of the branch: its parent, or "absent"
/// while the branch does not exist.
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
