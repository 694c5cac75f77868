//! The pure heart of rdev: types, the task state machine, and the ports.
//!
//! Nothing here does I/O, reads a clock or knows a runtime: `now` is always a
//! parameter and everything that has to be stored, sent or fetched goes through
//! a trait of [`ports`]. `docs/protocol.md` tells the story of [`step`].

pub mod audit;
pub mod dns;
pub mod event;
pub mod failure;
pub mod git;
pub mod git_url;
pub mod hostname;
pub mod ids;
pub mod key;
pub mod lease;
pub mod outbox;
pub mod page;
pub mod pipeline;
pub mod ports;
pub mod project;
pub mod provision;
pub mod request;
pub mod result;
pub mod retention;
pub mod secret;
pub mod spec;
pub mod step;
pub mod task;
pub mod time;
pub mod token;
pub mod wake_up;
pub mod webhook;
pub mod worker;

/// Why a text was not accepted as a value of a type.
///
/// `what` names the type ("project id"), `why` the rule that was broken, in
/// words that fit into an API answer. The refused text itself is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {why}")]
pub struct Invalid {
    /// The name of the type, as a reader of the API knows it.
    pub what: &'static str,
    /// The rule that was broken.
    pub why: String,
}

impl Invalid {
    /// `what` was refused because it `why`.
    pub fn new(what: &'static str, why: impl Into<String>) -> Self {
        Self { what, why: why.into() }
    }
}
