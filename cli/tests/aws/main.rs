//! The AWS shape as users run it: the template itself on a local AWS, the functions as
//! cargo-lambda built them, runners as processes, real git over HTTP.
//!
//! Each case has an emulator and a stack of its own. Most of its time it waits: for a lease to
//! expire, for the sweep that comes once a minute, for a build that sleeps. So many run side by
//! side, whatever the number of cores. Where the emulator or cargo-lambda cannot be installed,
//! all are counted as ignored; with `RDEV_REQUIRE=all` they fail.

#[path = "../support/mod.rs"]
mod support;

mod builds;
mod calls;
mod dead;
mod faults;
mod functions;
mod redrive;
mod stack;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use rdev_testkit::tools::needs;
use rdev_testkit::tools::python::{CARGO_LAMBDA, MINISTACK, installed};

/// How many run at once, unless `--test-threads` says otherwise.
const AT_ONCE: usize = 8;

type Case = fn() -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! cases {
    ($($module:ident::$name:ident,)*) => {
        [$((concat!(stringify!($module), "::", stringify!($name)), || Box::pin($module::$name()))),*]
    };
}

/// The longest come first: the others run beside them.
const CASES: [(&str, Case); 12] = cases![
    faults::a_hundred_builds_survive_everything_that_aws_can_do_to_them,
    calls::a_build_of_one_minute_and_an_idle_runner_cost_the_calls_that_the_docs_tell,
    calls::a_build_of_two_minutes_costs_the_calls_that_the_docs_tell,
    redrive::a_runner_killed_in_mid_agent_is_finished_by_another,
    redrive::a_runner_killed_between_prepare_and_push_is_finished_by_another_with_one_commit,
    redrive::a_wake_up_that_could_not_be_sent_is_sent_by_the_sweep,
    dead::garbage_and_unknown_versions_are_recorded_and_block_nothing,
    functions::each_function_answers_its_own_event,
    functions::functions_use_the_forge_with_secrets_that_they_read_when_they_need_them,
    functions::the_function_of_the_schedule_tells_webhooks_how_builds_ended,
    builds::a_request_through_the_gateway_becomes_a_commit_on_the_git_server,
    builds::what_the_functions_cannot_serve_is_refused_as_everywhere,
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let filter = arguments.filter.as_deref().unwrap_or_default();
    // Nothing is installed for a listing, or for a run of other tests.
    let install = !arguments.list && CASES.iter().any(|(name, _)| name.contains(filter));
    let missing = if install {
        [MINISTACK, CARGO_LAMBDA].into_iter().find_map(|tool| installed(tool).err())
    } else {
        None
    };
    if let Some(not_run) = &missing {
        #[expect(clippy::print_stderr, reason = "this is what a test run's reader has to see")]
        {
            eprintln!("{not_run}");
        }
    }
    let ignored = missing.is_some() && !needs::all_required();
    let trial = |(name, case): (&'static str, Case)| {
        let missing = missing.clone();
        let run = move || match missing {
            Some(not_run) => Err(Failed::from(not_run)),
            None => run(case),
        };
        Trial::test(name, run).with_ignored_flag(ignored)
    };
    libtest_mimic::run(&arguments, CASES.into_iter().map(trial).collect()).exit_code()
}

/// Runs a case in a runtime of its own; its panic is its result.
fn run(case: Case) -> Result<(), Failed> {
    let work = || {
        // Before any emulator starts: it would only wait for them.
        stack::built_functions();
        stack::runner_program();
        tokio::runtime::Runtime::new().expect("a runtime").block_on(case());
    };
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Failed::from(text.unwrap_or_else(|| "it panicked".to_owned()))
    })
}
