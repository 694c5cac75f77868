//! The transitions of events that are allowed.

use std::time::Duration;

use super::{
    KEPT_ATTEMPTS, MAX_PARK, MAX_PARKED, MAX_PARKS, MAX_PUSH_ATTEMPTS, MAX_PUSH_TIME,
    MAX_UNVERIFIED_TRIES, MIN_PARK, Refusal, Slots, Step,
};
use crate::failure::{Failure, FailureClass, PushReaction, Reaction, backoff};
use crate::git::OwnRef;
use crate::ids::{Owner, WorkerId};
use crate::lease::{Holder, Lease};
use crate::result::{BuildResult, TaskResult, Usage};
use crate::task::{Attempt, Prepared, Task, TaskState};
use crate::time::Timestamp;

pub(super) fn claim(
    mut task: Task,
    lease: Option<&Lease>,
    owner: Owner,
    worker_id: WorkerId,
    slots: Slots,
    now: Timestamp,
) -> Result<Step, Refusal> {
    if lease.is_some() || !matches!(task.state, TaskState::Queued | TaskState::Pushing) {
        return Err(Refusal::WrongState(task.state));
    }
    if task.available_at > now {
        return Err(Refusal::NotDue);
    }
    if slots.taken >= slots.limit {
        return Err(Refusal::SlotsTaken);
    }
    task.fence = task.fence.next();
    if task.state == TaskState::Queued {
        task.state = TaskState::Running;
        task.attempt += 1;
    } else {
        task.push_attempt += 1;
    }
    task.started_at = task.started_at.or(Some(now));
    task.worker_id = Some(worker_id.clone());
    if task.attempts.len() == KEPT_ATTEMPTS {
        task.attempts.remove(0);
    }
    task.attempts.push(Attempt {
        number: task.attempt,
        fence: task.fence,
        worker_id,
        started_at: now,
        ended_at: None,
        failure: None,
        usage: Usage::default(),
    });
    let lease = Lease::taken(task.fence, owner, now);
    Ok(Step { task, lease: Some(lease), wake_ups: vec![], action: "task.claimed" })
}

pub(super) fn cancel(task: Task, lease: Option<&Lease>, now: Timestamp) -> Result<Step, Refusal> {
    match (task.state, lease) {
        (TaskState::Queued, _) => Ok(end(task, TaskState::Cancelled, "task.cancelled", now)),
        (TaskState::Running, Some(lease)) => {
            let lease = Lease { cancel_requested: true, ..lease.clone() };
            Ok(Step { task, lease: Some(lease), wake_ups: vec![], action: "task.cancel_requested" })
        }
        (state, _) => Err(Refusal::WrongState(state)),
    }
}

pub(super) fn recover(mut task: Task, lease: &Lease, now: Timestamp) -> Step {
    let adopted = spend_push_attempt(&mut task);
    if adopted && task.push_attempt >= MAX_UNVERIFIED_TRIES {
        // Verifying it may be what kills its runners: the agent begins anew.
        task.own_refs.retain(|recorded| !recorded.unverified);
    }
    task.fence = task.fence.next();
    let mut lost = Failure::new(FailureClass::WorkerLost, "the worker died or lost its lease");
    // Its push may have been sent, and may still land.
    lost.push_in_doubt = task.state == TaskState::Pushing || may_land(&task);
    end_attempt(&mut task, Some(lost.clone()), lease.usage, now);
    if task.state == TaskState::Pushing {
        // A push that kills its runner must not do so again and again.
        if task.push_attempt >= MAX_PUSH_ATTEMPTS {
            lost.class = FailureClass::Infra;
            task.failure = Some(lost);
            return end(task, TaskState::Failed, "task.failed", now);
        }
        task.failure = Some(lost);
        return requeue(task, now, now, "task.recovered");
    }
    if lease.cancel_requested {
        return end(task, TaskState::Cancelled, "task.cancelled", now);
    }
    task.failure = Some(lost);
    if is_spent(&task, adopted) {
        return end(task, TaskState::Failed, "task.failed", now);
    }
    keep_place(task, now, "task.recovered")
}

pub(super) fn prepare(
    mut task: Task,
    lease: &Lease,
    prepared: Prepared,
    result: BuildResult,
    usage: Usage,
) -> Result<Step, Refusal> {
    match task.state {
        TaskState::Running if lease.cancel_requested => return Err(Refusal::CancelRequested),
        TaskState::Running => {}
        // The answer to the first one was lost.
        TaskState::Pushing
            if task.prepared.as_ref().is_some_and(|p| p.commit == prepared.commit) => {}
        state => return Err(Refusal::WrongState(state)),
    }
    spend_push_attempt(&mut task);
    // What an earlier push may still take to the branch is not tied to a ticket from now on.
    task.in_doubt |= task.state == TaskState::Running
        && !prepared.atomic
        && task.own_refs.iter().any(|recorded| recorded.may_land);
    task.state = TaskState::Pushing;
    task.scan_base.get_or_insert_with(|| prepared.base.clone());
    task.result = Some(TaskResult::Build(result));
    let ticket = prepared.ticket().own;
    if prepared.atomic {
        // It is the only one now. Others were taken over or revoked; or they were never prepared,
        // and one of those that comes late must not be taken for it.
        task.own_refs
            .retain(|recorded| recorded.own == ticket || !matches!(recorded.own, OwnRef::Wip(..)));
    }
    // Nothing is prepared before it was verified. Of the values that the ticket had before, those
    // that were not are nobody's work any more.
    task.own_refs.retain(|recorded| {
        recorded.own != ticket || !recorded.unverified || recorded.commit == prepared.commit
    });
    for recorded in &mut task.own_refs {
        recorded.may_land = prepared.atomic && recorded.own == ticket;
        recorded.unverified &= recorded.own != ticket;
    }
    task.prepared = Some(prepared);
    let own_refs = lease.own_refs.is_some().then(|| task.own_refs.clone());
    let lease = Lease { usage, own_refs, ..lease.clone() };
    Ok(Step { task, lease: Some(lease), wake_ups: vec![], action: "task.prepared" })
}

pub(super) fn finish(
    mut task: Task,
    lease: &Lease,
    result: TaskResult,
    usage: Usage,
    now: Timestamp,
) -> Step {
    spend_push_attempt(&mut task);
    end_attempt(&mut task, None, usage, now);
    if lease.cancel_requested {
        return end(task, TaskState::Cancelled, "task.cancelled", now);
    }
    succeed(task, result, now)
}

pub(super) fn complete(mut task: Task, lease: &Lease, result: BuildResult, now: Timestamp) -> Step {
    end_attempt(&mut task, None, lease.usage, now);
    succeed(task, TaskResult::Build(result), now)
}

pub(super) fn succeed(mut task: Task, mut result: TaskResult, now: Timestamp) -> Step {
    if let TaskResult::Build(build) = &mut result {
        build.usage = task.usage;
    }
    task.result = Some(result);
    task.failure = None;
    end(task, TaskState::Succeeded, "task.succeeded", now)
}

pub(super) fn fail_running(
    mut task: Task,
    lease: &Lease,
    mut failure: Failure,
    usage: Usage,
    now: Timestamp,
) -> Step {
    let adopted = spend_push_attempt(&mut task);
    failure.push_in_doubt |= may_land(&task);
    end_attempt(&mut task, Some(failure.clone()), usage, now);
    let reaction = failure.class.rules().running;
    let retry_at = failure.retry_at;
    if lease.cancel_requested {
        return end(task, TaskState::Cancelled, "task.cancelled", now);
    }
    task.failure = Some(failure);
    let spent = is_spent(&task, adopted);
    let tries = if adopted { task.push_attempt } else { task.attempt };
    let later = now.plus(backoff(task.id, tries));
    match reaction {
        Reaction::Cancel => end(task, TaskState::Cancelled, "task.cancelled", now),
        Reaction::Park => {
            let named = retry_at.unwrap_or_else(|| now.plus(Duration::from_secs(15 * 60)));
            let at = named.clamp(now.plus(MIN_PARK), now.plus(MAX_PARK));
            let parked = Duration::from_millis(task.parked_ms) + at.since(now);
            if task.parks >= MAX_PARKS || parked > MAX_PARKED {
                return end(task, TaskState::Failed, "task.failed", now);
            }
            task.parks += 1;
            task.parked_ms = parked.as_millis().try_into().unwrap_or(u64::MAX);
            if !adopted {
                task.attempt -= 1;
            }
            requeue(task, at, now, "task.parked")
        }
        Reaction::Retry if !spent => {
            let at = retry_at.map_or(later, |at| at.clamp(later, now.plus(MAX_PARK)));
            requeue(task, at, now, "task.retried")
        }
        Reaction::RetryOnce if !spent && task.stalls == 0 => {
            task.stalls += 1;
            requeue(task, later, now, "task.retried")
        }
        Reaction::Again => {
            task.wip_floor = task.fence;
            // Otherwise the next attempt would adopt the work that conflicts.
            task.resume_from = None;
            task.push_attempt = 0;
            if task.attempt >= task.max_attempts {
                return end(task, TaskState::Failed, "task.failed", now);
            }
            requeue(task, now, now, "task.conflicted")
        }
        Reaction::Fail | Reaction::Retry | Reaction::RetryOnce => {
            end(task, TaskState::Failed, "task.failed", now)
        }
    }
}

pub(super) fn fail_pushing(
    mut task: Task,
    mut failure: Failure,
    revoked: bool,
    usage: Usage,
    now: Timestamp,
) -> Step {
    let reaction = failure.class.rules().pushing;
    if reaction == PushReaction::Conflict {
        failure.class = FailureClass::Conflict;
    }
    // An earlier claim's push may still land, whatever this claim has found.
    failure.push_in_doubt |=
        task.in_doubt || task.failure.as_ref().is_some_and(|earlier| earlier.push_in_doubt);
    if revoked {
        failure.push_in_doubt = task.in_doubt;
        task.own_refs.retain(|recorded| matches!(recorded.own, OwnRef::Revoked(..)));
    }
    end_attempt(&mut task, Some(failure.clone()), usage, now);
    task.failure = Some(failure);
    match reaction {
        PushReaction::Conflict => {
            task.wip_floor = task.fence;
            if task.attempt >= task.max_attempts {
                return end(task, TaskState::Failed, "task.failed", now);
            }
            task.state = TaskState::Queued;
            forget_prepared(&mut task);
            requeue(task, now, now, "task.conflicted")
        }
        PushReaction::Postpone => {
            if may_push_again(&task, now) {
                let at = now.plus(backoff(task.id, task.push_attempt.max(1)));
                return requeue(task, at, now, "task.push_postponed");
            }
            if let Some(failure) = &mut task.failure {
                failure.class = FailureClass::Infra;
            }
            end(task, TaskState::Failed, "task.failed", now)
        }
        PushReaction::Fail => end(task, TaskState::Failed, "task.failed", now),
    }
}

/// An attempt that ran no agent, because the work was there already, is one more try to push it.
/// Returns whether this one is.
fn spend_push_attempt(task: &mut Task) -> bool {
    let adopted = task.state == TaskState::Running
        && task.own_refs.iter().any(|recorded| {
            recorded.own.task() == task.id && recorded.adopted_by == Some(task.fence)
        });
    if adopted {
        task.attempt -= 1;
        task.push_attempt += 1;
    }
    adopted
}

/// Whether a task whose attempt has failed has none left of its kind.
fn is_spent(task: &Task, adopted: bool) -> bool {
    if adopted { task.push_attempt >= MAX_PUSH_ATTEMPTS } else { task.attempt >= task.max_attempts }
}

/// Whether a push that was postponed is tried again.
fn may_push_again(task: &Task, now: Timestamp) -> bool {
    let since = task.prepared.as_ref().map_or(now, |prepared| prepared.at);
    task.push_attempt < MAX_PUSH_ATTEMPTS && now.since(since) < MAX_PUSH_TIME
}

/// Whether a failure of this class takes a task that is `pushing` out of that state, so that its
/// ticket has to be revoked before.
pub(super) fn ends_push(task: &Task, class: FailureClass, now: Timestamp) -> bool {
    match class.rules().pushing {
        PushReaction::Fail | PushReaction::Conflict => true,
        PushReaction::Postpone => !may_push_again(task, now),
    }
}

pub(super) fn release(mut task: Task, lease: &Lease, now: Timestamp) -> Step {
    end_attempt(&mut task, None, lease.usage, now);
    if task.state == TaskState::Pushing {
        let ended = || Failure::new(FailureClass::Infra, "the runner ended while it pushed");
        task.failure.get_or_insert_with(ended).push_in_doubt = true;
        return requeue(task, now, now, "task.released");
    }
    if lease.cancel_requested {
        return end(task, TaskState::Cancelled, "task.cancelled", now);
    }
    task.attempt -= 1;
    keep_place(task, now, "task.released")
}

pub(super) fn restart(mut task: Task, lease: &Lease, now: Timestamp) -> Step {
    let mut lost = Failure::new(
        FailureClass::Infra,
        "the prepared commit is neither on the branch nor at its wip ref",
    );
    lost.push_in_doubt =
        task.in_doubt || task.failure.as_ref().is_some_and(|earlier| earlier.push_in_doubt);
    end_attempt(&mut task, Some(lost.clone()), lease.usage, now);
    task.failure = Some(lost);
    forget_prepared(&mut task);
    if task.attempt >= task.max_attempts {
        return end(task, TaskState::Failed, "task.failed", now);
    }
    task.state = TaskState::Queued;
    requeue(task, now, now, "task.restarted")
}

/// The task goes back to its queue, to the place that it had: what was interrupted does not wait
/// behind what came later.
fn keep_place(task: Task, now: Timestamp, action: &'static str) -> Step {
    let since = task.available_at.min(now);
    requeue(task, since, now, action)
}

/// The task goes back to its queue, due at `at`; its slot is free.
fn requeue(mut task: Task, at: Timestamp, now: Timestamp, action: &'static str) -> Step {
    if task.state == TaskState::Running {
        task.state = TaskState::Queued;
    }
    task.available_at = at;
    // One for the slot that is free now, one for the task that is due then.
    let wake_ups = if at > now { vec![now, at] } else { vec![now] };
    Step { task, lease: None, wake_ups, action }
}

/// The task ends; a slot it may have had is free.
fn end(mut task: Task, state: TaskState, action: &'static str, now: Timestamp) -> Step {
    let freed = task.state != TaskState::Queued;
    task.state = state;
    task.finished_at = Some(now);
    if state == TaskState::Succeeded {
        task.own_refs.clear();
        task.in_doubt = false;
    } else {
        task.result = None;
    }
    if state != TaskState::Failed {
        // They go.
        task.left_refs.clear();
    }
    if state == TaskState::Cancelled {
        // What an earlier attempt failed with stays in the record of that attempt.
        task.failure = may_land(&task).then(|| {
            let why = "cancelled while an earlier push of it may still land";
            Failure { push_in_doubt: true, ..Failure::new(FailureClass::Cancelled, why) }
        });
    }
    Step { task, lease: None, wake_ups: if freed { vec![now] } else { vec![] }, action }
}

/// Whether an earlier push of a task that is not `pushing` may still land: its ticket could not be
/// revoked, and no attempt has dealt with it since; or it had none that proves anything.
fn may_land(task: &Task) -> bool {
    task.in_doubt
        || task.own_refs.iter().any(|recorded| recorded.may_land && recorded.own.task() == task.id)
}

/// Whether what was prepared may have landed or may still land, and no ticket tells: the push that
/// moves the branch deletes none.
pub(super) fn is_untied(task: &Task) -> bool {
    let unanswered = task.failure.as_ref().is_some_and(|failure| failure.push_in_doubt);
    task.in_doubt || unanswered && task.prepared.as_ref().is_some_and(|prepared| !prepared.atomic)
}

/// The prepared commit is dropped: the next attempt starts from the beginning. That does not undo a
/// push of it.
fn forget_prepared(task: &mut Task) {
    task.in_doubt = is_untied(task);
    task.prepared = None;
    task.push_attempt = 0;
    task.result = None;
    task.resume_from = None;
}

fn end_attempt(task: &mut Task, failure: Option<Failure>, usage: Usage, now: Timestamp) {
    task.usage = task.usage.plus(usage);
    if let Some(attempt) = task.attempts.last_mut() {
        attempt.ended_at = Some(now);
        attempt.failure = failure;
        attempt.usage = usage;
    }
}

pub(super) fn held<'a>(
    task: &Task,
    lease: Option<&'a Lease>,
    holder: &Holder,
) -> Result<&'a Lease, Refusal> {
    lease
        .filter(|lease| {
            task.fence == holder.fence && lease.fence == holder.fence && lease.owner == holder.owner
        })
        .ok_or(Refusal::Stale)
}

pub(super) fn in_state(task: &Task, state: TaskState) -> Result<(), Refusal> {
    if task.state == state { Ok(()) } else { Err(Refusal::WrongState(task.state)) }
}
