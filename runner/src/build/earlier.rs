//! Work of earlier attempts of a lineage: the build looks for it before it starts an agent.

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{CommitId, OwnRef, RecordedRef};
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::ports::PortError;
use rdev_domain::task::Task;
use tracing::info;

use super::landed::{Landing, after_ticket_is_gone, landed_since_backup, search};
use super::output::AgentOutput;
use super::refs::{fetch_own, is_present, newest_of, newest_since};
use super::target::BuildTarget;
use super::ticket::revoke;
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::workspace::Workspace;
use crate::git::{Fetched, GitError, OwnTip};
use crate::machine::ServerLack;

/// A commit with all of a build's work.
pub(crate) struct FinishedWork {
    pub(crate) commit: CommitId,
    /// The ticket that has it, which is to be taken over.
    pub(crate) earlier: Option<RecordedRef>,
    /// Whether it has passed the verify commands, or there are none.
    pub(crate) verified: bool,
    pub(crate) output: AgentOutput,
}

/// Work of the lineage from before this attempt.
pub(crate) enum EarlierWork {
    /// Its commit is on the branch.
    Landed(Landing),
    /// It is committed, but not on the branch.
    Finished(Box<FinishedWork>),
}

/// Finds finished work of an earlier attempt: at a ticket, on this machine, or already on the
/// branch. Only what the store has recorded counts. Tickets that an old push may still take to the
/// branch are dealt with first. `keeps`: the build pushes its commit to its kept ref, not to a
/// branch.
pub(crate) async fn find(
    attempt: &Attempt,
    target: &BuildTarget,
    workspace: &Workspace,
    fetched: &Fetched,
    keeps: bool,
) -> Result<Option<EarlierWork>, Interrupt> {
    let task = &attempt.task;
    let old = predecessor(attempt).await?;
    let recorded = recorded_of(task, old.as_ref());
    let adopted = adoptable(task, &recorded, old.as_ref(), &fetched.own);
    let landed = landed(attempt, target, workspace, fetched, adopted.as_ref()).await?;
    if let Some(landed) = landed {
        return Ok(Some(EarlierWork::Landed(landed)));
    }
    if let Some(ticket) = adopted {
        let commit = fetch_own(attempt, target, workspace, &ticket).await?;
        let output = adopt(attempt, workspace, &commit).await?;
        let verified = !ticket.unverified;
        let finished = FinishedWork { commit, earlier: Some(ticket), verified, output };
        return Ok(Some(EarlierWork::Finished(Box::new(finished))));
    }
    // A build that pushes no branch keeps its work at the kept ref.
    let kept = task.own_refs.iter().find(|recorded| {
        recorded.own == OwnRef::Kept(task.id) && is_present(recorded, &fetched.own)
    });
    if let Some(kept) = kept.filter(|_| keeps) {
        let commit = fetch_own(attempt, target, workspace, kept).await?;
        let output = adopt(attempt, workspace, &commit).await?;
        let finished = FinishedWork { commit, earlier: None, verified: true, output };
        return Ok(Some(EarlierWork::Finished(Box::new(finished))));
    }
    let here = [Some((task.id, task.wip_floor)), old.map(|old| (old.id, old.wip_floor))];
    for (candidate, floor) in here.into_iter().flatten() {
        let found = attempt.machine().find_unpushed(candidate, floor);
        if let Some((fence, commit, gitdir)) = found
            && let Some(entry) = of_commit(&recorded, candidate, fence, &commit)
        {
            info!(task = %task.id, %fence, "continuing from a commit that an earlier attempt could not push");
            attempt.machine().borrow_unpushed(&workspace.workdir(), &gitdir).await?;
            workspace.record_finished(task.id, task.fence, &commit)?;
            let output = adopt(attempt, workspace, &commit).await?;
            let verified = !entry.unverified;
            let finished = FinishedWork { commit, earlier: None, verified, output };
            return Ok(Some(EarlierWork::Finished(Box::new(finished))));
        }
    }
    Ok(None)
}

/// What the store knows of this attempt's having finished this commit.
fn of_commit<'a>(
    recorded: &'a [RecordedRef],
    of: TaskId,
    fence: Fence,
    commit: &CommitId,
) -> Option<&'a RecordedRef> {
    let places = [OwnRef::Wip(of, fence), OwnRef::Kept(of)];
    recorded.iter().find(|recorded| places.contains(&recorded.own) && recorded.commit == *commit)
}

/// The refs that the store has recorded for the chain. A version before this one recorded none but
/// the ticket of a task that was prepared.
fn recorded_of(task: &Task, old: Option<&Task>) -> Vec<RecordedRef> {
    let prepared = old.and_then(|old| old.prepared.as_ref());
    match prepared.filter(|_| task.own_refs.is_empty()) {
        Some(prepared) => vec![prepared.ticket()],
        None => task.own_refs.clone(),
    }
}

/// The ticket that this attempt continues from: the newest one of its own task above the floor, or
/// else the one that a retry names, or the newest one of the task that it retries.
fn adoptable(
    task: &Task,
    recorded: &[RecordedRef],
    old: Option<&Task>,
    on_server: &[OwnTip],
) -> Option<RecordedRef> {
    let newest = |task_id, floor| newest_of(recorded, on_server, task_id, floor);
    newest(task.id, task.wip_floor)
        .or_else(|| {
            let named = task.resume_from.filter(|_| task.wip_floor == Fence(0))?;
            newest_since(recorded, on_server, named, |_| true)
        })
        .or_else(|| old.and_then(|old| newest(old.id, old.wip_floor)))
}

/// Looks for the lineage's commit on the branch, and deals with every ticket of the chain that an
/// old push may still take there: but for the one that is taken over they are revoked.
async fn landed(
    attempt: &Attempt,
    target: &BuildTarget,
    workspace: &Workspace,
    fetched: &Fetched,
    adopted: Option<&RecordedRef>,
) -> Result<Option<Landing>, Interrupt> {
    let task = &attempt.task;
    let in_doubt = task.own_refs.iter().filter(|recorded| recorded.may_land);
    let (there, gone): (Vec<&RecordedRef>, Vec<_>) =
        in_doubt.partition(|recorded| is_present(recorded, &fetched.own));
    let Some(scan_base) = &task.scan_base else {
        // They are of another lineage. What is gone of it was a person's to decide.
        for ticket in there {
            revoke_earlier(attempt, target, workspace, ticket).await?;
        }
        attempt.lease.own_refs.lock().await.retain(|recorded| !gone.contains(&recorded));
        if !task.restored {
            return Ok(None);
        }
        let found = landed_since_backup(attempt, target, workspace, &fetched.tip).await?;
        if let (Some(_), Some(ticket)) = (&found, adopted) {
            revoke_earlier(attempt, target, workspace, ticket).await?;
        }
        return Ok(found);
    };
    // Each of them was made of the one before, so where one was revoked those after it never were.
    let is_revoked = |ticket: &&RecordedRef| is_revoked(&task.own_refs, &fetched.own, ticket);
    if there.is_empty() && !gone.is_empty() && !gone.iter().any(is_revoked) {
        let tip = &fetched.tip;
        return after_ticket_is_gone(attempt, target, workspace, scan_base, tip).await.map(Some);
    }
    if there.is_empty() {
        // What was revoked is dealt with, also after the revoked one is taken over. (Where one is
        // there, the others may be values that it gets by a late push.)
        attempt.lease.own_refs.lock().await.retain(|recorded| !gone.contains(&recorded));
    }
    let found = search(attempt, workspace, scan_base, &fetched.tip).await;
    for ticket in there {
        if adopted != Some(ticket) || !matches!(found, Ok(None)) {
            revoke_earlier(attempt, target, workspace, ticket).await?;
        }
    }
    Ok(found?.map(|commit| Landing { commit, rewritten: false }))
}

/// Revokes a ticket of an earlier attempt, and tells the store when that is done. Where the server
/// lets no ref be deleted any more the ticket proves nothing, and stays; so does the record that an
/// old push of it may land.
async fn revoke_earlier(
    attempt: &Attempt,
    target: &BuildTarget,
    workspace: &Workspace,
    ticket: &RecordedRef,
) -> Result<(), Interrupt> {
    match revoke(attempt, target, workspace, ticket, FailureClass::Conflict).await? {
        Ok(()) => {}
        Err(GitError::NotAtomic) => {
            attempt.machine().learn(ServerLack::AtomicDeletion, &target.remote.url);
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    }
    let refs = attempt.lease.own_refs.lock().await.clone();
    attempt.record_refs(refs).await
}

/// Whether a ticket lies where it was revoked to.
fn is_revoked(recorded: &[RecordedRef], on_server: &[OwnTip], ticket: &RecordedRef) -> bool {
    let OwnRef::Wip(task, fence) = ticket.own else { return false };
    let own = OwnRef::Revoked(task, fence);
    recorded.iter().any(|other| other.own == own && is_present(other, on_server))
}

/// The task that this one retries, if this one may deliver its finished work: it is of the same
/// lineage, and its work is not the reason of its failure.
async fn predecessor(attempt: &Attempt) -> Result<Option<Task>, Interrupt> {
    let task = &attempt.task;
    let Some(id) = task.retry_of.filter(|_| task.lineage != task.id && task.wip_floor == Fence(0))
    else {
        return Ok(None);
    };
    let old = match attempt.context.ports.store.task(id).await {
        Ok(record) => record.task,
        Err(PortError::NotFound { .. }) => return Ok(None),
        Err(error) => {
            let error = anyhow::Error::new(error).context(format!("cannot read task {id}"));
            return Err(error.into());
        }
    };
    let adopts = |failure: &Failure| failure.class.rules().retry.adopts_finished_work();
    Ok(old.failure.as_ref().is_none_or(adopts).then_some(old))
}

/// Reads the work of an earlier attempt from its commit.
pub(crate) async fn adopt(
    attempt: &Attempt,
    workspace: &Workspace,
    commit: &CommitId,
) -> Result<AgentOutput, Interrupt> {
    let (dirs, caps) = (workspace.workdir(), attempt.caps());
    let changes = attempt.machine().changes_of(&dirs, commit, &caps).await?;
    let summary = "the work of an earlier attempt was delivered".to_owned();
    Ok(AgentOutput { run: None, summary, changes, verify: vec![], warnings: vec![] })
}
