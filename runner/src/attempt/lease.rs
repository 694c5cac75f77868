//! Keeping a lease: renewals, the event chunks that ride on them, and the right to push.

use std::sync::Arc;
use std::time::Duration;

use rdev_domain::ids::TaskId;
use rdev_domain::lease::{Holder, LEASE, RENEW_EVERY};
use rdev_domain::ports::{PortError, Queue, Receipt, Store, VISIBILITY};
use rdev_domain::result::Usage;
use rdev_domain::step::Refusal;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::event_log::EventLog;
use super::stop::{Stop, Why};
use crate::now;

/// How often the wake-up's visibility is extended: with the next renewal after that, which comes
/// within 17 s, so before it ends.
const EXTEND_EVERY: Duration = Duration::from_secs(40);

/// How long to wait after a renewal that did not go through.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// A lease as its keeper sees it; shared with the phases.
pub(crate) struct Held {
    pub(crate) task: TaskId,
    pub(crate) holder: Holder,
    pub(crate) events: EventLog,
    pub(crate) usage: watch::Sender<Usage>,
    pub(crate) stop: Stop,
    /// Held around each write that carries events: whoever takes some writes them, or puts them
    /// back, before the next one takes more. So none is lost, and their order is kept.
    pub(crate) writing: Mutex<()>,
    /// When the last renewal that succeeded was sent, on the monotonic clock.
    last_good: watch::Sender<Instant>,
}

impl Held {
    /// A lease that was just claimed.
    pub(crate) fn new(task: TaskId, holder: Holder, events: EventLog) -> Self {
        Self {
            task,
            holder,
            events,
            usage: watch::Sender::new(Usage::default()),
            stop: Stop::default(),
            writing: Mutex::new(()),
            last_good: watch::Sender::new(Instant::now()),
        }
    }

    /// Waits until there is a right to push: a renewal was acknowledged that
    /// was sent less than [`LEASE`] ago. Ends early when the attempt is stopped.
    pub(crate) async fn right_to_push(&self) {
        let mut good = self.last_good.subscribe();
        while good.borrow_and_update().elapsed() >= LEASE {
            tokio::select! {
                _ = good.changed() => {}
                () = self.stop.token().cancelled() => return,
            }
        }
    }
}

/// Renews until told to stop. `flush_after`: how long an event may wait for a write.
pub(crate) async fn keep(
    held: Arc<Held>,
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    receipt: Receipt,
    flush_after: Duration,
) {
    let mut next_renewal = Instant::now() + jittered(RENEW_EVERY);
    let mut next_visibility = Instant::now() + EXTEND_EVERY;
    loop {
        let flush = async {
            // Events that are there already have notified before we came here.
            if held.events.is_empty() {
                held.events.added.notified().await;
            }
            tokio::time::sleep(flush_after).await;
        };
        tokio::select! {
            () = tokio::time::sleep_until(next_renewal) => {}
            () = flush => {}
        }
        let turn = held.writing.lock().await;
        let sent = Instant::now();
        let events = held.events.take_chunk();
        let usage = *held.usage.borrow();
        match store.renew(held.task, &held.holder, &events, Some(usage), now()).await {
            Ok(renewal) => {
                held.last_good.send_replace(sent);
                next_renewal = sent + jittered(RENEW_EVERY);
                if renewal.cancel_requested {
                    held.stop.now(Why::Cancelled);
                }
                if Instant::now() >= next_visibility {
                    next_visibility = Instant::now() + EXTEND_EVERY;
                    if let Err(error) = queue.set_visibility(&receipt, VISIBILITY).await {
                        debug!(task = %held.task, %error, "the wake-up's visibility was not extended");
                    }
                }
            }
            Err(PortError::Refused(Refusal::Stale) | PortError::NotFound { .. }) => {
                warn!(task = %held.task, fence = %held.holder.fence, "the lease is lost");
                held.stop.now(Why::LeaseLost);
                return;
            }
            Err(error) => {
                warn!(task = %held.task, %error, "the lease was not renewed; trying again");
                held.events.put_back(events);
                drop(turn);
                next_renewal = Instant::now() + RETRY_AFTER;
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// `span` ± 10 %.
fn jittered(span: Duration) -> Duration {
    span * rand::random_range(900..=1100) / 1000
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
        let held = Held::new(TaskId(Ulid::nil()), holder, EventLog::new(Fence(1), 1000));
        let may_push = || held.right_to_push().now_or_never().is_some();
        tokio::time::advance(LEASE - Duration::from_secs(1)).await;
        assert!(may_push());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!may_push(), "somebody may have taken it for dead");

        let waiting = held.right_to_push();
        tokio::pin!(waiting);
        assert!((&mut waiting).now_or_never().is_none());
        // One that was sent too long ago says nothing about now.
        held.last_good.send_replace(Instant::now() - LEASE);
        assert!((&mut waiting).now_or_never().is_none());
        held.last_good.send_replace(Instant::now());
        assert!((&mut waiting).now_or_never().is_some());

        tokio::time::advance(2 * LEASE).await;
        held.stop.now(Why::LeaseLost);
        assert!(may_push(), "an attempt that is stopped does not wait; it looks at why");
    }
}
