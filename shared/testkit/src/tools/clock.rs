//! The time of a test: it stands still until the test lets it pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rdev_domain::time::Timestamp;

/// 2040-01-01T00:00:00Z. Ahead of every real clock, so that a store which
/// expires records by a clock of its own finds none of a test's to delete.
const START: Timestamp = Timestamp::from_millis(2_208_988_800_000);

/// A clock that stands still. Clones show the same time.
#[derive(Debug, Clone)]
pub(crate) struct Clock(Arc<AtomicI64>);

impl Default for Clock {
    fn default() -> Self {
        Self::showing(START)
    }
}

impl Clock {
    /// One that shows `now`.
    pub(crate) fn showing(now: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(now.as_millis())))
    }

    /// What it shows.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }

    /// Puts it forward; what it shows then.
    pub(crate) fn pass(&self, time: Duration) -> Timestamp {
        let millis =
            i64::try_from(time.as_millis()).expect("a test lasts less than 292 million years");
        Timestamp::from_millis(self.0.fetch_add(millis, Ordering::SeqCst) + millis)
    }
}
