//! Whether a lineage's commit is on its branch.

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{Branch, CommitId, OwnRef, Tip};
use rdev_domain::task::Task;

use super::pull_request;
use super::refs::is_present;
use super::target::BuildTarget;
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::workspace::Workspace;
use crate::git::{GitError, Scan, Seen};

/// A commit of the lineage that was brought to the branch.
#[derive(Debug, Clone)]
pub(crate) struct Landing {
    pub(crate) commit: CommitId,
    /// The branch does not hold it any more: somebody has removed it.
    pub(crate) rewritten: bool,
}

/// Where the search for a commit of a task's lineage starts: at the scan base. The lineage of a
/// restored task may have landed before anything that the store knows of it, so the whole branch is
/// searched. `None`: nothing can have landed.
pub(super) fn search_base(task: &Task) -> Option<Tip> {
    task.scan_base.clone().or_else(|| task.restored.then_some(Tip::Absent))
}

/// Searches for a commit of this lineage between the scan base and the tip.
pub(super) async fn search(
    attempt: &Attempt,
    workspace: &Workspace,
    scan_base: &Tip,
    tip: &Tip,
) -> Result<Option<CommitId>, Interrupt> {
    let Tip::Commit(tip) = tip else {
        return match scan_base {
            Tip::Absent => Ok(None),
            Tip::Commit(_) => Err(Interrupt::rewritten("the branch was deleted")),
        };
    };
    match scan(attempt, workspace, scan_base, tip).await? {
        Scan::Found(commit) => Ok(Some(commit)),
        Scan::NotFound => Ok(None),
        Scan::NotAncestor => Err(Interrupt::rewritten(
            "the branch no longer contains the commit that the work was based on",
        )),
    }
}

async fn scan(
    attempt: &Attempt,
    workspace: &Workspace,
    base: &Tip,
    tip: &CommitId,
) -> Result<Scan, Interrupt> {
    let (dirs, lineage) = (workspace.workdir(), attempt.task.lineage);
    Ok(attempt.machine().find_lineage(&dirs, lineage, base, tip).await?)
}

/// What has become of a ticket that is neither at its place nor revoked. Its commit was pushed, or
/// a person deleted the ticket: it is never pushed again. Searches for it on the branch; for a pull
/// request on the branch that it goes to, and at the forge; in a folder of this machine in the
/// branch's log.
///
/// # Errors
/// A failure with `push_in_doubt` when it is found nowhere: a person has to decide.
pub(super) async fn after_ticket_is_gone(
    attempt: &Attempt,
    target: &BuildTarget,
    workspace: &Workspace,
    scan_base: &Tip,
    tip: &Tip,
) -> Result<Landing, Interrupt> {
    let mut found = anywhere_on(attempt, workspace, scan_base, tip).await?;
    let recorded = attempt.lease.own_refs.lock().await.clone();
    if found.is_none() {
        // A server may have listed one ref before, and another after, a push moved both. A list
        // that begins now shows them as they are since.
        let seen = look(attempt, target, workspace, &target.branch).await?;
        found = anywhere_on(attempt, workspace, scan_base, &seen.tip).await?;
        if found.is_none() && recorded.iter().any(|recorded| is_present(recorded, &seen.own)) {
            let message = "the ticket moved while it was looked for";
            return Err(Interrupt::failed(FailureClass::Infra, message));
        }
    }
    if let Some(commit) = found {
        return Ok(Landing { commit, rewritten: false });
    }
    if target.base_branch != target.branch {
        let base = look(attempt, target, workspace, &target.base_branch).await?;
        if let Some(commit) = anywhere_on(attempt, workspace, &Tip::Absent, &base.tip).await? {
            return Ok(Landing { commit, rewritten: true });
        }
    }
    let tickets = recorded.into_iter().filter(|recorded| matches!(recorded.own, OwnRef::Wip(..)));
    let commits: Vec<CommitId> = tickets.map(|recorded| recorded.commit).collect();
    let logged = attempt.machine().in_log(&target.remote, &target.branch, &commits).await?;
    let landed = match logged {
        None if target.base_branch != target.branch => {
            pull_request::landed(attempt, target, &commits).await?
        }
        logged => logged,
    };
    if let Some(commit) = landed {
        return Ok(Landing { commit, rewritten: true });
    }
    let message = "the ticket of the prepared commit is gone and the commit is not on the branch: somebody rewrote the branch or deleted the ticket. It is not pushed again; see whether the work is wanted, then retry";
    let failure = Failure::new(FailureClass::HistoryRewritten, message);
    Err(Interrupt::Failed(Failure { push_in_doubt: true, ..failure }))
}

/// What has landed of a restored task that was never prepared as far as the store knows. Searches
/// the whole branch, and if it goes to the default branch from there, that one too: its own may
/// have been merged and deleted.
pub(super) async fn landed_since_backup(
    attempt: &Attempt,
    target: &BuildTarget,
    workspace: &Workspace,
    tip: &Tip,
) -> Result<Option<Landing>, Interrupt> {
    if let Some(commit) = anywhere_on(attempt, workspace, &Tip::Absent, tip).await? {
        return Ok(Some(Landing { commit, rewritten: false }));
    }
    if target.base_branch == target.branch {
        return Ok(None);
    }
    let base = look(attempt, target, workspace, &target.base_branch).await?;
    let found = anywhere_on(attempt, workspace, &Tip::Absent, &base.tip).await?;
    Ok(found.map(|commit| Landing { commit, rewritten: true }))
}

/// Searches a branch, all of it where its history was rewritten.
async fn anywhere_on(
    attempt: &Attempt,
    workspace: &Workspace,
    scan_base: &Tip,
    tip: &Tip,
) -> Result<Option<CommitId>, Interrupt> {
    let Tip::Commit(tip) = tip else { return Ok(None) };
    let found = match scan(attempt, workspace, scan_base, tip).await? {
        Scan::NotAncestor => scan(attempt, workspace, &Tip::Absent, tip).await?,
        other => other,
    };
    Ok(match found {
        Scan::Found(commit) => Some(commit),
        Scan::NotFound | Scan::NotAncestor => None,
    })
}

/// Looks at a branch and at rdev's own refs.
pub(super) async fn look(
    attempt: &Attempt,
    target: &BuildTarget,
    workspace: &Workspace,
    branch: &Branch,
) -> Result<Seen, GitError> {
    let (dirs, stop) = (workspace.workdir(), attempt.lease.stop.token());
    attempt.machine().look(&dirs, &target.remote, branch, stop).await
}
