//! A build, phase by phase: checkout, agent, verify, commit, push.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use rdev_domain::failure::FailureClass;
use rdev_domain::git::{Branch, CommitId, OwnRef, RecordedRef};
use rdev_domain::result::{BuildResult, Outcome, TaskResult, Warning};
use rdev_domain::spec::BuildSpec;
use rdev_domain::step::Event;
use rdev_domain::task::TaskState;
use tracing::warn;

use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::settle::Settlement;
use crate::attempt::workspace::Workspace;
use crate::git::{Expect, GitError};
use crate::job::handler::TaskHandler;
use crate::machine::ServerLack;

mod agent_phase;
mod commit;
mod deliver;
mod earlier;
mod landed;
mod output;
mod pull_request;
mod push;
mod refs;
mod standing;
mod target;
mod ticket;
mod unfinished;
mod verified;

use agent_phase::AgentWork;
use earlier::{EarlierWork, FinishedWork};
use output::AgentOutput;
use push::PushContext;
use refs::{AsBranch, OwnPush};
use standing::Checkout;
pub(crate) use standing::Granted;
use target::BuildTarget;
use ticket::Held;

/// The task type `build`.
pub(crate) struct BuildHandler<'a>(pub(crate) &'a BuildSpec);

#[async_trait]
impl TaskHandler for BuildHandler<'_> {
    async fn run(&self, attempt: &Attempt) -> Result<Settlement, Interrupt> {
        match attempt.task.state {
            TaskState::Pushing => deliver::resume(attempt, self.0).await,
            _ => Box::pin(run(attempt, self.0)).await,
        }
    }
}

/// Runs a build from its checkout on.
async fn run(attempt: &Attempt, spec: &BuildSpec) -> Result<Settlement, Interrupt> {
    let machine = attempt.machine();
    let mut target = BuildTarget::of(attempt, spec)?;
    let key = workspace_key(attempt, spec)?;
    let workspace = attempt.workspace(&key).await?;
    let checkout = checkout(attempt, spec, &mut target, &workspace);
    let Checkout { fetched, files, push_right } = attempt.phase("checkout", checkout).await?;

    match earlier::find(attempt, &target, &workspace, &fetched, !spec.auto_push).await? {
        None => {}
        Some(EarlierWork::Landed(outcome)) => {
            attempt.note(
                "the push of an earlier attempt is on the branch; there is nothing left to do",
            );
            return deliver::landed(attempt, spec, &target, &workspace, outcome).await;
        }
        Some(EarlierWork::Finished(finished)) => {
            attempt.note("an earlier attempt finished the work; continuing from its commit");
            if !spec.auto_push {
                let FinishedWork { commit, output, .. } = *finished;
                return push_kept_ref(attempt, &target, &workspace, commit, output).await;
            }
            let FinishedWork { commit, earlier, verified, output } = *finished;
            let mut push =
                PushContext::of_work(attempt, spec, &target, &workspace, &fetched, commit).await?;
            push.adopted_by = Some(attempt.task.fence);
            push.held = earlier.map_or(Held::Nothing, Held::Earlier);
            if verified || push.verify_earlier(fetched.start.as_ref()).await? {
                return Box::pin(deliver::deliver(push, output)).await;
            }
        }
    }

    if let Some(refusal) = standing::refusal(attempt, spec, &target, push_right) {
        return Err(refusal);
    }
    if fetched.start.is_none() && fetched.has_branches {
        return Err(GitError::BranchNotFound(target.base_branch.to_string()).into());
    }
    let work = agent_phase::run(attempt, spec, &target, &workspace, &fetched).await;
    let AgentWork { mut output, push } = match work {
        Ok(work) => work,
        Err(interrupt) => {
            unfinished::save(attempt, &target, &workspace, fetched.start.as_ref(), &interrupt)
                .await;
            return Err(interrupt);
        }
    };
    if files.lfs_pointers {
        let message = "the repository uses Git LFS, which is not supported: its files were checked out as pointers";
        output
            .warnings
            .push(Warning { code: "lfs_pointers".to_owned(), message: message.to_owned() });
    }
    if output.run.as_ref().is_some_and(|run| run.session_id.is_some()) {
        let kept = machine.keep_session(&workspace.home(), &key, attempt.task.id);
        if let Err(error) = kept {
            let message = format!("the agent's session was not kept for continue_from: {error:#}");
            warn!(task = %attempt.task.id, message);
            output.warnings.push(Warning { code: "session_not_kept".to_owned(), message });
        }
    }
    if output.changes.total == 0 {
        return Ok(finish(attempt, Outcome::NoChange, None, &target.branch, output));
    }
    if !spec.auto_commit {
        return Ok(finish(attempt, Outcome::DiffOnly, None, &target.branch, output));
    }
    if let Some(push) = push {
        return Box::pin(deliver::deliver(push, output)).await;
    }
    let commit = attempt
        .phase("commit", commit::commit(attempt, spec, &workspace, fetched.start.as_ref(), &output))
        .await?;
    attempt.committed.store(true, Ordering::Relaxed);
    if !spec.auto_push {
        return push_kept_ref(attempt, &target, &workspace, commit, output).await;
    }
    let push = PushContext::of_work(attempt, spec, &target, &workspace, &fetched, commit).await?;
    Box::pin(deliver::deliver(push, output)).await
}

/// Ends a build with `auto_push: false`: pushes the commit to its kept ref, not to the branch.
async fn push_kept_ref(
    attempt: &Attempt,
    target: &BuildTarget,
    workspace: &Workspace,
    commit: CommitId,
    output: AgentOutput,
) -> Result<Settlement, Interrupt> {
    let kept = OwnRef::Kept(attempt.task.id);
    let adopted_by = output.run.is_none().then_some(attempt.task.fence);
    let entry = RecordedRef { adopted_by, ..RecordedRef::of(kept, commit.clone()) };
    refs::record(attempt, entry).await?;
    let stop = attempt.lease.stop.token();
    // The name of the ref has no fence: an attempt whose lease may have expired must not push it.
    attempt.lease.right_to_push(|| attempt.now()).await;
    if attempt.lease.stop.reason().is_some() {
        return Err(Interrupt::Stopped);
    }
    let as_branch = AsBranch::IfNeeded;
    let push = OwnPush { own: kept, commit: &commit, expect: Expect::Any, delete: None, as_branch };
    let pushing = async { Ok(refs::push_own(attempt, target, workspace, &push, stop).await?) };
    attempt.phase("push", pushing).await?;
    workspace.clear_finished()?;
    attempt.machine().forget_unpushed(attempt.task.id);
    let heads_only = attempt.machine().knows(ServerLack::OtherRefs, &target.remote.url);
    let mut result =
        output.build_result(attempt, Outcome::CommittedNotPushed, Some(commit), &target.branch);
    result.kept_ref = Some(kept.full_name(heads_only));
    Ok(settlement(attempt, result, output))
}

fn finish(
    attempt: &Attempt,
    outcome: Outcome,
    commit: Option<CommitId>,
    branch: &Branch,
    output: AgentOutput,
) -> Settlement {
    let result = output.build_result(attempt, outcome, commit, branch);
    settlement(attempt, result, output)
}

fn settlement(attempt: &Attempt, result: BuildResult, output: AgentOutput) -> Settlement {
    Settlement {
        event: Event::Finish {
            holder: attempt.lease.holder.clone(),
            result: TaskResult::Build(result),
            usage: *attempt.lease.usage.borrow(),
        },
        diff: (output.changes.total > 0).then_some(output.changes.diff),
    }
}

/// The name of the attempt's folder: its own, or the one that its session is bound to.
fn workspace_key(attempt: &Attempt, spec: &BuildSpec) -> Result<String, Interrupt> {
    let Some(from) = spec.continue_from else {
        return Ok(attempt.task.id.to_string());
    };
    attempt.machine().session_key(from).ok_or_else(|| {
        let message = format!("this worker no longer has the agent session of task {from}");
        Interrupt::failed(FailureClass::Invalid, message)
    })
}

async fn checkout(
    attempt: &Attempt,
    spec: &BuildSpec,
    target: &mut BuildTarget,
    workspace: &Workspace,
) -> Result<Checkout, Interrupt> {
    // What an old push may have brought to the branch is looked for, also when that is gone.
    let ticketed = attempt.task.own_refs.iter().any(|recorded| recorded.may_land);
    let checkout = standing::checkout(attempt, target, workspace, ticketed).await?;
    if checkout.files.lfs_pointers {
        attempt.note("Git LFS is not supported: its files are checked out as pointers");
    }
    if let Some(from) = spec.continue_from {
        attempt.machine().restore_session(&workspace.home(), from).await?;
    }
    Ok(checkout)
}
