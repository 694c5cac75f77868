//! One stop signal per attempt: everything that ends an attempt early uses it.

use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

/// Why an attempt is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// Somebody cancelled the task.
    Cancelled,
    /// The lease is lost: the attempt must neither push nor report.
    LeaseLost,
    /// The runner drains and gives the task back.
    Released,
    /// The attempt took longer than its `timeout_s`.
    TimedOut,
}

/// Decides whether an attempt may continue. Only the first reason counts.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    token: CancellationToken,
    reason: OnceLock<StopReason>,
}

impl Stop {
    /// Stops the attempt, unless it is already being stopped for another reason.
    pub(crate) fn request(&self, reason: StopReason) {
        if self.reason.set(reason).is_ok() {
            self.token.cancel();
        }
    }

    /// The reason, if the attempt is being stopped.
    pub(crate) fn reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }

    /// The token that phases listen to.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }
}
