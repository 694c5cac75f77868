//! Reports the transitions of an attempt to the store, and repeats when the store does not answer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rdev_domain::audit::Actor;
use rdev_domain::chain;
use rdev_domain::failure::{Failure, FailureClass, Reaction};
use rdev_domain::lease::Progress;
use rdev_domain::outbox;
use rdev_domain::ports::{Advanced, PortError, PortResult, Record, TaskRecord};
use rdev_domain::result::TaskResult;
use rdev_domain::step::{Event, Refusal};
use rdev_domain::task::{Task, TaskState};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::Attempt;
use super::interrupt::Interrupt;
use super::statuses;
use super::stop::StopReason;

/// The end of an attempt.
pub(crate) struct Settlement {
    /// The event to report to the store.
    pub(crate) event: Event,
    /// The diff to store with it.
    pub(crate) diff: Option<String>,
}

/// How long a runner that shuts down waits for a store that does not answer.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(60);

/// The longest pause between two attempts to reach the store.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The end of an attempt, as it was reported.
pub(crate) struct Settled {
    pub(crate) task: Task,
    /// The wake-ups that the end makes necessary were sent.
    pub(crate) woken: bool,
}

/// Reports a transition of this attempt, with the build events that wait. Repeats until the
/// store answers. When the store refuses a repeat because it has applied the first report,
/// the report counts as applied.
pub(crate) async fn advance(
    attempt: &Attempt,
    event: Event,
    diff: Option<String>,
) -> Result<Advanced, Interrupt> {
    report(attempt, event, diff).await.map(|(advanced, _)| advanced)
}

/// As [`advance`]; also returns whether the wake-ups were sent. Once the store has taken the report,
/// the forge shows what follows from it.
async fn report(
    attempt: &Attempt,
    event: Event,
    diff: Option<String>,
) -> Result<(Advanced, bool), Interrupt> {
    let reported = report_until_taken(attempt, event, diff).await?;
    attempt.statuses.show(attempt, &reported.0.task);
    Ok(reported)
}

async fn report_until_taken(
    attempt: &Attempt,
    event: Event,
    diff: Option<String>,
) -> Result<(Advanced, bool), Interrupt> {
    let (store, lease) = (&attempt.context.ports.store, &attempt.lease);
    let by = Actor::worker(attempt.context.worker_id.clone());
    let mut pause = Duration::from_millis(100);
    let mut in_doubt = false;
    let begun = Instant::now();
    let ends = !matches!(event, Event::Prepare { .. });
    loop {
        let outcome = {
            let _writing = lease.writing.lock().await;
            lease.ending.store(ends, Ordering::Relaxed);
            advance_once(attempt, event.clone(), diff.clone(), &by).await
        };
        match outcome {
            Ok(advanced) => {
                let woken = send(attempt, &advanced).await;
                return Ok((advanced, woken));
            }
            Err(error) if error.is_transient() => {
                warn!(task = %lease.task, error = chain(&error), "the store did not accept a report; trying again");
                in_doubt = true;
                let shutting_down = attempt.context.release.is_cancelled();
                let may_wait = !shutting_down || begun.elapsed() < SHUTDOWN_LIMIT;
                if lease.stop.reason() == Some(StopReason::LeaseLost) || !may_wait {
                    // The lease expires, and the task is recovered.
                    return Err(Interrupt::Stopped);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(PortError::Refused(Refusal::CancelRequested)) => {
                return Err(Interrupt::failed(FailureClass::Cancelled, "cancelled"));
            }
            Err(PortError::Refused(Refusal::Stale | Refusal::Ended(_))) if in_doubt => {
                // If the fence is the same, this attempt's own first report has ended the lease.
                match store.task(lease.task).await {
                    Ok(found) if found.task.fence == lease.holder.fence => {
                        let TaskRecord { task, lease } = found;
                        // The sweep sends what the lost answer named.
                        return Ok((Advanced { task, lease, outbox: vec![] }, false));
                    }
                    _ => {
                        lease.lose();
                        return Err(Interrupt::Stopped);
                    }
                }
            }
            Err(
                PortError::Refused(Refusal::Stale | Refusal::Ended(_)) | PortError::NotFound { .. },
            ) => {
                lease.lose();
                return Err(Interrupt::Stopped);
            }
            Err(error) => {
                return Err(Interrupt::failed(FailureClass::Infra, chain(&error)));
            }
        }
    }
}

/// Reports once. Build events that were not written go back to the log.
async fn advance_once(
    attempt: &Attempt,
    event: Event,
    diff: Option<String>,
    by: &Actor,
) -> PortResult<Advanced> {
    let (store, lease) = (&attempt.context.ports.store, &attempt.lease);
    let mut events = lease.events.take_chunk();
    // More than one chunk: renewals write all but the last.
    while !lease.events.is_empty() {
        let progress = Progress { events: &events, ..Progress::default() };
        if let Err(error) = store.renew(lease.task, &lease.holder, progress, attempt.now()).await {
            lease.events.put_back(events);
            return Err(error);
        }
        events = lease.events.take_chunk();
    }
    let shows_status = statuses::are_shown(attempt);
    let record = Record { events: events.clone(), diff, shows_status };
    let advanced = store.advance(lease.task, event, record, by, attempt.now()).await;
    if advanced.is_err() {
        lease.events.put_back(events);
    }
    advanced
}

/// Reports the end of the attempt to the store. `None`: the lease is lost, so there was nothing
/// to report.
pub(crate) async fn settle(
    attempt: &Attempt,
    outcome: Result<Settlement, Interrupt>,
) -> Option<Settled> {
    let settlement = match outcome {
        Ok(settlement) => settlement,
        Err(interrupt) => Settlement { event: event_of(attempt, interrupt)?, diff: None },
    };
    let has_landed = matches!(settlement.event, Event::Complete { .. });
    let first = report(attempt, settlement.event, settlement.diff).await;
    let (advanced, woken) = match first {
        Ok(reported) => reported,
        Err(interrupt) => {
            let interrupt = if has_landed { interrupt.after_landing() } else { interrupt };
            // The store refused the settlement: report that refusal instead, once.
            let event = event_of(attempt, interrupt)?;
            match report(attempt, event, None).await {
                Ok(reported) => reported,
                Err(_) => {
                    error!(task = %attempt.task.id, "the end of an attempt could not be reported; its lease will expire");
                    return None;
                }
            }
        }
    };
    count(&advanced);
    Some(Settled { task: advanced.task, woken })
}

/// The event that ends an interrupted attempt. `None`: the lease is lost.
fn event_of(attempt: &Attempt, interrupt: Interrupt) -> Option<Event> {
    let lease = &attempt.lease;
    let holder = lease.holder.clone();
    let revoked = matches!(interrupt, Interrupt::Revoked(_));
    let failure = match (interrupt, lease.stop.reason()) {
        (_, Some(StopReason::LeaseLost)) => return None,
        (Interrupt::Failed(failure) | Interrupt::Revoked(failure), _) => failure,
        (Interrupt::Stopped, Some(StopReason::Released)) => return Some(Event::Release { holder }),
        (Interrupt::Stopped, Some(StopReason::TimedOut)) => {
            let seconds = attempt.task.work.timeout().as_secs();
            Failure::new(FailureClass::Timeout, format!("the attempt took longer than {seconds} s"))
        }
        (Interrupt::Stopped, Some(StopReason::Cancelled)) => {
            Failure::new(FailureClass::Cancelled, "cancelled")
        }
        (Interrupt::Stopped, None) => {
            Failure::new(FailureClass::Infra, "a phase ended without a reason")
        }
    };
    let failure = Failure {
        message: attempt.context.redactor.redact(&failure.message).into_owned(),
        ..failure
    };
    let left = attempt.own_refs.left(attempt.task.id);
    attempt.note(format!("the attempt failed ({}): {}", failure.class.as_str(), failure.message));
    Some(Event::Fail { holder, failure, usage: Some(*lease.usage.borrow()), revoked, left })
}

/// Sends the wake-ups. Returns whether it did.
async fn send(attempt: &Attempt, advanced: &Advanced) -> bool {
    let (store, queue) = (&*attempt.context.ports.store, &*attempt.context.ports.queue);
    let now = attempt.now();
    let Advanced { task, outbox, .. } = advanced;
    if let Err(error) = outbox::send_for_slot(store, queue, task, outbox, now).await {
        warn!(task = %attempt.task.id, error = chain(&error), "a wake-up was not sent; the next sweep sends it");
        return false;
    }
    true
}

fn count(advanced: &Advanced) {
    let task = &advanced.task;
    let attempt = task.attempts.last().and_then(|attempt| attempt.failure.as_ref());
    if let Some(failure) =
        attempt.filter(|failure| failure.class.rules().running != Reaction::Cancel)
    {
        let class = failure.class.as_str();
        metrics::counter!("rdev_tasks_failed_total", "class" => class).increment(1);
    }
    match task.state {
        TaskState::Succeeded => {
            let outcome = match &task.result {
                Some(TaskResult::Build(build)) => build.outcome.as_str(),
                _ => "checked",
            };
            metrics::counter!("rdev_tasks_completed_total", "outcome" => outcome).increment(1);
            info!(task = %task.id, project = %task.project_id, outcome, "the task succeeded");
        }
        TaskState::Failed => {
            let class = task.failure.as_ref().map_or("unknown", |failure| failure.class.as_str());
            info!(task = %task.id, project = %task.project_id, class, "the task failed");
        }
        TaskState::Cancelled => {
            metrics::counter!("rdev_tasks_completed_total", "outcome" => "cancelled").increment(1);
            info!(task = %task.id, project = %task.project_id, "the task was cancelled");
        }
        TaskState::Queued | TaskState::Running | TaskState::Pushing => {
            info!(task = %task.id, project = %task.project_id, state = task.state.as_str(), "the task is back in its queue");
        }
    }
}
