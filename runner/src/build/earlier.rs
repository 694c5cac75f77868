//! What earlier attempts of a lineage have left: looked for before any agent is started.

use rdev_domain::failure::FailureClass;
use rdev_domain::git::{CommitId, OwnRef};
use rdev_domain::ids::Fence;
use rdev_domain::ports::PortError;
use rdev_domain::task::{Task, WipRef};
use tracing::info;

use super::output::Made;
use super::push::search;
use super::refs::{fetch_own, newest_of, newest_wip};
use super::target::Site;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::workspace::Workspace;
use crate::attempt::{Attempt, unpushed};
use crate::git::{self, Fetched, blocking};

/// A commit that holds all of a build's work.
pub(crate) struct Finished {
    pub(crate) commit: CommitId,
    /// The name it has, or gets, as a wip ref.
    pub(crate) wip: WipRef,
    pub(crate) made: Made,
}

/// Work of the lineage that was there before this attempt.
pub(crate) enum Earlier {
    /// Its commit is on the branch.
    Landed(CommitId),
    /// It is committed, but not on the branch.
    Finished(Box<Finished>),
}

/// Finished work of an earlier attempt: at a wip ref, on this machine, or
/// already on the branch. Looked for before any agent is started. `keeps`: the build
/// is one whose commit goes to its kept ref.
pub(crate) async fn find(
    attempt: &Attempt,
    site: &Site,
    workspace: &Workspace,
    fetched: &Fetched,
    keeps: bool,
) -> Result<Option<Earlier>, Interrupt> {
    let task = &attempt.task;
    let mine = WipRef { task: task.id, fence: task.fence };
    if let Some(scan_base) = &task.scan_base
        && let Some(commit) = search(attempt, workspace, scan_base, &fetched.tip).await?
    {
        return Ok(Some(Earlier::Landed(commit)));
    }
    let old = predecessor(attempt).await?;
    let wip = newest_wip(attempt, fetched).or_else(|| {
        let old = old.as_ref()?;
        newest_of(fetched, old.id, old.wip_floor)
    });
    if let Some((wip, _)) = wip {
        let commit = fetch_own(attempt, site, workspace, OwnRef::Wip(wip.task, wip.fence)).await?;
        let made = adopt(attempt, workspace, &commit).await?;
        return Ok(Some(Earlier::Finished(Box::new(Finished { commit, wip, made }))));
    }
    // A build that pushes no branch has its work at the kept ref.
    let kept = OwnRef::Kept(task.id);
    if keeps && fetched.own.iter().any(|(own, _)| *own == kept) {
        let commit = fetch_own(attempt, site, workspace, kept).await?;
        let made = adopt(attempt, workspace, &commit).await?;
        return Ok(Some(Earlier::Finished(Box::new(Finished { commit, wip: mine, made }))));
    }
    let here = [Some((task.id, task.wip_floor)), old.map(|old| (old.id, old.wip_floor))];
    for (candidate, floor) in here.into_iter().flatten() {
        let found = unpushed::find_unpushed(&attempt.shared.folders, candidate, floor);
        if let Some((fence, commit, gitdir)) = found {
            info!(task = %task.id, %fence, "going on from a commit that an earlier attempt could not push");
            unpushed::borrow_objects(&workspace.workdir(), &gitdir)?;
            workspace.mark_finished(task.id, task.fence, &commit)?;
            let made = adopt(attempt, workspace, &commit).await?;
            return Ok(Some(Earlier::Finished(Box::new(Finished { commit, wip: mine, made }))));
        }
    }
    Ok(None)
}

/// The task of which this one is a retry, if its finished work may be delivered
/// by this one: it is of the same lineage, and not itself what was wrong.
async fn predecessor(attempt: &Attempt) -> Result<Option<Task>, Interrupt> {
    let task = &attempt.task;
    let Some(id) = task.retry_of.filter(|_| task.lineage != task.id && task.wip_floor == Fence(0))
    else {
        return Ok(None);
    };
    let old = match attempt.shared.ports.store.task(id).await {
        Ok(record) => record.task,
        Err(PortError::NotFound { .. }) => return Ok(None),
        Err(error) => {
            let error = anyhow::Error::new(error).context(format!("cannot read task {id}"));
            return Err(error.into());
        }
    };
    let wrong = old.failure.as_ref().is_some_and(|failure| {
        use FailureClass::{Conflict, HistoryRewritten, Invalid, VerifyFailed};
        matches!(failure.class, Conflict | VerifyFailed | Invalid | HistoryRewritten)
    });
    Ok((!wrong).then_some(old))
}

/// What an earlier attempt made, read from its commit.
pub(crate) async fn adopt(
    attempt: &Attempt,
    workspace: &Workspace,
    commit: &CommitId,
) -> Result<Made, Interrupt> {
    let (dirs, of, caps) = (workspace.workdir(), commit.clone(), attempt.caps());
    let changes = blocking(move || {
        let parent = git::parent(&dirs, &of)?;
        git::diff_of(&dirs, &of, parent.as_ref(), &caps)
    })
    .await?;
    let summary = "the work of an earlier attempt was delivered".to_owned();
    Ok(Made { run: None, summary, changes, warnings: vec![] })
}
