//! Retries of a request that a system refuses at one moment and accepts a moment later.
//!
//! The pauses double from 50 ms to one second, so that a busy system is not kept busy by us. Each
//! pause is longer or shorter by up to a half at random, so that two clients that were refused
//! together do not come back together.

use std::time::Duration;

use rdev_domain::ports::{PortError, PortResult};
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(50);

const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The retries of one operation.
#[derive(Debug)]
pub(crate) struct Retries {
    /// No retry starts after this moment.
    until: Instant,
    pause: Duration,
}

impl Retries {
    /// Retries that start within `total` from now.
    pub(crate) fn within(total: Duration) -> Self {
        Self { until: Instant::now() + total, pause: FIRST_PAUSE }
    }

    /// Waits for the next retry.
    ///
    /// # Errors
    /// `error`, the reason of the retry, when the time is over.
    pub(crate) async fn pause(&mut self, error: PortError) -> PortResult<()> {
        let pause = self.pause.mul_f64(rand::random_range(0.5..1.5));
        if Instant::now() + pause > self.until {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> PortError {
        PortError::unavailable("the system", "busy")
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end_in_the_error_when_the_time_is_over() {
        let begun = Instant::now();
        let mut retries = Retries::within(Duration::from_millis(600));
        let mut pauses = 0;
        let error = loop {
            match retries.pause(busy()).await {
                Ok(()) => pauses += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, PortError::Unavailable { .. }), "{error:?}");
        // 25 to 75, 50 to 150, 100 to 300, 200 to 600 ms: at least three fit, at most four.
        assert!((3..=4).contains(&pauses), "{pauses}");
        assert!(begun.elapsed() >= Duration::from_millis(175), "{:?}", begun.elapsed());
        assert!(begun.elapsed() <= Duration::from_millis(600 + 4), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn without_time_there_is_no_retry() {
        let mut retries = Retries::within(Duration::ZERO);
        assert!(retries.pause(busy()).await.is_err());
    }
}
