//! rdev's own refs in a repository: record them, push to them, find them, fetch their commits.

use std::time::Duration;

use rdev_domain::git::{CommitId, OwnRef, RecordedRef, Tip};
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::spec::BuildSpec;
use rdev_domain::task::WipRef;
use tokio_util::sync::CancellationToken;

use super::target::BuildTarget;
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::workspace::Workspace;
use crate::git::{Expect, Fetched, GitError, OwnTip, Push, Pushed, Until};
use crate::machine::ServerLack;

/// A push to one of rdev's own refs.
pub(super) struct OwnPush<'a> {
    pub(super) own: OwnRef,
    pub(super) commit: &'a CommitId,
    pub(super) expect: Expect,
    /// Another one, which the same push deletes from this value.
    pub(super) delete: Option<(OwnRef, &'a CommitId)>,
    pub(super) as_branch: AsBranch,
}

/// Whether one of rdev's own refs is a branch on a server that accepts only branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AsBranch {
    IfNeeded,
    /// CI would run what nobody has verified.
    Never,
}

/// Pushes a commit to one of rdev's own refs. The first push of an attempt is always one of these, so
/// here the forge's answer is waited for that the checkout did not wait for.
pub(super) async fn push_own(
    attempt: &Attempt,
    target: &BuildTarget,
    workspace: &Workspace,
    push: &OwnPush<'_>,
    stop: &CancellationToken,
) -> Result<Pushed, GitError> {
    let (machine, remote, dirs) = (attempt.machine(), &target.remote, workspace.workdir());
    target.is_still_there(attempt).await?;
    let mut heads_only = machine.knows(ServerLack::OtherRefs, &remote.url);
    loop {
        let name = push.own.full_name(heads_only);
        attempt.own_refs.about_to_write(remote, &name);
        let sent = Push {
            dirs: &dirs,
            remote,
            commit: push.commit,
            target: &name,
            expect: &push.expect,
            delete: push.delete,
            watch: &target.branch,
            known: None,
            until: Until::Updated,
        };
        match machine.push(&sent, stop).await {
            // It may also be a hook that refuses this one push: the server is remembered only
            // after it has accepted a branch.
            Err(GitError::RefNamespaceRefused)
                if !heads_only && push.as_branch == AsBranch::IfNeeded =>
            {
                heads_only = true;
            }
            Ok(pushed) => {
                if heads_only {
                    machine.learn(ServerLack::OtherRefs, &remote.url);
                }
                attempt.own_refs.written(&name, push.commit);
                if let Some((deleted, _)) = push.delete {
                    attempt.own_refs.gone(deleted);
                }
                return Ok(pushed);
            }
            Err(error) => {
                if error.is_in_doubt() {
                    attempt.own_refs.perhaps_written(&name, push.commit);
                }
                return Err(error);
            }
        }
    }
}

/// Awaits work, and stops it by its token after a while. It is awaited also then: the next attempt
/// gets the folder.
pub(super) async fn within<T>(
    limit: Duration,
    token: &CancellationToken,
    work: impl Future<Output = T>,
) -> T {
    let timer = async {
        tokio::time::sleep(limit).await;
        token.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        done = work => done,
        () = timer => unreachable!("the timer never ends"),
    }
}

/// Records one more ref that the attempt is about to write.
pub(super) async fn record(attempt: &Attempt, entry: RecordedRef) -> Result<(), Interrupt> {
    let mut refs = attempt.lease.own_refs.lock().await.clone();
    if refs.contains(&entry) {
        return Ok(());
    }
    if entry.adopted_by.is_some() {
        // It tells more than the one of the attempt that made the work.
        refs.retain(|one| RecordedRef { adopted_by: entry.adopted_by, ..one.clone() } != entry);
    }
    refs.push(entry);
    attempt.record_refs(refs).await
}

/// Whether the server has a recorded ref, at the recorded commit.
pub(super) fn is_present(recorded: &RecordedRef, on_server: &[OwnTip]) -> bool {
    on_server.iter().any(|(own, commit)| *own == recorded.own && *commit == recorded.commit)
}

/// The newest recorded ticket of a task above a fence that the server has.
pub(super) fn newest_of(
    recorded: &[RecordedRef],
    on_server: &[OwnTip],
    task: TaskId,
    floor: Fence,
) -> Option<RecordedRef> {
    let present = recorded.iter().filter(|recorded| is_present(recorded, on_server));
    let tickets = present.filter_map(|recorded| match recorded.own {
        OwnRef::Wip(id, fence) if id == task && fence > floor => Some((fence, recorded)),
        _ => None,
    });
    tickets.max_by_key(|(fence, _)| *fence).map(|(_, recorded)| recorded.clone())
}

/// The newest recorded ticket of a push that the server has: the one that was prepared, one that a
/// later claim has made of it, or where one of them lies after it was revoked.
pub(super) fn newest_since(
    recorded: &[RecordedRef],
    on_server: &[OwnTip],
    prepared: WipRef,
    of_push: impl Fn(&RecordedRef) -> bool,
) -> Option<RecordedRef> {
    let present = recorded.iter().filter(|recorded| is_present(recorded, on_server));
    let tickets = present.filter_map(|recorded| match recorded.own {
        OwnRef::Wip(task, fence) if of_push(recorded) => Some((task, fence, recorded)),
        OwnRef::Revoked(task, fence) => Some((task, fence, recorded)),
        _ => None,
    });
    let since = tickets
        .filter(|(task, fence, _)| *task == prepared.task && *fence >= prepared.fence)
        .max_by_key(|(_, fence, _)| *fence);
    since.map(|(.., recorded)| recorded.clone())
}

/// Fetches the commit of one of rdev's own refs, which has to be the recorded one.
pub(super) async fn fetch_own(
    attempt: &Attempt,
    target: &BuildTarget,
    workspace: &Workspace,
    recorded: &RecordedRef,
) -> Result<CommitId, Interrupt> {
    let (dirs, stop) = (workspace.workdir(), attempt.lease.stop.token());
    let machine = attempt.machine();
    let found = machine.fetch_commit(&dirs, &target.remote, recorded.own, stop).await?;
    if found != recorded.commit {
        return Err(GitError::Moved { tip: Tip::Commit(found) }.into());
    }
    Ok(found)
}

/// The tip of the branch that a commit is based on: its parent, or absent where the commit begins
/// the branch. While the branch does not exist, a commit begins it if everything below the commit
/// is on the branch from which a new one starts: anything else was on a branch that a person has
/// deleted, and would come back with it.
pub(super) async fn based_on(
    attempt: &Attempt,
    workspace: &Workspace,
    commit: &CommitId,
    fetched: &Fetched,
) -> Result<Tip, Interrupt> {
    let (machine, dirs) = (attempt.machine(), workspace.workdir());
    let Some(parent) = machine.parent(&dirs, commit).await? else { return Ok(Tip::Absent) };
    if fetched.tip == Tip::Absent
        && !was_there(attempt)
        && let Some(start) = &fetched.start
        && machine.contains(&dirs, &parent, start).await?
    {
        return Ok(Tip::Absent);
    }
    Ok(Tip::Commit(parent))
}

/// Where the branch of a pull request begins that is not there and never was.
pub(super) fn begins_at(
    attempt: &Attempt,
    spec: &BuildSpec,
    fetched: &Fetched,
) -> Option<CommitId> {
    let may_be_made =
        spec.opens_pull_request() && fetched.tip == Tip::Absent && !was_there(attempt);
    fetched.start.clone().filter(|_| may_be_made)
}

/// Whether the branch was there when the lineage's first commit was prepared.
fn was_there(attempt: &Attempt) -> bool {
    matches!(attempt.task.scan_base, Some(Tip::Commit(_)))
}
