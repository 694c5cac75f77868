//! Correction of this machine's clock by the time in DynamoDB's answers.
//!
//! Every answer of DynamoDB contains its time. The difference corrects each `now` that a caller
//! passes, so that leases of many machines are compared in the same time. If the difference is too
//! large for leases, no lease is claimed or recovered.

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

/// A smaller difference does not show that a clock is wrong.
const NOISE_MS: u64 = 2_000;

/// With a larger difference leases do not work.
const MAX_SKEW_MS: u64 = 60_000;

/// How many milliseconds the store is ahead of this machine. Clones share the value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock(Arc<AtomicI64>);

/// When a request was sent.
#[derive(Debug, Clone, Copy)]
struct Sent(Timestamp);

impl Storable for Sent {
    type Storer = StoreReplace<Self>;
}

/// The difference between the clocks, in seconds.
#[derive(Debug, thiserror::Error)]
#[error("this machine's clock is {0} s from the store's: set it right")]
struct ClockSkew(u64);

impl Clock {
    /// Converts this machine's time to the store's.
    pub(crate) fn correct(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_millis(now.as_millis().saturating_add(self.ahead()))
    }

    /// Converts the store's time to this machine's.
    pub(crate) fn local(&self, at: Timestamp) -> Timestamp {
        Timestamp::from_millis(at.as_millis().saturating_sub(self.ahead()))
    }

    /// The present time of the store.
    pub(crate) fn now(&self) -> Timestamp {
        self.correct(SystemTime::now().into())
    }

    /// An error if the difference between the clocks is too large.
    pub(crate) fn check(&self) -> PortResult<()> {
        let skew = self.ahead().unsigned_abs();
        if skew > MAX_SKEW_MS {
            return Err(PortError::unavailable("the store", ClockSkew(skew / 1000)));
        }
        Ok(())
    }

    fn ahead(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Learns from one answer: at some time between `sent` and `received` on this machine's clock,
    /// the store's clock showed the second that begins with `date`. If both clocks can be right,
    /// there is no difference: an answer may be slow.
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
        // Each try of a call has its own time.
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
    fn a_wrong_clock_is_corrected_and_one_that_is_too_wrong_is_an_error() {
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
            // Slow answers.
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
