//! The pure core of rdev: types, the task state machine, and the ports.
//!
//! Nothing here does I/O, reads a clock or knows a runtime: `now` is always a
//! parameter and everything that has to be stored, sent or fetched goes through
//! a trait of [`ports`]. `docs/protocol.md` explains [`step`].

pub mod audit;
pub mod commit_status;
pub mod dns;
mod error;
pub mod event;
pub mod failure;
pub mod foreign_text;
pub mod git;
pub mod git_url;
pub mod hostname;
pub mod ids;
pub mod key;
pub mod lease;
mod names;
pub mod outbox;
pub mod page;
pub mod pipeline;
pub mod ports;
pub mod project;
pub mod provision;
pub mod pull_request;
pub mod record;
pub mod ref_look;
pub mod request;
pub mod result;
pub mod retention;
pub mod secret;
pub mod spec;
pub mod step;
pub mod task;
pub mod time;
pub mod token;
pub mod turn;
pub mod wake_up;
pub mod webhook;
pub mod worker;

pub use error::{Invalid, chain};
