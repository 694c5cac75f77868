//! The tests that need more than Rust and git, each a trial: the AWS shape, the systems around a
//! build, and the files of `infra/` and `templates/`.
//!
//! One binary runs them all. Those of AWS wait most of their time: for a lease to expire, for the
//! sweep that comes once a minute, for a build that sleeps. They start first, the longest in front,
//! and the others compute meanwhile.

mod aws;
mod infra;
mod platform;
mod support;

use std::process::ExitCode;

use rdev_testkit::tools::trial;

/// How many run at once: the long waits of AWS, and two for each of the usual processors.
const AT_ONCE: usize = 12;

fn main() -> ExitCode {
    trial::run(Some(AT_ONCE), [aws::trials(), platform::trials(), infra::trials()])
}
