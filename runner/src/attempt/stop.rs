//! One token per attempt: whatever ends it early goes through here.

use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

/// Why an attempt is ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Somebody cancelled the task.
    Cancelled,
    /// The lease is lost: no push, no report.
    LeaseLost,
    /// The runner drains and gives the task back.
    Released,
    /// The attempt took longer than its `timeout_s`.
    TimedOut,
}

/// The single truth about whether an attempt may go on. The first reason stays.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    token: CancellationToken,
    why: OnceLock<Why>,
}

impl Stop {
    /// Ends the attempt, unless it is being ended for another reason already.
    pub(crate) fn now(&self, why: Why) {
        if self.why.set(why).is_ok() {
            self.token.cancel();
        }
    }

    /// Why the attempt is to end, if it is.
    pub(crate) fn why(&self) -> Option<Why> {
        self.why.get().copied()
    }

    /// The token that phases listen to.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }
}
