//! Steps 5 and 6 of `docs/protocol.md`: from a commit that exists only here to
//! one that is proved to be on the branch, at most once per lineage.

use std::sync::atomic::Ordering;

use rdev_domain::event::EventKind;
use rdev_domain::failure::FailureClass;
use rdev_domain::git::{RecordedRef, Tip};
use rdev_domain::result::{BuildResult, Outcome, TaskResult, Warning};
use rdev_domain::spec::BuildSpec;
use rdev_domain::step::Event;
use rdev_domain::task::{Prepared, Task};
use serde_json::json;
use tracing::info;

use super::earlier;
use super::landed::{Landing, search, search_base};
use super::output::AgentOutput;
use super::push::{MAX_ROUNDS, PushContext, PushOutcome};
use super::refs::{based_on, begins_at, fetch_own, newest_since};
use super::target::BuildTarget;
use super::ticket::Held;
use super::{pull_request, standing};
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::settle::{self, Settlement};
use crate::attempt::workspace::Workspace;
use crate::git::Fetched;

/// The next step after [`prepare`].
enum Preparation {
    /// Push. The search for a commit of the lineage starts at `scan_base`.
    Push { scan_base: Tip },
    /// Nothing: the branch already has the work.
    Done(PushOutcome),
}

/// Prepares and pushes finished work of a task that is `running`.
pub(crate) async fn deliver(
    mut push: PushContext<'_>,
    output: AgentOutput,
) -> Result<Settlement, Interrupt> {
    let attempt = push.attempt;
    attempt.committed.store(true, Ordering::Relaxed);
    let outcome = attempt
        .phase("push", async {
            let prepared = prepare(&mut push, &output).await;
            if prepared.is_err() && !push.attempt.is_prepared() {
                push.tell_that_it_passed().await?;
            }
            match prepared? {
                Preparation::Push { scan_base } => {
                    let tip = push.base.clone();
                    let pushed = push.push_from(&scan_base, tip).await;
                    push.end(&scan_base, pushed).await
                }
                Preparation::Done(outcome) => Ok(outcome),
            }
        })
        .await?;
    if push.adopted_by.is_some() {
        info!(task = %attempt.task.id, "delivered the work of an earlier attempt");
    }
    let branch = &push.target.branch;
    let result = output.build_result(attempt, Outcome::Delivered, None, branch);
    complete(&push, result, outcome).await
}

/// Resumes a task that was `pushing` when its last attempt ended: looks for its ticket first.
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
    attempt.prepared.store(true, Ordering::Relaxed);
    // The project's default branch may be another one by now.
    target.branch = prepared.branch.clone();
    let scan_base = attempt.task.scan_base.clone().unwrap_or_else(|| prepared.base.clone());
    let checkout = standing::checkout(attempt, &mut target, &workspace, prepared.atomic);
    let fetched = attempt.phase("checkout", checkout).await?.fetched;
    let mut push = PushContext {
        atomic: prepared.atomic,
        prepared: Some((prepared.clone(), result.clone())),
        base: prepared.base.clone(),
        start: begins_at(attempt, spec, &fetched),
        ..PushContext::new(attempt, spec, &target, &workspace, prepared.commit.clone())
    };
    let outcome =
        attempt.phase("push", resume_push(&mut push, prepared, &scan_base, &fetched)).await?;
    match outcome {
        Some(outcome) => complete(&push, result.clone(), outcome).await,
        None => {
            attempt.note(
                "the prepared commit is neither on the branch nor at its wip ref; starting over",
            );
            let holder = attempt.lease.holder.clone();
            Ok(Settlement { event: Event::Restart { holder }, diff: None })
        }
    }
}

/// Takes the ticket over and pushes. `None`: on a server without atomic pushes the commit is
/// nowhere.
async fn resume_push(
    push: &mut PushContext<'_>,
    prepared: &Prepared,
    scan_base: &Tip,
    fetched: &Fetched,
) -> Result<Option<PushOutcome>, Interrupt> {
    let attempt = push.attempt;
    let recorded = recorded_of(&attempt.task, prepared);
    attempt.lease.own_refs.lock().await.clone_from(&recorded);
    // A ticket that was never prepared is none of this push's, however new it is.
    let of_push = |recorded: &RecordedRef| recorded.may_land || !prepared.atomic;
    let ticket = newest_since(&recorded, &fetched.own, prepared.wip, of_push);
    if !prepared.atomic {
        let found = search(attempt, push.workspace, scan_base, &fetched.tip).await?;
        if let Some(commit) = found {
            return Ok(Some(PushOutcome::Landed(Landing { commit, rewritten: false })));
        }
    }
    let ticket = match ticket {
        Some(ticket) => ticket,
        None if !prepared.atomic => return Ok(None),
        None => {
            return push.gone(scan_base, &fetched.tip).await.map(Some);
        }
    };
    if let Some(class) = ticket.revoked_for {
        let landing = push.revoked(scan_base, &fetched.tip, class).await?;
        return Ok(Some(PushOutcome::Landed(landing)));
    }
    let commit = fetch_own(attempt, push.target, push.workspace, &ticket).await?;
    push.base = based_on(attempt, push.workspace, &commit, fetched).await?;
    push.commit = commit;
    push.held = Held::Earlier(ticket);
    if let Err(error) = push.write_ticket().await? {
        // Somebody was faster. The next claim looks again.
        return Err(error.into());
    }
    // Whoever prepared it may have died before the forge was told.
    attempt.statuses.send(attempt, &attempt.task);
    let pushed = push.push_from(scan_base, fetched.tip.clone()).await;
    push.end(scan_base, pushed).await.map(Some)
}

/// The refs that the store has recorded for a prepared task. A version before this one recorded
/// none but the ticket.
fn recorded_of(task: &Task, prepared: &Prepared) -> Vec<RecordedRef> {
    if !task.own_refs.is_empty() {
        return task.own_refs.clone();
    }
    vec![RecordedRef { may_land: prepared.atomic, ..prepared.ticket() }]
}

/// Ends a build whose commit an earlier attempt has pushed to the branch.
pub(crate) async fn landed(
    attempt: &Attempt,
    spec: &BuildSpec,
    target: &BuildTarget,
    workspace: &Workspace,
    landing: Landing,
) -> Result<Settlement, Interrupt> {
    attempt.committed.store(true, Ordering::Relaxed);
    let commit = landing.commit.clone();
    let mut output = earlier::adopt(attempt, workspace, &commit).await?;
    if attempt.task.restored {
        let message = "rdev was restored from a backup that is older than this commit; it was found on the branch, and no agent ran again";
        output
            .warnings
            .push(Warning { code: "found_after_restore".to_owned(), message: message.to_owned() });
    }
    let result = output.build_result(attempt, Outcome::Delivered, None, &target.branch);
    let push = PushContext::new(attempt, spec, target, workspace, commit);
    complete(&push, result, PushOutcome::Landed(landing)).await
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
        let tip = match push.told.take() {
            Some(told) => push.tip_since(told).await?,
            None => push.write_first_ticket().await??,
        };
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
        let tip = push.look().await?.tip;
        // A late push of an earlier attempt may have moved it.
        if let Some(scan_base) = search_base(&attempt.task)
            && let Some(commit) = search(attempt, push.workspace, &scan_base, &tip).await?
        {
            return Ok(Preparation::Done(PushOutcome::Landed(Landing {
                commit,
                rewritten: false,
            })));
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
        atomic: push.atomic,
        at: attempt.now(),
    };
    let commit = Some(push.commit.clone());
    let mut result = output.build_result(attempt, Outcome::Delivered, commit, &push.target.branch);
    if let Some(verified) = &push.verified {
        result.verify.clone_from(verified);
    }
    push.prepared = Some((prepared.clone(), result.clone()));
    let event = Event::Prepare {
        holder: attempt.lease.holder.clone(),
        prepared,
        result,
        usage: *attempt.lease.usage.borrow(),
    };
    let advanced = settle::advance(attempt, event, Some(output.changes.diff.clone())).await?;
    attempt.prepared.store(true, Ordering::Relaxed);
    attempt.lease.own_refs.lock().await.clone_from(&advanced.task.own_refs);
    let state = json!({"state": "pushing", "attempt": attempt.task.attempt});
    attempt.lease.events.add(EventKind::State, state, attempt.now());
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
    attempt.machine().forget_unpushed(attempt.task.id);
    if let Some(verified) = &push.verified {
        result.verify.clone_from(verified);
    }
    match outcome {
        PushOutcome::AlreadyThere => {
            attempt.note("the branch already has the same change; there is nothing to deliver");
            result.outcome = Outcome::NoChange;
            result.commit_sha = None;
        }
        PushOutcome::Landed(Landing { commit, rewritten }) => {
            attempt.note(format!("delivered {commit} to {}", target.branch));
            result.outcome = Outcome::Delivered;
            result.commit_sha = Some(commit.clone());
            if rewritten {
                let message = "the server accepted the push, but the commit is no longer on the branch: somebody removed it";
                result.warnings.push(Warning {
                    code: "branch_rewritten".to_owned(),
                    message: message.to_owned(),
                });
            }
            if attempt.is_prepared() && !push.atomic {
                let message = "the git server does not delete a ref and move a branch in one atomic push: should somebody rewind or delete the branch while rdev pushes to it, the commit may land twice";
                result.warnings.push(Warning {
                    code: "push_not_atomic".to_owned(),
                    message: message.to_owned(),
                });
            }
            if push.spec.opens_pull_request() {
                let opened = pull_request::open(push, &commit, &mut result).await;
                opened.map_err(Interrupt::after_landing)?;
            }
        }
    }
    for (phase, millis) in attempt.durations() {
        result.durations_ms.insert(phase, millis);
    }
    let holder = attempt.lease.holder.clone();
    let event = if attempt.is_prepared() {
        Event::Complete { holder, result }
    } else {
        let usage = *attempt.lease.usage.borrow();
        Event::Finish { holder, result: TaskResult::Build(result), usage }
    };
    Ok(Settlement { event, diff: None })
}
