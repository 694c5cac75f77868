//! The lease of an attempt: its renewals, which also write events, and the right to push.

use std::sync::Arc;
use std::time::Duration;

use rdev_domain::git::RecordedRef;
use rdev_domain::ids::TaskId;
use rdev_domain::lease::{Holder, LEASE, Progress, RENEW_EVERY};
use rdev_domain::ports::{PortError, Receipt, VISIBILITY};
use rdev_domain::result::Usage;
use rdev_domain::step::Refusal;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::event_log::EventLog;
use super::stop::{Stop, StopReason};
use crate::machine::Machine;
use crate::runner::context::RunnerContext;

/// How often the wake-up's visibility is extended: with the next renewal after that, which comes
/// within 17 s, so before it ends.
const EXTEND_EVERY: Duration = Duration::from_secs(40);

/// The pause after a renewal that failed.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The lease of a running attempt. Its phases and its renewals share it.
pub(crate) struct ActiveLease {
    pub(crate) task: TaskId,
    pub(crate) holder: Holder,
    pub(crate) events: EventLog,
    pub(crate) usage: watch::Sender<Usage>,
    pub(crate) stop: Stop,
    /// The refs of rdev's own that are not dealt with, as the store has them or is about to.
    pub(crate) own_refs: Mutex<Vec<RecordedRef>>,
    /// Locked during each write that carries events: whoever takes events writes them or puts them
    /// back before anyone else takes more. So no event is lost and the order stays.
    pub(crate) writing: Mutex<()>,
    /// When the last renewal that succeeded was sent, on the monotonic clock.
    last_renewal: watch::Sender<Instant>,
}

impl ActiveLease {
    /// The lease of a task that was just claimed.
    pub(crate) fn new(
        task: TaskId,
        holder: Holder,
        events: EventLog,
        own_refs: Vec<RecordedRef>,
    ) -> Self {
        Self {
            task,
            holder,
            own_refs: Mutex::new(own_refs),
            events,
            usage: watch::Sender::new(Usage::default()),
            stop: Stop::default(),
            writing: Mutex::new(()),
            last_renewal: watch::Sender::new(Instant::now()),
        }
    }

    /// Waits until the attempt may push: the store has acknowledged a renewal that was sent less
    /// than [`LEASE`] ago. Returns early when the attempt is stopped.
    pub(crate) async fn right_to_push(&self) {
        let mut renewal = self.last_renewal.subscribe();
        while renewal.borrow_and_update().elapsed() >= LEASE {
            tokio::select! {
                biased;
                _ = renewal.changed() => {}
                () = self.stop.token().cancelled() => return,
            }
        }
    }
}

/// Records the refs of rdev's own that the attempt may have written, before it writes one of them.
/// Repeats until the store answers or the attempt is stopped; returns whether it is recorded.
///
/// The waiting events and the usage ride along: it is a renewal.
pub(crate) async fn record_refs(
    lease: &ActiveLease,
    context: &RunnerContext,
    own_refs: Vec<RecordedRef>,
) -> bool {
    loop {
        let turn = lease.writing.lock().await;
        let sent = Instant::now();
        let events = lease.events.take_chunk();
        let usage = *lease.usage.borrow();
        let progress = Progress { events: &events, usage: Some(usage), own_refs: Some(&own_refs) };
        let (store, now) = (&context.ports.store, context.machine.now());
        match store.renew(lease.task, &lease.holder, progress, now).await {
            Ok(renewal) => {
                lease.last_renewal.send_replace(sent);
                if renewal.cancel_requested {
                    lease.stop.request(StopReason::Cancelled);
                }
                *lease.own_refs.lock().await = own_refs;
                return true;
            }
            Err(PortError::Refused(Refusal::Stale) | PortError::NotFound { .. }) => {
                warn!(task = %lease.task, fence = %lease.holder.fence, "the lease is lost");
                lease.stop.request(StopReason::LeaseLost);
                return false;
            }
            Err(error) => {
                warn!(task = %lease.task, %error, "a ref was not recorded before its push; trying again");
                lease.events.put_back(events);
                drop(turn);
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(RETRY_AFTER) => {}
                    () = lease.stop.token().cancelled() => return false,
                }
            }
        }
    }
}

/// Renews the lease until the lease is lost or this is aborted. `flush_after` is the longest
/// time that an event waits for a write.
pub(crate) async fn renew_periodically(
    lease: Arc<ActiveLease>,
    context: Arc<RunnerContext>,
    receipt: Receipt,
    flush_after: Duration,
) {
    let (store, queue, machine) = (&context.ports.store, &context.ports.queue, &*context.machine);
    let mut next_renewal = Instant::now() + jittered(RENEW_EVERY, machine);
    let mut next_visibility = Instant::now() + EXTEND_EVERY;
    loop {
        let flush = async {
            // Events that wait already have sent their notification before.
            if lease.events.is_empty() {
                lease.events.added.notified().await;
            }
            tokio::time::sleep(flush_after).await;
        };
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(next_renewal) => {}
            () = flush => {}
        }
        let turn = lease.writing.lock().await;
        let sent = Instant::now();
        let events = lease.events.take_chunk();
        let usage = *lease.usage.borrow();
        let progress = Progress { events: &events, usage: Some(usage), own_refs: None };
        match store.renew(lease.task, &lease.holder, progress, machine.now()).await {
            Ok(renewal) => {
                lease.last_renewal.send_replace(sent);
                next_renewal = sent + jittered(RENEW_EVERY, machine);
                if renewal.cancel_requested {
                    lease.stop.request(StopReason::Cancelled);
                }
                if Instant::now() >= next_visibility {
                    next_visibility = Instant::now() + EXTEND_EVERY;
                    if let Err(error) = queue.set_visibility(&receipt, VISIBILITY).await {
                        debug!(task = %lease.task, %error, "the wake-up's visibility was not extended");
                    }
                }
            }
            Err(PortError::Refused(Refusal::Stale) | PortError::NotFound { .. }) => {
                warn!(task = %lease.task, fence = %lease.holder.fence, "the lease is lost");
                lease.stop.request(StopReason::LeaseLost);
                return;
            }
            Err(error) => {
                warn!(task = %lease.task, %error, "the lease was not renewed; trying again");
                lease.events.put_back(events);
                drop(turn);
                next_renewal = Instant::now() + RETRY_AFTER;
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// `span` ± 10 %.
fn jittered(span: Duration, machine: &dyn Machine) -> Duration {
    span * (900 + machine.random(201)) / 1000
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use rdev_domain::ids::{Fence, Owner};
    use ulid::Ulid;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_right_to_push_ends_with_the_lease_and_comes_back_with_a_renewal() {
        let owner = Owner::new(&"w1".parse().expect("a worker id"), "process");
        let holder = Holder { fence: Fence(1), owner };
        let lease =
            ActiveLease::new(TaskId(Ulid::nil()), holder, EventLog::new(Fence(1), 1000), vec![]);
        let may_push = || lease.right_to_push().now_or_never().is_some();
        tokio::time::advance(LEASE - Duration::from_secs(1)).await;
        assert!(may_push());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!may_push(), "somebody may have taken it for dead");

        let waiting = lease.right_to_push();
        tokio::pin!(waiting);
        assert!((&mut waiting).now_or_never().is_none());
        // One that was sent too long ago says nothing about now.
        lease.last_renewal.send_replace(Instant::now() - LEASE);
        assert!((&mut waiting).now_or_never().is_none());
        lease.last_renewal.send_replace(Instant::now());
        assert!((&mut waiting).now_or_never().is_some());

        tokio::time::advance(2 * LEASE).await;
        lease.stop.request(StopReason::LeaseLost);
        assert!(may_push(), "an attempt that is stopped does not wait; it looks at why");
    }
}
