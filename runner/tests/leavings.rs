//! What builds leave on the disk, and disks without room.
//!
//! Each case is a process of its own: some run as another user, some have mounts of their own, one
//! is killed. What a machine does not permit is counted as ignored; with `RDEV_REQUIRE=all` it
//! fails.

#[path = "leavings/child.rs"]
mod child;
#[path = "leavings/disk.rs"]
mod disk;
#[path = "leavings/next_start.rs"]
mod next_start;
#[path = "leavings/stubborn.rs"]
mod stubborn;
// Each test binary uses a part of it.
#[allow(dead_code)]
#[path = "it/world.rs"]
mod world;

use std::process::ExitCode;

use rdev_testkit::tools::trial;

/// They compete for one disk.
const AT_ONCE: usize = 2;

fn main() -> ExitCode {
    if child::run(&[next_start::SCENES, stubborn::SCENES, disk::SCENES]) {
        return ExitCode::SUCCESS;
    }
    trial::run(Some(AT_ONCE), [next_start::trials(), stubborn::trials(), disk::trials()])
}
