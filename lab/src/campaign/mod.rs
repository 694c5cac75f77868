//! A campaign: real processes of rdev, killed and paused at random moments while builds run and
//! people change the repositories; then a check of every promise by other means than rdev's own.

pub(crate) mod api;
mod aws;
mod checker;
mod clients;
mod disk;
mod faults;
mod git_server;
mod machine;
pub(crate) mod one_machine;
mod people;
mod plan;
pub(crate) mod processes;
pub(crate) mod programs;
mod report;
mod run;

pub use git_server::serve as serve_git;
pub use plan::{Options, Shape};
pub use run::run;

/// The name under which rdev commits and pushes. No person has it.
const RDEV: &str = "rdev-chaos";

/// Tells whoever waits what goes on.
#[expect(clippy::print_stderr, reason = "its result is on standard output")]
pub(crate) fn note(what: std::fmt::Arguments<'_>) {
    eprintln!("lab: {what}");
}
