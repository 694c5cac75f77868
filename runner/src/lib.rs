//! The runner: claims tasks, runs code agents, commits and pushes their work.
//!
//! `runner` receives and claims, `job` runs one task with the handler of its type (`build` or
//! `check`), `attempt` is the state that the phases of a task share: lease, events, folder,
//! settlement. `rdev up` embeds this library; it knows store, queue and forge only as ports.

// Fields and variants whose names say enough have no comment.
#![allow(missing_docs)]

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
pub mod machine;
pub mod process;
pub mod redact;
mod runner;
mod verify;

pub use config::{Folders, RunnerConfig};
pub use runner::context::Ports;
pub use runner::own_queue::{NotOffered, OwnQueue};
pub use runner::protection::Protection;
pub use runner::{Health, Runner, RunnerHandle, start, start_on};
