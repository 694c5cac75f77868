//! The runner: claims tasks, runs code agents, commits and pushes what they made.
//!
//! `runner` claims and settles, `job` routes a task to its handler (`build`,
//! `check`), `deliver` is steps 5 and 6 of `docs/protocol.md`. `rdev up` embeds
//! this library; it knows its store, queue and forge only as ports.

pub mod agent;
mod attempt;
mod build;
mod check;
mod cleanup;
pub mod config;
pub mod git;
#[cfg(feature = "aws")]
pub mod health;
mod job;
pub mod process;
pub mod redact;
mod runner;
mod verify;

pub use config::{Folders, RunnerConfig};
pub use runner::context::Ports;
pub use runner::protection::Protection;
pub use runner::{Health, Runner, RunnerHandle, start};

/// The wall clock, read at the edge and handed down as a parameter from there.
pub(crate) fn now() -> rdev_domain::time::Timestamp {
    std::time::SystemTime::now().into()
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
