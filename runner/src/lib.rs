//! The runner: claims tasks, runs code agents, commits and pushes what they made.
//!
//! `runner` claims and settles, `job` routes a task to its handler (`build`,
//! `check`), `deliver` is steps 5 and 6 of `docs/protocol.md`. `rdev up` embeds
//! this library; it knows its store, queue and forge only as ports.

pub mod agent;
mod attempt;
mod build;
mod check;
pub mod config;
mod deliver;
mod earlier;
mod events;
pub mod git;
#[cfg(feature = "aws")]
pub mod health;
mod job;
mod lease;
pub mod process;
mod protection;
pub mod redact;
mod runner;
mod settle;
mod status;
mod stop;
mod tidy;
mod verify;
mod workspace;

pub use config::{Folders, RunnerConfig};
pub use protection::Protection;
pub use runner::{Health, Ports, Runner, RunnerHandle, start};

/// The wall clock, read at the edge and handed down as a parameter from there.
pub(crate) fn now() -> rdev_domain::time::Timestamp {
    std::time::SystemTime::now().into()
}
