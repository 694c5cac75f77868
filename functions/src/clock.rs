//! The clock. Endpoints and timers read it; everything below them gets `now` as a parameter,
//! unless it waits for another system in between.

use std::time::SystemTime;

use rdev_domain::time::Timestamp;

/// The time now.
pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}
