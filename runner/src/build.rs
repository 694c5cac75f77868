//! A build, phase by phase: checkout, agent, verify, commit, push.

use rdev_domain::failure::FailureClass;
use rdev_domain::git::{Branch, CommitId, OwnRef};
use rdev_domain::result::{Outcome, TaskResult, Warning};
use rdev_domain::spec::BuildSpec;
use rdev_domain::step::Event;
use rdev_domain::task::WipRef;
use tracing::warn;

use crate::attempt::interrupt::Interrupt;
use crate::attempt::settle::Settlement;
use crate::attempt::workspace::Workspace;
use crate::attempt::{Attempt, session, unpushed};
use crate::git::{self, Fetched, blocking};

mod agent_phase;
mod commit;
mod commit_status;
mod deliver;
mod earlier;
mod output;
mod pull_request;
mod push;
mod refs;
mod target;
mod unfinished;

pub(crate) use deliver::resume;
use earlier::{Earlier, Finished};
use output::Made;
use target::Site;

/// Runs a build whose task was `queued`.
pub(crate) async fn run(attempt: &Attempt, spec: &BuildSpec) -> Result<Settlement, Interrupt> {
    let shared = &attempt.shared;
    let site = Site::of(attempt, spec)?;
    let key = workspace_key(attempt, spec)?;
    let workspace = attempt.workspace(&key).await?;
    let (fetched, lfs) =
        attempt.phase("checkout", checkout(attempt, spec, &site, &workspace)).await?;

    match earlier::find(attempt, &site, &workspace, &fetched, !spec.auto_push).await? {
        None => {}
        Some(Earlier::Landed(commit)) => {
            attempt.note("an earlier attempt's push has landed; there is nothing left to do");
            return deliver::landed(attempt, spec, &site, &workspace, commit).await;
        }
        Some(Earlier::Finished(finished)) => {
            attempt.note("an earlier attempt had finished the work; going on from its commit");
            if !spec.auto_push {
                let Finished { commit, made, .. } = *finished;
                return keep(attempt, &site, &workspace, commit, made).await;
            }
            let tip = &fetched.tip;
            return deliver::deliver(attempt, spec, &site, &workspace, tip, *finished).await;
        }
    }

    let outcome = agent_phase::work(attempt, spec, &workspace, fetched.start.as_ref()).await;
    let mut made = match outcome {
        Ok(made) => made,
        Err(interrupt) => {
            unfinished::keep_part(attempt, &site, &workspace, fetched.start.as_ref(), &interrupt)
                .await;
            return Err(interrupt);
        }
    };
    if lfs {
        let message = "the repository uses Git LFS, which is not supported: its files were checked out as pointers";
        made.warnings
            .push(Warning { code: "lfs_pointers".to_owned(), message: message.to_owned() });
    }
    if made.run.as_ref().is_some_and(|run| run.session_id.is_some()) {
        let kept = session::keep_session(&shared.folders, &workspace.home(), &key, attempt.task.id);
        if let Err(error) = kept {
            let message = format!("the agent's session was not kept for continue_from: {error:#}");
            warn!(task = %attempt.task.id, message);
            made.warnings.push(Warning { code: "session_not_kept".to_owned(), message });
        }
    }
    if made.changes.total == 0 {
        return Ok(finish(attempt, Outcome::NoChange, None, &site.target, made));
    }
    if !spec.auto_commit {
        return Ok(finish(attempt, Outcome::DiffOnly, None, &site.target, made));
    }
    let commit = attempt
        .phase("commit", commit::commit(attempt, spec, &workspace, fetched.start.clone(), &made))
        .await?;
    if !spec.auto_push {
        return keep(attempt, &site, &workspace, commit, made).await;
    }
    let wip = WipRef { task: attempt.task.id, fence: attempt.task.fence };
    let finished = Finished { commit, wip, made };
    deliver::deliver(attempt, spec, &site, &workspace, &fetched.tip, finished).await
}

/// Ends a build that was asked not to push its branch: the commit goes to its kept ref.
async fn keep(
    attempt: &Attempt,
    site: &Site,
    workspace: &Workspace,
    commit: CommitId,
    made: Made,
) -> Result<Settlement, Interrupt> {
    let kept = OwnRef::Kept(attempt.task.id);
    let stop = attempt.held.stop.token();
    // The ref has no fence in its name: who may be taken for dead does not touch it.
    attempt.held.right_to_push().await;
    if attempt.held.stop.why().is_some() {
        return Err(Interrupt::Stopped);
    }
    attempt.phase("push", refs::push_own(attempt, site, workspace, kept, &commit, stop)).await?;
    workspace.mark_safe()?;
    unpushed::forget_unpushed(&attempt.shared.folders, attempt.task.id);
    Ok(finish(attempt, Outcome::CommittedNotPushed, Some(commit), &site.target, made))
}

fn finish(
    attempt: &Attempt,
    outcome: Outcome,
    commit: Option<CommitId>,
    branch: &Branch,
    made: Made,
) -> Settlement {
    let result = output::result(attempt, outcome, commit, branch, &made);
    Settlement {
        event: Event::Finish {
            holder: attempt.held.holder.clone(),
            result: TaskResult::Build(result),
            usage: *attempt.held.usage.borrow(),
        },
        diff: (made.changes.total > 0).then_some(made.changes.diff),
    }
}

/// The folder that the attempt works in: its own, or the one its session is bound to.
fn workspace_key(attempt: &Attempt, spec: &BuildSpec) -> Result<String, Interrupt> {
    let Some(from) = spec.continue_from else {
        return Ok(attempt.task.id.to_string());
    };
    session::session_key(&attempt.shared.folders, from).ok_or_else(|| {
        let message =
            format!("the agent session of task {from} is not kept on this worker any more");
        Interrupt::failed(FailureClass::Invalid, message)
    })
}

async fn checkout(
    attempt: &Attempt,
    spec: &BuildSpec,
    site: &Site,
    workspace: &Workspace,
) -> Result<(Fetched, bool), Interrupt> {
    let fetched = site.fetch(attempt).await?;
    let (mirror, start) = (fetched.mirror.clone(), fetched.start.clone());
    let (dirs, branch) = (workspace.workdir(), site.target.clone());
    let stop = attempt.held.stop.token().clone();
    let out =
        blocking(move || git::checkout(&mirror, start.as_ref(), &branch, &dirs, &stop)).await?;
    if out.lfs_pointers {
        attempt.note("Git LFS is not supported: its files are checked out as pointers");
    }
    if let Some(from) = spec.continue_from {
        session::restore_session(&attempt.shared.folders, &workspace.home(), from)?;
    }
    Ok((fetched, out.lfs_pointers))
}
