//! Telling the store how an attempt went on, through blips and lost answers.

use std::time::{Duration, Instant};

use rdev_domain::audit::Actor;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::outbox;
use rdev_domain::ports::{Advanced, PortError, PortResult, Record, Store};
use rdev_domain::result::TaskResult;
use rdev_domain::step::{Event, Refusal};
use rdev_domain::task::TaskState;
use tracing::{error, info, warn};

use super::Attempt;
use super::interrupt::Interrupt;
use super::lease::Held;
use super::stop::Why;
use crate::{chain, now};

/// How an attempt ends.
pub(crate) struct Settlement {
    /// What to tell the store.
    pub(crate) event: Event,
    /// The diff to keep with it.
    pub(crate) diff: Option<String>,
}

/// How long a runner that ends waits for a store that is away.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest pause between two tries to reach the store.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Applies an event of this attempt's, with the events that wait. Tries until
/// the store answers; a repeat whose first try had been applied counts as applied.
pub(crate) async fn advance(
    attempt: &Attempt,
    event: Event,
    diff: Option<String>,
) -> Result<Advanced, Interrupt> {
    let (store, held) = (&attempt.shared.ports.store, &attempt.held);
    let by = Actor::worker(attempt.shared.worker_id.clone());
    let mut pause = Duration::from_millis(100);
    let mut in_doubt = false;
    let begun = Instant::now();
    loop {
        let told = {
            let _turn = held.writing.lock().await;
            tell(&**store, held, event.clone(), diff.clone(), &by).await
        };
        match told {
            Ok(advanced) => {
                send(attempt, &advanced).await;
                return Ok(advanced);
            }
            Err(error) if error.is_transient() => {
                warn!(task = %held.task, error = chain(&error), "the store did not take a report; trying again");
                in_doubt = true;
                let ending = attempt.shared.release.is_cancelled();
                let patient = !ending || begun.elapsed() < PATIENCE;
                if held.stop.why() == Some(Why::LeaseLost) || !patient {
                    // The lease ends by itself, and somebody recovers the task.
                    return Err(Interrupt::Stopped);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(PortError::Refused(Refusal::CancelRequested)) => {
                return Err(Interrupt::failed(FailureClass::Cancelled, "cancelled"));
            }
            Err(PortError::Refused(Refusal::Stale | Refusal::Ended(_))) if in_doubt => {
                // Only this attempt can have ended the lease and left the fence as it is.
                let now_there = store.task(held.task).await;
                match now_there {
                    Ok(found) if found.task.fence == held.holder.fence => {
                        return Ok(Advanced {
                            task: found.task,
                            lease: found.lease,
                            outbox: vec![],
                        });
                    }
                    _ => {
                        held.stop.now(Why::LeaseLost);
                        return Err(Interrupt::Stopped);
                    }
                }
            }
            Err(
                PortError::Refused(Refusal::Stale | Refusal::Ended(_)) | PortError::NotFound { .. },
            ) => {
                held.stop.now(Why::LeaseLost);
                return Err(Interrupt::Stopped);
            }
            Err(error) => {
                return Err(Interrupt::failed(FailureClass::Infra, chain(&error)));
            }
        }
    }
}

/// One try. Events that it could not write go back, for the next one.
async fn tell(
    store: &dyn Store,
    held: &Held,
    event: Event,
    diff: Option<String>,
    by: &Actor,
) -> PortResult<Advanced> {
    let mut events = held.events.take_chunk();
    // More than one chunk: the earlier ones go ahead on renewals.
    while !held.events.is_empty() {
        if let Err(error) = store.renew(held.task, &held.holder, &events, None, now()).await {
            held.events.put_back(events);
            return Err(error);
        }
        events = held.events.take_chunk();
    }
    let record = Record { events: events.clone(), diff };
    let advanced = store.advance(held.task, event, record, by, now()).await;
    if advanced.is_err() {
        held.events.put_back(events);
    }
    advanced
}

/// Tells the store the attempt's end, whatever it was. `None`: the lease is
/// lost, and nobody is told anything.
pub(crate) async fn settle(
    attempt: &Attempt,
    outcome: Result<Settlement, Interrupt>,
) -> Option<Advanced> {
    let settlement = match outcome {
        Ok(settlement) => settlement,
        Err(interrupt) => Settlement { event: ending(attempt, interrupt)?, diff: None },
    };
    let first = advance(attempt, settlement.event, settlement.diff).await;
    let advanced = match first {
        Ok(advanced) => advanced,
        Err(interrupt) => {
            // A settlement that was itself refused: report that instead, once.
            let event = ending(attempt, interrupt)?;
            match advance(attempt, event, None).await {
                Ok(advanced) => advanced,
                Err(_) => {
                    error!(task = %attempt.task.id, "the end of an attempt could not be reported; its lease will expire");
                    return None;
                }
            }
        }
    };
    count(&advanced);
    Some(advanced)
}

/// The event that an interrupted attempt ends with.
fn ending(attempt: &Attempt, interrupt: Interrupt) -> Option<Event> {
    let held = &attempt.held;
    let holder = held.holder.clone();
    let failure = match (interrupt, held.stop.why()) {
        (_, Some(Why::LeaseLost)) => return None,
        (Interrupt::Failed(failure), _) => failure,
        (Interrupt::Stopped, Some(Why::Released)) => return Some(Event::Release { holder }),
        (Interrupt::Stopped, Some(Why::TimedOut)) => {
            let seconds = attempt.task.work.timeout().as_secs();
            Failure::new(FailureClass::Timeout, format!("the attempt took longer than {seconds} s"))
        }
        (Interrupt::Stopped, Some(Why::Cancelled)) => {
            Failure::new(FailureClass::Cancelled, "cancelled")
        }
        (Interrupt::Stopped, None) => {
            Failure::new(FailureClass::Infra, "a phase ended without a reason")
        }
    };
    let failure = Failure {
        message: attempt.shared.redactor.redact(&failure.message).into_owned(),
        ..failure
    };
    attempt.note(format!("the attempt failed ({}): {}", failure.class.as_str(), failure.message));
    Some(Event::Fail { holder, failure, usage: Some(*held.usage.borrow()) })
}

async fn send(attempt: &Attempt, advanced: &Advanced) {
    let ports = &attempt.shared.ports;
    if let Err(error) = outbox::send(&*ports.store, &*ports.queue, &advanced.outbox, now()).await {
        warn!(task = %attempt.task.id, error = chain(&error), "a wake-up was not sent; the next sweep sends it");
    }
}

fn count(advanced: &Advanced) {
    let task = &advanced.task;
    let attempt = task.attempts.last().and_then(|attempt| attempt.failure.as_ref());
    if let Some(failure) = attempt.filter(|failure| failure.class != FailureClass::Cancelled) {
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
            info!(task = %task.id, project = %task.project_id, state = task.state.as_str(), "the task goes back to its queue");
        }
    }
}
