//! The clocks of many machines: what the store's own answers say about the time.
//!
//! Every answer of DynamoDB carries its time. A `now` that a caller names is corrected by how
//! far this machine's clock is from that, so that leases are compared in one time. Where they
//! are further apart than leases can bear, nothing is claimed or recovered.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use aws_sdk_dynamodb::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_smithy_types::DateTime;
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use aws_smithy_types::date_time::Format;
use rdev_domain::ports::{PortError, PortResult};
use rdev_domain::time::Timestamp;

/// Clocks that keep each other's time are this far apart: less says nothing.
const NOISE_MS: u64 = 2_000;

/// What a wrong clock may be off before it does harm.
const BEARABLE_MS: u64 = 60_000;

/// How many milliseconds the store is ahead of this machine. Clones share what they know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock(Arc<AtomicI64>);

/// When a try was sent.
#[derive(Debug, Clone, Copy)]
struct Sent(Timestamp);

impl Storable for Sent {
    type Storer = StoreReplace<Self>;
}

/// This machine's clock is not to be relied on.
#[derive(Debug, thiserror::Error)]
#[error("this machine's clock is {0} s from the store's: set it right")]
struct Off(u64);

impl Clock {
    /// What the store's clock shows when this machine's shows `now`.
    pub(crate) fn correct(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_millis(now.as_millis().saturating_add(self.ahead()))
    }

    /// What this machine's clock shows when the store's shows `at`.
    pub(crate) fn local(&self, at: Timestamp) -> Timestamp {
        Timestamp::from_millis(at.as_millis().saturating_sub(self.ahead()))
    }

    /// The store's time now.
    pub(crate) fn now(&self) -> Timestamp {
        self.correct(SystemTime::now().into())
    }

    /// Refuses where the two clocks are too far apart.
    pub(crate) fn check(&self) -> PortResult<()> {
        let off = self.ahead().unsigned_abs();
        if off > BEARABLE_MS {
            return Err(PortError::unavailable("the store", Off(off / 1000)));
        }
        Ok(())
    }

    fn ahead(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes that the store's clock showed the second that begins with `date` at some time
    /// between `sent` and `received` by this machine's. What that leaves open is no difference:
    /// an answer may be slow.
    fn note(&self, date: Timestamp, sent: Timestamp, received: Timestamp) {
        let least = date.as_millis().saturating_sub(received.as_millis());
        let most = date.as_millis().saturating_add(1000).saturating_sub(sent.as_millis());
        let noise = i64::try_from(NOISE_MS).unwrap_or(i64::MAX);
        let agree = least <= noise && most >= -noise;
        let ahead = if agree { 0 } else { least.midpoint(most) };
        let before = self.0.swap(ahead, Ordering::Relaxed);
        if ahead.abs_diff(before) > NOISE_MS {
            tracing::warn!(ahead_ms = ahead, "the store's clock is not this machine's");
        }
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for Clock {
    fn name(&self) -> &'static str {
        "rdev_aws::Clock"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _runtime_components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // Each try has its own.
        config.interceptor_state().store_put(Sent(SystemTime::now().into()));
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _runtime_components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        let date = date.and_then(|date| date.to_millis().ok());
        if let (Some(millis), Some(Sent(sent))) = (date, config.load::<Sent>()) {
            self.note(Timestamp::from_millis(millis), *sent, SystemTime::now().into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_corrected_and_one_that_is_far_off_refuses() {
        let (clock, local) = (Clock::default(), Timestamp::from_millis(1_795_424_624_940));
        let after = |millis| Timestamp::from_millis(local.as_millis() + millis);
        for (ahead, took, corrected, usable) in [
            (0, 0, 0, true),
            (1_900, 0, 0, true),
            (-2_000, 0, 0, true),
            (30_000, 0, 30_500, true),
            (-60_000, 0, -59_500, true),
            (300_000, 0, 300_500, false),
            (-61_000, 0, -60_500, false),
            (500, 0, 0, true),
            // Asked long ago, answered then, and slow to come.
            (-9_000, 10_000, 0, true),
            (-59_000, 60_000, 0, true),
            (-80_000, 10_000, -74_500, false),
        ] {
            clock.note(after(ahead), after(-took), local);
            assert_eq!(clock.correct(local), after(corrected), "{ahead}");
            assert_eq!(clock.local(clock.correct(local)), local, "{ahead}");
            assert_eq!(clock.check().is_ok(), usable, "{ahead}");
        }
    }
}
