//! The AWS shape as users run it: the template itself on a local AWS, the functions as
//! cargo-lambda built them, runners as processes, real git over HTTP.
//!
//! Each test has an emulator and a stack of its own. Most of the time it waits: for a lease to
//! expire, for the sweep that comes once a minute, for a build that sleeps. So many run at once,
//! the longest first.

mod builds;
mod calls;
mod dead;
mod faults;
mod functions;
mod redrive;
mod stack;

use rdev_testkit::tools::trial::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    [
        faults::trials(),
        calls::trials(),
        redrive::trials(),
        dead::trials(),
        functions::trials(),
        builds::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
