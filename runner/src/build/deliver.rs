//! Steps 5 and 6 of `docs/protocol.md`: from a commit that exists only here to
//! one that is proved to be on the branch, at most once per lineage.

use std::sync::atomic::Ordering;

use rdev_domain::event::EventKind;
use rdev_domain::failure::FailureClass;
use rdev_domain::git::{CommitId, OwnRef, Tip};
use rdev_domain::ports::CommitState;
use rdev_domain::result::{BuildResult, Outcome, TaskResult, Warning};
use rdev_domain::spec::BuildSpec;
use rdev_domain::step::Event;
use rdev_domain::task::{Prepared, WipRef};
use serde_json::json;
use tracing::info;

use super::earlier::{self, FinishedWork};
use super::output::AgentOutput;
use super::push::{MAX_ROUNDS, PushContext, PushOutcome, search};
use super::refs::{at_wip, based_on, fetch_own, newest_wip};
use super::target::BuildTarget;
use super::{commit_status, pull_request};
use crate::attempt::interrupt::Interrupt;
use crate::attempt::settle::{self, Settlement};
use crate::attempt::workspace::Workspace;
use crate::attempt::{Attempt, unpushed};
use crate::git::{self, blocking};
use crate::now;

/// The next step after [`prepare`].
enum Preparation {
    /// Push. The search for a commit of the lineage starts at `scan_base`.
    Push { scan_base: Tip },
    /// Nothing: the branch already has the work.
    Done(PushOutcome),
}

/// Prepares and pushes finished work of a task that is `running`.
pub(crate) async fn deliver(
    attempt: &Attempt,
    spec: &BuildSpec,
    target: &BuildTarget,
    workspace: &Workspace,
    tip: &Tip,
    finished: FinishedWork,
) -> Result<Settlement, Interrupt> {
    let FinishedWork { commit, wip, output } = finished;
    attempt.committed.store(true, Ordering::Relaxed);
    let base = based_on(attempt, workspace, &commit, tip).await?;
    let mine = WipRef { task: attempt.task.id, fence: attempt.task.fence };
    let mut push = PushContext { attempt, spec, target, workspace, wip: mine, commit, base };
    let outcome = attempt
        .phase("push", async {
            match prepare(&mut push, &output).await? {
                Preparation::Push { scan_base } => {
                    push.set_status(CommitState::Pending, "is being pushed").await;
                    let tip = push.base.clone();
                    push.push_from(&scan_base, tip).await
                }
                Preparation::Done(outcome) => Ok(outcome),
            }
        })
        .await;
    let outcome = push.report_failure(outcome).await?;
    if wip != mine {
        info!(task = %attempt.task.id, from = %wip.task, fence = %wip.fence, "delivered the work of an earlier attempt");
    }
    let result = output.build_result(attempt, Outcome::Delivered, None, &target.branch);
    complete(&push, result, outcome).await
}

/// Resumes a task that was `pushing` when its last attempt ended: looks at the remote first,
/// then continues from the wip ref.
pub(crate) async fn resume(attempt: &Attempt, spec: &BuildSpec) -> Result<Settlement, Interrupt> {
    let mut target = BuildTarget::of(attempt, spec)?;
    let workspace = attempt.workspace(&attempt.task.id.to_string()).await?;
    let (Some(prepared), Some(TaskResult::Build(result))) =
        (&attempt.task.prepared, &attempt.task.result)
    else {
        return Err(Interrupt::failed(
            FailureClass::Poison,
            "the task is pushing, but nothing is prepared",
        ));
    };
    // The project's default branch may be another one by now.
    target.branch = prepared.branch.clone();
    let scan_base = attempt.task.scan_base.clone().unwrap_or_else(|| prepared.base.clone());
    let fetched = attempt
        .phase("checkout", async {
            let fetched = target.fetch(attempt).await?;
            let (mirror, start) = (fetched.mirror.clone(), fetched.start.clone());
            let (dirs, branch) = (workspace.workdir(), target.branch.clone());
            let stop = attempt.lease.stop.token().clone();
            blocking(move || git::checkout(&mirror, start.as_ref(), &branch, &dirs, &stop)).await?;
            Ok(fetched)
        })
        .await?;
    let mine = WipRef { task: attempt.task.id, fence: attempt.task.fence };
    let found = search(attempt, &workspace, &scan_base, &fetched.tip).await?;
    let mut push = PushContext {
        attempt,
        spec,
        target: &target,
        workspace: &workspace,
        wip: mine,
        commit: prepared.commit.clone(),
        base: prepared.base.clone(),
    };
    if let Some(commit) = found {
        return complete(&push, result.clone(), PushOutcome::Landed { commit, rewritten: false })
            .await;
    }
    let wip = newest_wip(attempt, &fetched)
        .or_else(|| at_wip(&fetched, prepared.wip).map(|commit| (prepared.wip, commit)));
    let Some((wip, _)) = wip else {
        attempt
            .note("the prepared commit is neither on the branch nor at its wip ref; starting over");
        let holder = attempt.lease.holder.clone();
        return Ok(Settlement { event: Event::Restart { holder }, diff: None });
    };
    let commit = fetch_own(attempt, &target, &workspace, OwnRef::Wip(wip.task, wip.fence)).await?;
    push.base = based_on(attempt, &workspace, &commit, &fetched.tip).await?;
    push.commit = commit;
    attempt.prepared.store(true, Ordering::Relaxed);
    let outcome = attempt
        .phase("push", async {
            // Under the name of this claim: a rebased commit must not overwrite the ref that
            // another claim may still read.
            push.push_wip().await?;
            push.set_status(CommitState::Pending, "is being pushed").await;
            push.push_from(&scan_base, fetched.tip.clone()).await
        })
        .await;
    let outcome = push.report_failure(outcome).await?;
    complete(&push, result.clone(), outcome).await
}

/// Ends a build whose commit an earlier attempt has pushed to the branch.
pub(crate) async fn landed(
    attempt: &Attempt,
    spec: &BuildSpec,
    target: &BuildTarget,
    workspace: &Workspace,
    commit: CommitId,
) -> Result<Settlement, Interrupt> {
    attempt.committed.store(true, Ordering::Relaxed);
    let output = earlier::adopt(attempt, workspace, &commit).await?;
    let result = output.build_result(attempt, Outcome::Delivered, None, &target.branch);
    let wip = WipRef { task: attempt.task.id, fence: attempt.task.fence };
    let push = PushContext {
        attempt,
        spec,
        target,
        workspace,
        wip,
        commit: commit.clone(),
        base: Tip::Absent,
    };
    complete(&push, result, PushOutcome::Landed { commit, rewritten: false }).await
}

/// Moves the task from `running` to `pushing`: the commit is at its wip ref and based on the
/// tip of the branch, and the store knows it.
async fn prepare(
    push: &mut PushContext<'_>,
    output: &AgentOutput,
) -> Result<Preparation, Interrupt> {
    let attempt = push.attempt;
    let mut moved = 0;
    loop {
        let tip = push.push_wip().await?;
        push.workspace.clear_finished()?;
        unpushed::forget_unpushed(&attempt.context.folders, attempt.task.id);
        if tip == push.base {
            break;
        }
        moved += 1;
        if moved > MAX_ROUNDS {
            return Err(Interrupt::failed(
                FailureClass::Infra,
                "the branch moved at every attempt to prepare the push",
            ));
        }
        attempt.note("the branch has moved; rebasing onto its new tip");
        let tip = push.fetch_tip().await?;
        // A late push of an earlier attempt may have moved it.
        if let Some(scan_base) = &attempt.task.scan_base
            && let Some(commit) = search(attempt, push.workspace, scan_base, &tip).await?
        {
            return Ok(Preparation::Done(PushOutcome::Landed { commit, rewritten: false }));
        }
        if !push.rebase_onto(&tip).await? {
            return Ok(Preparation::Done(PushOutcome::AlreadyThere));
        }
    }
    let prepared = Prepared {
        commit: push.commit.clone(),
        base: push.base.clone(),
        branch: push.target.branch.clone(),
        wip: push.wip,
        at: now(),
    };
    let commit = Some(push.commit.clone());
    let result = output.build_result(attempt, Outcome::Delivered, commit, &push.target.branch);
    let event = Event::Prepare {
        holder: attempt.lease.holder.clone(),
        prepared,
        result,
        usage: *attempt.lease.usage.borrow(),
    };
    let advanced = settle::advance(attempt, event, Some(output.changes.diff.clone())).await?;
    attempt.prepared.store(true, Ordering::Relaxed);
    let state = json!({"state": "pushing", "attempt": attempt.task.attempt});
    attempt.lease.events.add(EventKind::State, state, now());
    let scan_base = advanced.task.scan_base.unwrap_or_else(|| push.base.clone());
    Ok(Preparation::Push { scan_base })
}

/// The settlement of a build whose push has succeeded.
async fn complete(
    push: &PushContext<'_>,
    mut result: BuildResult,
    outcome: PushOutcome,
) -> Result<Settlement, Interrupt> {
    let (attempt, target) = (push.attempt, push.target);
    unpushed::forget_unpushed(&attempt.context.folders, attempt.task.id);
    match outcome {
        PushOutcome::AlreadyThere => {
            attempt.note("the branch already has the same change; there is nothing to deliver");
            result.outcome = Outcome::NoChange;
            result.commit_sha = None;
        }
        PushOutcome::Landed { commit, rewritten } => {
            attempt.note(format!("delivered {commit} to {}", target.branch));
            result.outcome = Outcome::Delivered;
            result.commit_sha = Some(commit.clone());
            let repository = &target.remote.url;
            let state = CommitState::Success;
            commit_status::set(attempt, repository, &commit, state, "delivered").await;
            if rewritten {
                let message = "the server accepted the push, but the commit is no longer on the branch: somebody removed it";
                result.warnings.push(Warning {
                    code: "branch_rewritten".to_owned(),
                    message: message.to_owned(),
                });
            }
            if push.spec.pull_request {
                pull_request::open(push, &commit, &mut result).await?;
            }
        }
    }
    for (phase, millis) in attempt.durations() {
        result.durations_ms.insert(phase, millis);
    }
    let holder = attempt.lease.holder.clone();
    let event = if attempt.prepared.load(Ordering::Relaxed) || attempt.task.prepared.is_some() {
        Event::Complete { holder, result }
    } else {
        let usage = *attempt.lease.usage.borrow();
        Event::Finish { holder, result: TaskResult::Build(result), usage }
    };
    Ok(Settlement { event, diff: None })
}
