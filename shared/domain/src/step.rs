//! The transition function: how an event changes a task and its lease.
//!
//! Both stores execute [`step`] inside one transaction and write what it
//! returns; neither decides anything by itself. What a store must do beside
//! writing the task follows from the two values before and after: a lease that
//! appears occupies a slot of the project and one that disappears frees it, and
//! [`Task::queue_place`] says which queue entry the task has.

mod moves;

use std::time::Duration;

use crate::commit_status;
use crate::failure::{Failure, FailureClass, RetryStart};
use crate::git::LeftRef;
use crate::ids::{Fence, Owner, TaskId, WorkerId};
use crate::lease::{Holder, Lease};
use crate::result::{BuildResult, TaskResult, Usage};
use crate::spec::Work;
use crate::task::{Prepared, Task, TaskState};
use crate::time::Timestamp;

use moves::{
    cancel, claim, complete, fail_pushing, fail_running, finish, held, in_state, prepare, recover,
    release, restart,
};

/// Claims that may try to push one finished commit while the server is away.
pub const MAX_PUSH_ATTEMPTS: u32 = 10;

/// After how many attempts that died while they verified the work of an earlier one nobody verifies
/// it any more.
pub const MAX_UNVERIFIED_TRIES: u32 = 3;

/// How long a prepared commit may wait for its server.
pub const MAX_PUSH_TIME: Duration = Duration::from_secs(2 * 60 * 60);

/// How soon a parked task is due again at the earliest. The time that a provider names may be past.
pub const MIN_PARK: Duration = Duration::from_secs(30);

/// How long a task is parked at most, and how long a retry waits at most, whatever time a provider
/// names.
pub const MAX_PARK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How many times a task is parked. Then it fails.
pub const MAX_PARKS: u32 = 20;

/// How long a task is parked in all. Then it fails.
pub const MAX_PARKED: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// How many attempts a task's record keeps.
const KEPT_ATTEMPTS: usize = 50;

/// What happens to a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A runner claims it: `queued` → `running`, unowned `pushing` → `pushing`.
    Claim {
        /// The process that claims it.
        owner: Owner,
        /// The worker it belongs to.
        worker_id: WorkerId,
        /// The project's slots, read in the same transaction.
        slots: Slots,
    },
    /// Its work is committed and safe at a wip ref: `running` → `pushing`.
    Prepare {
        /// Who holds the task.
        holder: Holder,
        /// The commit and what it is based on.
        prepared: Prepared,
        /// The result as it will be when the push succeeds.
        result: BuildResult,
        /// What the attempt used.
        usage: Usage,
    },
    /// There is nothing to push: `running` → `succeeded`.
    Finish {
        /// Who holds the task.
        holder: Holder,
        /// What came of it.
        result: TaskResult,
        /// What the attempt used.
        usage: Usage,
    },
    /// The commit is on the branch: `pushing` → `succeeded`.
    Complete {
        /// Who holds the task.
        holder: Holder,
        /// What came of it, with the commit as it landed.
        result: BuildResult,
    },
    /// The attempt ended badly; the class decides where the task goes.
    Fail {
        /// Who holds the task.
        holder: Holder,
        /// Why.
        failure: Failure,
        /// What the attempt used, where the holder knows better than its last renewal.
        usage: Option<Usage>,
        /// Its ticket was revoked, which the server has acknowledged: no push of it can land.
        revoked: bool,
        /// Its refs of rdev's own that are in the repository, where the holder has seen that: those
        /// that it has written, and those of earlier attempts.
        left: Option<Vec<LeftRef>>,
    },
    /// The runner gives it back before it is done (drain).
    Release {
        /// Who holds the task.
        holder: Holder,
    },
    /// What was prepared is neither on the branch nor at its wip ref: `pushing` → `queued`.
    Restart {
        /// Who holds the task.
        holder: Holder,
    },
    /// Somebody asks to cancel it.
    Cancel,
    /// Its holder counts as dead.
    Recover {
        /// The fence the recoverer saw.
        seen: Fence,
        /// The heartbeat the recoverer saw.
        heartbeat: u64,
        /// The holder is known to be dead (its process held a lock that is free
        /// now): the lease's end is not waited for.
        proved_dead: bool,
    },
}

/// A project's slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// How many of its tasks have a lease.
    pub taken: u32,
    /// How many may.
    pub limit: u32,
}

/// What a transaction has to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The task after the event.
    pub task: Task,
    /// Its lease after the event.
    pub lease: Option<Lease>,
    /// Outbox entries to write, each with the time to send its wake-up.
    pub wake_ups: Vec<Timestamp>,
    /// What the audit calls it, as `task.claimed`.
    pub action: &'static str,
}

/// Why an event changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The writer's fence or owner is not the one that holds the task.
    #[error("the lease is gone or held by another process")]
    Stale,
    /// Terminal states are never left.
    #[error("the task has ended: {}", .0.as_str())]
    Ended(TaskState),
    /// The event has no meaning in this state.
    #[error("not possible while the task is {}", .0.as_str())]
    WrongState(TaskState),
    /// Every slot of the project is taken.
    #[error("every slot of the project is taken")]
    SlotsTaken,
    /// The task backs off or is parked.
    #[error("the task is not due yet")]
    NotDue,
    /// Somebody asked to cancel the task, so it may not begin to push.
    #[error("the task's cancellation was requested")]
    CancelRequested,
    /// The lease's holder may be alive.
    #[error("the lease has not expired, or was renewed meanwhile")]
    Alive,
    /// A newer program wrote the task's record; only such a program changes it.
    #[error("the task's record was written by a newer version of rdev; use that version")]
    NewerRecord,
    /// Only failed and cancelled tasks are retried, and no poisoned ones.
    #[error("only a failed or cancelled task whose record can be read is retried; this one is {}", .0.as_str())]
    NotRetryable(TaskState),
    /// The task was retried before: its lineage is a chain, whose newest task alone is retried.
    #[error("the task was retried already; the newest task of its chain is {0}")]
    RetriedAlready(TaskId),
}

/// Applies `event` to `task` and its `lease` at `now`.
///
/// # Errors
/// A [`Refusal`] when it changes nothing.
pub fn step(
    task: &Task,
    lease: Option<&Lease>,
    event: Event,
    now: Timestamp,
) -> Result<Step, Refusal> {
    if task.state.is_terminal() {
        return Err(Refusal::Ended(task.state));
    }
    // What a holder reports it also shows on the forge, at once.
    let told = !matches!(event, Event::Claim { .. } | Event::Cancel | Event::Recover { .. });
    let mut step = moved(task, lease, event, now)?;
    step.task.commit_status = commit_status::after(task, &step.task, told, now);
    Ok(step)
}

/// The step, but for the commit status.
fn moved(
    task: &Task,
    lease: Option<&Lease>,
    event: Event,
    now: Timestamp,
) -> Result<Step, Refusal> {
    let mut task = task.clone();
    task.updated_at = now;
    if let Some(own_refs) = lease.and_then(|lease| lease.own_refs.as_ref()) {
        task.own_refs.clone_from(own_refs);
    }
    match event {
        Event::Claim { owner, worker_id, slots } => {
            claim(task, lease, owner, worker_id, slots, now)
        }
        Event::Cancel => cancel(task, lease, now),
        Event::Recover { seen, heartbeat, proved_dead } => {
            let lease = lease.ok_or(Refusal::Stale)?;
            if task.fence != seen || lease.heartbeat != heartbeat {
                return Err(Refusal::Stale);
            }
            if !proved_dead && !lease.expired(now) {
                return Err(Refusal::Alive);
            }
            Ok(recover(task, lease, now))
        }
        Event::Prepare { holder, prepared, result, usage } => {
            let lease = held(&task, lease, &holder)?;
            prepare(task, lease, prepared, result, usage)
        }
        Event::Finish { holder, result, usage } => {
            let lease = held(&task, lease, &holder)?;
            in_state(&task, TaskState::Running)?;
            Ok(finish(task, lease, result, usage, now))
        }
        Event::Complete { holder, result } => {
            let lease = held(&task, lease, &holder)?;
            in_state(&task, TaskState::Pushing)?;
            Ok(complete(task, lease, result, now))
        }
        Event::Fail { holder, failure, usage, revoked, left } => {
            let lease = held(&task, lease, &holder)?;
            if let Some(left) = left {
                task.left_refs = left;
            }
            let usage = usage.unwrap_or(lease.usage);
            if task.state == TaskState::Pushing {
                Ok(fail_pushing(task, failure, revoked, usage, now))
            } else {
                Ok(fail_running(task, lease, failure, usage, now))
            }
        }
        Event::Release { holder } => {
            let lease = held(&task, lease, &holder)?;
            Ok(release(task, lease, now))
        }
        Event::Restart { holder } => {
            let lease = held(&task, lease, &holder)?;
            in_state(&task, TaskState::Pushing)?;
            Ok(restart(task, lease, now))
        }
    }
}

/// Whether a failure of this class takes a task that is `pushing` out of that state. Its holder
/// revokes the ticket first.
pub fn ends_push(task: &Task, class: FailureClass, now: Timestamp) -> bool {
    moves::ends_push(task, class, now)
}

/// A new task that does `task`'s work again, on the same lineage.
///
/// It inherits the scan base, so that a late push of `task` is found, the doubt whether one lands
/// that no ticket holds back, every ref of the chain that
/// is not dealt with, whatever its own lineage is, and the wip ref of work that was finished but
/// could not be pushed: [`RetryStart`] of the failure's class says which. A cancelled task has no
/// failure.
///
/// # Errors
/// [`Refusal::NotRetryable`] unless the task failed or was cancelled, and its
/// record could be read.
pub fn retry(task: &Task, id: TaskId, now: Timestamp) -> Result<Task, Refusal> {
    let start = task.failure.as_ref().map_or(RetryStart::Resumed, |f| f.class.rules().retry);
    let ended = matches!(task.state, TaskState::Failed | TaskState::Cancelled);
    let readable = !matches!(task.work, Work::Unreadable(_));
    if !ended || !readable || start == RetryStart::Refused {
        return Err(Refusal::NotRetryable(task.state));
    }
    let mut new = Task::new(id, task.project_id.clone(), task.work.clone(), now);
    new.project_nonce = task.project_nonce;
    new.priority = task.priority;
    new.max_attempts = task.max_attempts;
    new.retry_of = Some(task.id);
    new.notify = task.notify;
    new.restored = task.restored;
    new.own_refs.clone_from(&task.own_refs);
    if let Some(prepared) = task.prepared.as_ref().filter(|_| task.own_refs.is_empty()) {
        // It was prepared by a version that recorded no refs.
        new.own_refs = vec![prepared.ticket()];
    }
    if start == RetryStart::NewLineage {
        return Ok(new);
    }
    new.lineage = task.lineage;
    new.in_doubt = moves::is_untied(task);
    new.scan_base = task.scan_base.clone();
    let prepared = task.prepared.as_ref().map(|prepared| prepared.wip);
    new.resume_from = match start {
        RetryStart::Refused | RetryStart::NewLineage | RetryStart::Lineage => None,
        RetryStart::Prepared => prepared,
        RetryStart::PreparedOrResumed => prepared.or(task.resume_from),
        RetryStart::Resumed => task.resume_from,
    };
    Ok(new)
}

/// `old`, with the record that `new` is its retry. A store executes it in the transaction that
/// enqueues the retry, so that of any number of retries at once one is queued.
///
/// # Errors
/// [`Refusal::RetriedAlready`] with the retry of `old` when it is another one;
/// [`Refusal::NotRetryable`] unless `old` failed or was cancelled.
pub fn record_retry(old: &Task, new: TaskId, now: Timestamp) -> Result<Task, Refusal> {
    if let Some(earlier) = old.retried_as.filter(|earlier| *earlier != new) {
        return Err(Refusal::RetriedAlready(earlier));
    }
    if !matches!(old.state, TaskState::Failed | TaskState::Cancelled) {
        return Err(Refusal::NotRetryable(old.state));
    }
    Ok(Task { retried_as: Some(new), updated_at: now, ..old.clone() })
}
