//! Receiving wake-ups and claiming tasks: steps 2 and 3 of `docs/protocol.md`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rdev_domain::chain;
use rdev_domain::outbox;
use rdev_domain::ports::{Claim, Claimed, PortError, Queue, Receipt, ReceivedMessage};
use rdev_domain::wake_up::WakeUp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::context::{Ports, RunnerContext};
use super::protection::ProtectedSlot;
use crate::job;

/// The time that one receive waits for a message.
const RECEIVE_WAIT: Duration = Duration::from_secs(20);

/// When a wake-up is visible again that was received before and finds nothing to claim: its holder
/// may have died, and then its lease can be recovered soon. Also when another runner of the same
/// queue may be able to do what this one cannot.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Up to this receive a wake-up comes back. By then the lease of a dead holder can be recovered:
/// the second receive is at most 40 s before that.
const LOOKS: u32 = 7;

/// How often a runner looks for expired leases of all projects at most. The seventh receive is at
/// least 50 s after the second one, so a look of 5 s before it finds the same leases.
const RECOVER_EVERY: Duration = Duration::from_secs(5);

/// How long a runner that starts waits for a wake-up before it looks by itself.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest pause while the store or the queue is away, or protection is denied.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Receives, claims and starts jobs until the drain begins.
pub(super) async fn claim_work(
    context: &Arc<RunnerContext>,
    slots: &Arc<Semaphore>,
    jobs: &TaskTracker,
) {
    let mut pause = Duration::from_millis(200);
    let mut protection: Option<ProtectedSlot> = None;
    // Where runners differ, in their versions or in their agents, others may have received every
    // wake-up and could do nothing. What only this one can do is not to wait until it happens to
    // receive one: if it was told nothing for long, and when it starts, it looks by itself. But it
    // asks the queue first: should it die, only a task that it has claimed by a wake-up is noticed
    // before the sweep.
    let look_interval = Duration::from_secs(context.config.runner.look_interval_s.max(1));
    let mut next_look = Instant::now() + FIRST_WAIT;
    let mut recovered = None;
    loop {
        let next = async {
            drain_order(context, false).await;
            let permit = Arc::clone(slots).acquire_owned().await.ok()?;
            let until_look = next_look.saturating_duration_since(Instant::now());
            if until_look.is_zero() {
                return Some((permit, Ok(Received::Nothing)));
            }
            let received = tokio::select! {
                biased;
                received = context.ports.queue.receive(RECEIVE_WAIT.min(until_look)) => {
                    received.map(|message| message.map_or(Received::Nothing, Received::Message))
                }
                // A drain was ordered meanwhile: wait again.
                () = drain_order(context, true) => Ok(Received::DrainOrder),
            };
            Some((permit, received))
        };
        let (permit, received) = tokio::select! {
            biased;
            () = context.drain.cancelled() => return,
            next = next => match next {
                Some(next) => next,
                None => return,
            },
        };
        let outcome = match received {
            Ok(Received::DrainOrder) => Ok(WakeUpOutcome::Handled),
            Ok(Received::Nothing) if Instant::now() < next_look => Ok(WakeUpOutcome::Handled),
            Ok(Received::Nothing) => {
                next_look = Instant::now() + look_interval;
                look(context, permit, jobs).await
            }
            Ok(Received::Message(message)) => {
                // Whoever is told something does not look by itself.
                next_look = Instant::now() + look_interval;
                handle_wake_up(context, message, &mut recovered, permit, jobs).await
            }
            Err(error) => Err(error),
        };
        // A job that was started has a protected slot of its own.
        drop(protection.take());
        match outcome {
            Ok(WakeUpOutcome::Handled) => pause = Duration::from_millis(200),
            Ok(WakeUpOutcome::Unprotected) => {
                // ECS is likely to stop this runner: it receives nothing before it is protected.
                tokio::select! {
                    biased;
                    slot = wait_for_protection(context) => protection = Some(slot),
                    () = context.drain.cancelled() => return,
                }
            }
            Err(error) => {
                warn!(error = chain(&error), "the runner cannot claim work now; trying again");
                // Each receive counts against a message, so none is done while the store is down.
                loop {
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep(pause) => {}
                        () = context.drain.cancelled() => return,
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    if context.ports.store.ping().await.is_ok() {
                        break;
                    }
                }
            }
        }
    }
}

/// Asks for protection until ECS gives it.
async fn wait_for_protection(context: &RunnerContext) -> ProtectedSlot {
    let mut pause = Duration::from_secs(1);
    loop {
        tokio::time::sleep(pause).await;
        match context.protection.acquire().await {
            Ok(slot) => return slot,
            Err(_) => pause = (pause * 2).min(LONGEST_PAUSE),
        }
    }
}

/// Waits until a drain is ordered through the API (`true`), or until no drain is (`false`).
async fn drain_order(context: &RunnerContext, expected: bool) {
    let mut ordered = context.ordered_drain.subscribe();
    // The sender lives as long as `context`, so this cannot fail.
    let _ = ordered.wait_for(|ordered| *ordered == expected).await;
}

/// What came of waiting for a wake-up.
enum Received {
    Message(ReceivedMessage),
    Nothing,
    DrainOrder,
}

/// The result of handling a wake-up.
enum WakeUpOutcome {
    /// There is nothing more to do about it.
    Handled,
    /// It went back to the queue, because ECS may stop this runner at any time.
    Unprotected,
}

/// Steps 2 and 3 of the protocol: claims a task for the project whose turn it is, and starts its
/// job. `recovered` is when this runner has looked for expired leases of all projects last.
async fn handle_wake_up(
    context: &Arc<RunnerContext>,
    message: ReceivedMessage,
    recovered: &mut Option<Instant>,
    permit: OwnedSemaphorePermit,
    jobs: &TaskTracker,
) -> Result<WakeUpOutcome, PortError> {
    let queue = &context.ports.queue;
    let Ok(wake_up) = message.body else {
        // After enough receives it goes to the dead-letter queue.
        queue.set_visibility(&message.receipt, Duration::ZERO).await?;
        return Ok(WakeUpOutcome::Handled);
    };
    let slot = match context.protection.acquire().await {
        Ok(slot) => slot,
        Err(denied) => {
            warn!(
                error = chain(&denied),
                "the runner claims nothing until it is protected from scale-in"
            );
            queue.set_visibility(&message.receipt, Duration::ZERO).await?;
            return Ok(WakeUpOutcome::Unprotected);
        }
    };
    let (store, machine) = (&context.ports.store, &context.machine);
    if message.receive_count > 1 && is_time_to_recover(*recovered, Instant::now()) {
        // Its receiver may have died with a task of any project.
        let outbox = store.recover_expired(machine.now()).await?;
        *recovered = Some(Instant::now());
        outbox::send(&**store, &**queue, &outbox, machine.now()).await?;
    }
    let (hint, can) = (&wake_up.project_id, &context.capabilities);
    let claim = store.claim_next(hint, &context.owner, can, machine.now()).await;
    let outcome = match claim {
        Ok(Claim::Claimed(claimed)) => {
            let task = &claimed.task;
            if task.project_id != wake_up.project_id || task.work.agent() != wake_up.agent {
                // It was the turn of another project, or of work that needs no agent. What this one
                // is about still has its wake-up to come; one that came back may be of a dead
                // holder, whose lease ends later.
                let delay = if message.receive_count > 1 { LOOK_AGAIN * 4 } else { Duration::ZERO };
                if let Err(error) = queue.send(&wake_up, delay).await {
                    warn!(error = chain(&error), "a wake-up was not sent; the sweep sends another");
                }
            }
            start_job(context, *claimed, Some(message.receipt), (permit, slot), jobs).await;
            Ok(())
        }
        // The holder may have died just now: then nobody else would send a wake-up before the
        // sweep.
        Ok(Claim::Nothing | Claim::SlotsTaken) if (2..=LOOKS).contains(&message.receive_count) => {
            queue.set_visibility(&message.receipt, LOOK_AGAIN).await
        }
        Ok(Claim::Nothing | Claim::SlotsTaken) => queue.delete(&message.receipt).await,
        // It goes to the runners that can do what is due. There it is for that very agent: it is
        // sent on again only when something else has become first.
        Ok(Claim::Unsuited { agent }) if agent != wake_up.agent => {
            let wake_up = WakeUp { agent, ..wake_up };
            postpone(&**queue, &wake_up, &message.receipt, Duration::ZERO).await
        }
        // Another runner of this queue may be able to do it. Not for ever: while something is due,
        // the sweep sends another.
        Ok(Claim::Unsuited { .. }) if message.receive_count <= LOOKS => {
            queue.set_visibility(&message.receipt, LOOK_AGAIN).await
        }
        Ok(Claim::Unsuited { .. }) => queue.delete(&message.receipt).await,
        Ok(Claim::Contended) => {
            postpone(&**queue, &wake_up, &message.receipt, Duration::from_secs(1)).await
        }
        Err(PortError::NotFound { .. }) => queue.delete(&message.receipt).await,
        Err(error) => {
            queue.set_visibility(&message.receipt, Duration::from_secs(5)).await?;
            Err(error)
        }
    };
    outcome.map(|()| WakeUpOutcome::Handled)
}

/// Claims without a wake-up, if anything waits: whatever this runner can do, of the project whose
/// turn it is. If this process dies, no wake-up comes back, and the sweep recovers the task.
async fn look(
    context: &Arc<RunnerContext>,
    permit: OwnedSemaphorePermit,
    jobs: &TaskTracker,
) -> Result<WakeUpOutcome, PortError> {
    let (store, machine) = (&context.ports.store, &context.machine);
    let Some(hint) = store.waiting_project(machine.now()).await? else {
        return Ok(WakeUpOutcome::Handled);
    };
    let Ok(slot) = context.protection.acquire().await else {
        return Ok(WakeUpOutcome::Unprotected);
    };
    let claim =
        store.claim_next(&hint, &context.owner, &context.capabilities, machine.now()).await?;
    if let Claim::Claimed(claimed) = claim {
        start_job(context, *claimed, None, (permit, slot), jobs).await;
    }
    Ok(WakeUpOutcome::Handled)
}

/// Sends the wake-ups that the claim has written, and starts the job of the claimed task, which
/// holds a slot and the protection from scale-in.
async fn start_job(
    context: &Arc<RunnerContext>,
    claimed: Claimed,
    receipt: Option<Receipt>,
    (permit, slot): (OwnedSemaphorePermit, ProtectedSlot),
    jobs: &TaskTracker,
) {
    metrics::counter!("rdev_tasks_claimed_total").increment(1);
    let Ports { store, queue, .. } = &context.ports;
    let sent = outbox::send(&**store, &**queue, &claimed.outbox, context.machine.now()).await;
    if let Err(error) = sent {
        warn!(error = chain(&error), "a wake-up was not sent; the next sweep sends it");
    }
    let job = job::run(Arc::clone(context), claimed, receipt).boxed();
    let holding = async move {
        job.await;
        drop(permit);
        drop(slot);
    };
    context.machine.spawn(jobs.track_future(holding).boxed());
}

/// Whether a wake-up that came back is a reason to look for expired leases: many at once are one.
fn is_time_to_recover(recovered: Option<Instant>, now: Instant) -> bool {
    recovered.is_none_or(|last| now.saturating_duration_since(last) >= RECOVER_EVERY)
}

/// Sends the wake-up again with a delay, then deletes the old one: the receive count starts at 0.
async fn postpone(
    queue: &dyn Queue,
    wake_up: &WakeUp,
    receipt: &Receipt,
    delay: Duration,
) -> Result<(), PortError> {
    queue.send(wake_up, delay).await?;
    queue.delete(receipt).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wake_ups_that_come_back_are_one_look_in_five_seconds() {
        let begun = Instant::now();
        let (mut recovered, mut looks) = (None, Vec::new());
        for tenths in 0..=100_u64 {
            let now = begun + Duration::from_millis(tenths * 100);
            if is_time_to_recover(recovered, now) {
                recovered = Some(now);
                looks.push(tenths);
            }
        }
        assert_eq!(looks, [0, 50, 100]);
        // So the last look for a wake-up is at least 40 s after its second receive.
        assert!(LOOK_AGAIN * (LOOKS - 2) - RECOVER_EVERY >= Duration::from_secs(40));
    }
}
