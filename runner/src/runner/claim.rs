//! Receiving wake-ups and claiming tasks: steps 2 and 3 of `docs/protocol.md`.

use std::sync::Arc;
use std::time::Duration;

use rdev_domain::outbox;
use rdev_domain::ports::{Claim, PortError, Queue, Receipt, ReceivedMessage};
use rdev_domain::wake_up::WakeUp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::context::Shared;
use super::protection::Hold;
use crate::{chain, job, now};

/// How long one receive waits for a message.
const RECEIVE_WAIT: Duration = Duration::from_secs(20);

/// How long a wake-up is put off whose work this runner cannot take now.
const POSTPONE: Duration = Duration::from_secs(60);

/// The longest pause while the store or the queue is away, or protection is denied.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Receives, claims and starts jobs until the drain begins.
pub(super) async fn take_work(shared: &Arc<Shared>, slots: &Arc<Semaphore>, jobs: &TaskTracker) {
    let mut pause = Duration::from_millis(200);
    let mut kept: Option<Hold> = None;
    loop {
        let next = async {
            wait_until_wanted(shared, true).await;
            let permit = Arc::clone(slots).acquire_owned().await.ok()?;
            let received = tokio::select! {
                biased;
                received = shared.ports.queue.receive(RECEIVE_WAIT) => received,
                // A drain was ordered meanwhile: begin anew, and wait.
                () = wait_until_wanted(shared, false) => Ok(None),
            };
            Some((permit, received))
        };
        let (permit, received) = tokio::select! {
            biased;
            () = shared.drain.cancelled() => return,
            next = next => match next {
                Some(next) => next,
                None => return,
            },
        };
        let outcome = match received {
            Ok(None) => Ok(Taken::Done),
            Ok(Some(message)) => take(shared, message, permit, jobs).await,
            Err(error) => Err(error),
        };
        // What it was kept for is over: a job that was started holds its own.
        drop(kept.take());
        match outcome {
            Ok(Taken::Done) => pause = Duration::from_millis(200),
            Ok(Taken::Unprotected) => {
                // This runner is likely to be stopped. Nothing is received before it is protected.
                tokio::select! {
                    hold = protected(shared) => kept = Some(hold),
                    () = shared.drain.cancelled() => return,
                }
            }
            Err(error) => {
                warn!(error = chain(&error), "no work can be taken now; trying again");
                // Nothing is received while the store is away: each receive counts.
                loop {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = shared.drain.cancelled() => return,
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    if shared.ports.store.ping().await.is_ok() {
                        break;
                    }
                }
            }
        }
    }
}

/// Asks for protection until it is given.
async fn protected(shared: &Shared) -> Hold {
    let mut pause = Duration::from_secs(1);
    loop {
        tokio::time::sleep(pause).await;
        match shared.protection.take().await {
            Ok(hold) => return hold,
            Err(_) => pause = (pause * 2).min(LONGEST_PAUSE),
        }
    }
}

/// Waits until work is wanted, or is not: a drain may be ordered through the API.
async fn wait_until_wanted(shared: &Shared, wanted: bool) {
    let mut ordered = shared.ordered_drain.subscribe();
    // The sender lives as long as `shared`, so this can only end well.
    let _ = ordered.wait_for(|ordered| *ordered != wanted).await;
}

/// What came of a wake-up.
enum Taken {
    /// All that is to be done about it.
    Done,
    /// It went back: the runner may be stopped at any time.
    Unprotected,
}

/// Steps 2 and 3 of the protocol: what a wake-up leads to.
async fn take(
    shared: &Arc<Shared>,
    message: ReceivedMessage,
    permit: OwnedSemaphorePermit,
    jobs: &TaskTracker,
) -> Result<Taken, PortError> {
    let queue = &shared.ports.queue;
    let Ok(wake_up) = message.body else {
        // Received often enough, it goes to the dead-letter queue.
        queue.set_visibility(&message.receipt, Duration::ZERO).await?;
        return Ok(Taken::Done);
    };
    let hold = match shared.protection.take().await {
        Ok(hold) => hold,
        Err(denied) => {
            warn!(error = chain(&denied), "no work is taken until the runner is protected");
            queue.set_visibility(&message.receipt, Duration::ZERO).await?;
            return Ok(Taken::Unprotected);
        }
    };
    let claim =
        shared.ports.store.claim_next(&wake_up.project_id, &shared.owner, &shared.can, now()).await;
    let outcome = match claim {
        Ok(Claim::Claimed(claimed)) => {
            metrics::counter!("rdev_tasks_claimed_total").increment(1);
            if let Err(error) =
                outbox::send(&*shared.ports.store, &**queue, &claimed.outbox, now()).await
            {
                warn!(error = chain(&error), "a wake-up was not sent; the next sweep sends it");
            }
            let shared = Arc::clone(shared);
            jobs.spawn(async move {
                Box::pin(job::run(shared, *claimed, message.receipt)).await;
                drop(permit);
                drop(hold);
            });
            Ok(())
        }
        Ok(Claim::Nothing) => queue.delete(&message.receipt).await,
        // The holder may just have died: then nobody else would send a wake-up.
        Ok(Claim::SlotsTaken) if message.receive_count > 1 => {
            postpone(&**queue, &wake_up, &message.receipt, POSTPONE).await
        }
        Ok(Claim::SlotsTaken) => queue.delete(&message.receipt).await,
        // The sweep wakes the project again while something is due. Putting each
        // wake-up off as well would add one to the queue with every sweep.
        Ok(Claim::Unsuited) => queue.delete(&message.receipt).await,
        Ok(Claim::Contended) => {
            postpone(&**queue, &wake_up, &message.receipt, Duration::from_secs(1)).await
        }
        Err(PortError::NotFound { .. }) => queue.delete(&message.receipt).await,
        Err(error) => {
            queue.set_visibility(&message.receipt, Duration::from_secs(5)).await?;
            Err(error)
        }
    };
    outcome.map(|()| Taken::Done)
}

/// A new message with a delay, then the old one goes: its receive count begins anew.
async fn postpone(
    queue: &dyn Queue,
    wake_up: &WakeUp,
    receipt: &Receipt,
    delay: Duration,
) -> Result<(), PortError> {
    queue.send(wake_up, delay).await?;
    queue.delete(receipt).await
}
