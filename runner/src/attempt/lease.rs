//! The lease of an attempt: its renewals, which also write events, and the right to push.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdev_domain::git::RecordedRef;
use rdev_domain::ids::TaskId;
use rdev_domain::lease::{Holder, LEASE, Progress, RENEW_EVERY};
use rdev_domain::ports::{PortError, Receipt, VISIBILITY};
use rdev_domain::result::Usage;
use rdev_domain::step::Refusal;
use rdev_domain::time::Timestamp;
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
    /// Whether the end of the attempt is being reported. From then on the store may have ended the
    /// lease by that report, whatever a renewal is told: whoever reports finds out.
    pub(crate) ending: AtomicBool,
    /// When the last renewal that succeeded was sent.
    last_renewal: watch::Sender<Sent>,
}

/// A moment on both clocks of a machine. The monotonic one stands still while the machine is
/// suspended, the other one may be set.
#[derive(Debug, Clone, Copy)]
struct Sent {
    monotonic: Instant,
    wall: Timestamp,
}

impl Sent {
    fn at(wall: Timestamp) -> Self {
        Self { monotonic: Instant::now(), wall }
    }

    /// How long ago it was, by the clock that says more.
    fn age(self, now: Timestamp) -> Duration {
        self.monotonic.elapsed().max(now.since(self.wall))
    }
}

impl ActiveLease {
    /// The lease of a task that was just claimed.
    pub(crate) fn new(
        task: TaskId,
        holder: Holder,
        events: EventLog,
        own_refs: Vec<RecordedRef>,
        now: Timestamp,
    ) -> Self {
        Self {
            task,
            holder,
            own_refs: Mutex::new(own_refs),
            events,
            usage: watch::Sender::new(Usage::default()),
            stop: Stop::default(),
            writing: Mutex::new(()),
            ending: AtomicBool::new(false),
            last_renewal: watch::Sender::new(Sent::at(now)),
        }
    }

    /// Stops the attempt, whose lease another process has or has ended.
    pub(crate) fn lose(&self) {
        warn!(task = %self.task, fence = %self.holder.fence, "the lease is lost");
        self.stop.request(StopReason::LeaseLost);
    }

    /// Waits until the attempt may push: the store has acknowledged a renewal that was sent less
    /// than [`LEASE`] ago. Returns early when the attempt is stopped.
    pub(crate) async fn right_to_push(&self, clock: impl Fn() -> Timestamp) {
        let mut renewal = self.last_renewal.subscribe();
        while renewal.borrow_and_update().age(clock()) >= LEASE {
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
        let (store, now) = (&context.ports.store, context.machine.now());
        let sent = Sent::at(now);
        let events = lease.events.take_chunk();
        let usage = *lease.usage.borrow();
        let progress = Progress { events: &events, usage: Some(usage), own_refs: Some(&own_refs) };
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
                lease.lose();
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
    receipt: Option<Receipt>,
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
        let now = machine.now();
        let sent = Sent::at(now);
        let events = lease.events.take_chunk();
        let usage = *lease.usage.borrow();
        let progress = Progress { events: &events, usage: Some(usage), own_refs: None };
        match store.renew(lease.task, &lease.holder, progress, now).await {
            Ok(renewal) => {
                lease.last_renewal.send_replace(sent);
                next_renewal = sent.monotonic + jittered(RENEW_EVERY, machine);
                if renewal.cancel_requested {
                    lease.stop.request(StopReason::Cancelled);
                }
                if let Some(receipt) = &receipt
                    && Instant::now() >= next_visibility
                {
                    match queue.set_visibility(receipt, VISIBILITY).await {
                        Ok(()) => next_visibility = Instant::now() + EXTEND_EVERY,
                        // The next renewal tries again.
                        Err(error) => {
                            debug!(task = %lease.task, %error, "the wake-up's visibility was not extended");
                        }
                    }
                }
            }
            Err(PortError::Refused(Refusal::Stale) | PortError::NotFound { .. }) => {
                if !lease.ending.load(Ordering::Relaxed) {
                    lease.lose();
                }
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

    const NOON: Timestamp = Timestamp::from_millis(1_767_225_600_000);

    fn lease() -> ActiveLease {
        let owner = Owner::new(&"w1".parse().expect("a worker id"), "process");
        let holder = Holder { fence: Fence(1), owner };
        let events = EventLog::new(Fence(1), 1000);
        ActiveLease::new(TaskId(Ulid::nil()), holder, events, vec![], NOON)
    }

    #[tokio::test(start_paused = true)]
    async fn the_right_to_push_ends_with_the_lease_and_comes_back_with_a_renewal() {
        let lease = lease();
        // The wall clock was set back, and says nothing.
        let clock = || NOON;
        let may_push = || lease.right_to_push(clock).now_or_never().is_some();
        tokio::time::advance(LEASE - Duration::from_secs(1)).await;
        assert!(may_push());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!may_push(), "somebody may have taken it for dead");

        let waiting = lease.right_to_push(clock);
        tokio::pin!(waiting);
        assert!((&mut waiting).now_or_never().is_none());
        // One that was sent too long ago says nothing about now.
        let monotonic = Instant::now() - LEASE;
        lease.last_renewal.send_replace(Sent { monotonic, wall: NOON });
        assert!((&mut waiting).now_or_never().is_none());
        lease.last_renewal.send_replace(Sent::at(NOON));
        assert!((&mut waiting).now_or_never().is_some());

        tokio::time::advance(2 * LEASE).await;
        lease.stop.request(StopReason::LeaseLost);
        assert!(may_push(), "an attempt that is stopped does not wait; it looks at why");
    }

    #[tokio::test(start_paused = true)]
    async fn a_monotonic_clock_that_slept_gives_no_right_to_push() {
        let lease = lease();
        // The machine was suspended: no time has passed on the monotonic clock.
        let woken = NOON.plus(Duration::from_secs(600));
        assert!(lease.right_to_push(|| woken).now_or_never().is_none());
        lease.last_renewal.send_replace(Sent::at(woken));
        assert!(lease.right_to_push(|| woken).now_or_never().is_some(), "it was renewed since");
    }
}
