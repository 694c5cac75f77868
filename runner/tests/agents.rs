//! The real agents, against a model server that plays a script.
//!
//! They are installed from npm, once per version. A case whose agent is not to be had says what it
//! needs and is counted as ignored; with `RDEV_REQUIRE=all` it fails.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use rdev_testkit::tools::agents::{Cli, installed};
use rdev_testkit::tools::needs;

#[path = "agents/bench.rs"]
mod bench;
#[path = "agents/cases.rs"]
mod cases;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Some cases wait for a silence to be long enough; the others use that time.
    arguments.test_threads.get_or_insert(4);
    let of_each = Cli::ALL.map(|cli| trials(cli, is_wanted(cli, &arguments)));
    // Case by case and not agent by agent: several of the slowest at once would starve each other.
    let mut trials: Vec<(usize, Trial)> =
        of_each.into_iter().flat_map(|of| of.into_iter().enumerate()).collect();
    trials.sort_by_key(|(case, _)| *case);
    let trials = trials.into_iter().map(|(_, trial)| trial).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Nothing is installed for a listing, or for a run of other tests.
fn is_wanted(cli: Cli, arguments: &Arguments) -> bool {
    let filter = arguments.filter.as_deref().unwrap_or_default();
    let names = cases::ALL.iter().map(|(name, _)| format!("{}::{name}", cli.name()));
    !arguments.list && names.into_iter().any(|name| name.contains(filter))
}

fn trials(cli: Cli, install: bool) -> Vec<Trial> {
    let program = if install { Some(Arc::new(installed(cli))) } else { None };
    let not_run = program.as_deref().and_then(|program| program.as_ref().err());
    if let Some(not_run) = not_run {
        let mut stderr = std::io::stderr();
        // Nobody listens when this fails.
        let _ = std::io::Write::write_fmt(&mut stderr, format_args!("{}: {not_run}\n", cli.name()));
    }
    let ignored = not_run.is_some() && !needs::all_required();
    let trial = |(name, case): (&'static str, bench::Case)| {
        let program = program.clone();
        let run = move || match program.as_deref() {
            Some(Ok(program)) => bench::run(cli, program, case),
            Some(Err(not_run)) => Err(Failed::from(not_run)),
            None => Err(Failed::from("its agent was not asked for")),
        };
        Trial::test(format!("{}::{name}", cli.name()), run).with_ignored_flag(ignored)
    };
    cases::ALL.into_iter().map(trial).collect()
}
