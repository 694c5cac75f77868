//! Work of earlier attempts of a lineage: the build looks for it before it starts an agent.

use rdev_domain::failure::Failure;
use rdev_domain::git::{CommitId, OwnRef};
use rdev_domain::ids::Fence;
use rdev_domain::ports::PortError;
use rdev_domain::task::{Task, WipRef};
use tracing::info;

use super::output::AgentOutput;
use super::push::search;
use super::refs::{fetch_own, newest_of, newest_wip};
use super::target::BuildTarget;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::workspace::Workspace;
use crate::attempt::{Attempt, unpushed};
use crate::git::{self, Fetched, blocking};

/// A commit with all of a build's work.
pub(crate) struct FinishedWork {
    pub(crate) commit: CommitId,
    /// Its wip ref, which may not exist yet.
    pub(crate) wip: WipRef,
    pub(crate) output: AgentOutput,
}

/// Work of the lineage from before this attempt.
pub(crate) enum EarlierWork {
    /// Its commit is on the branch.
    Landed(CommitId),
    /// It is committed, but not on the branch.
    Finished(Box<FinishedWork>),
}

/// Finds finished work of an earlier attempt: at a wip ref, on this machine, or already on
/// the branch. `keeps`: the build pushes its commit to its kept ref, not to a branch.
pub(crate) async fn find(
    attempt: &Attempt,
    target: &BuildTarget,
    workspace: &Workspace,
    fetched: &Fetched,
    keeps: bool,
) -> Result<Option<EarlierWork>, Interrupt> {
    let task = &attempt.task;
    let mine = WipRef { task: task.id, fence: task.fence };
    if let Some(scan_base) = &task.scan_base
        && let Some(commit) = search(attempt, workspace, scan_base, &fetched.tip).await?
    {
        return Ok(Some(EarlierWork::Landed(commit)));
    }
    let old = predecessor(attempt).await?;
    let wip = newest_wip(attempt, fetched).or_else(|| {
        let old = old.as_ref()?;
        newest_of(fetched, old.id, old.wip_floor)
    });
    if let Some((wip, _)) = wip {
        let commit =
            fetch_own(attempt, target, workspace, OwnRef::Wip(wip.task, wip.fence)).await?;
        let output = adopt(attempt, workspace, &commit).await?;
        return Ok(Some(EarlierWork::Finished(Box::new(FinishedWork { commit, wip, output }))));
    }
    // A build that pushes no branch keeps its work at the kept ref.
    let kept = OwnRef::Kept(task.id);
    if keeps && fetched.own.iter().any(|(own, _)| *own == kept) {
        let commit = fetch_own(attempt, target, workspace, kept).await?;
        let output = adopt(attempt, workspace, &commit).await?;
        return Ok(Some(EarlierWork::Finished(Box::new(FinishedWork {
            commit,
            wip: mine,
            output,
        }))));
    }
    let here = [Some((task.id, task.wip_floor)), old.map(|old| (old.id, old.wip_floor))];
    for (candidate, floor) in here.into_iter().flatten() {
        let found = unpushed::find_unpushed(&attempt.context.folders, candidate, floor);
        if let Some((fence, commit, gitdir)) = found {
            info!(task = %task.id, %fence, "continuing from a commit that an earlier attempt could not push");
            unpushed::borrow_objects(&workspace.workdir(), &gitdir)?;
            workspace.record_finished(task.id, task.fence, &commit)?;
            let output = adopt(attempt, workspace, &commit).await?;
            return Ok(Some(EarlierWork::Finished(Box::new(FinishedWork {
                commit,
                wip: mine,
                output,
            }))));
        }
    }
    Ok(None)
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
    let (dirs, of, caps) = (workspace.workdir(), commit.clone(), attempt.caps());
    let changes = blocking(move || {
        let parent = git::parent(&dirs, &of)?;
        git::diff_of(&dirs, &of, parent.as_ref(), &caps)
    })
    .await?;
    let summary = "the work of an earlier attempt was delivered".to_owned();
    Ok(AgentOutput { run: None, summary, changes, warnings: vec![] })
}
