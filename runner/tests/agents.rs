//! The real agents, against a model server that plays a script, and the runner's own program
//! against an emulated AWS.
//!
//! The agents are installed from npm, once per version. A case whose agent cannot be installed says
//! what it needs and is counted as ignored; with `RDEV_REQUIRE=all` it fails.

#[path = "agents/bench.rs"]
mod bench;
#[path = "agents/cases.rs"]
mod cases;
#[path = "agents/program.rs"]
mod program;

use std::process::ExitCode;

use rdev_testkit::tools::agents::{Cli, installed};
use rdev_testkit::tools::trial;

/// Some cases wait for a silence to be long enough; the others use that time.
const AT_ONCE: usize = 4;

fn main() -> ExitCode {
    // Case by case and not agent by agent: several of the slowest at once would starve each other.
    let of_case = |(name, case): (&'static str, bench::Case)| {
        Cli::ALL.map(|cli| {
            let name = format!("{}::{name}", cli.name());
            trial::blocking(name, move || {
                bench::run(cli, installed(cli)?, case);
                Ok(())
            })
        })
    };
    let agents = cases::ALL.into_iter().flat_map(of_case).collect();
    trial::run(Some(AT_ONCE), [agents, program::trials()])
}
