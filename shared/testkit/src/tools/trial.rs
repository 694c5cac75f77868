//! Tests that libtest-mimic runs, so that a test that cannot run here is counted as ignored.
//!
//! Rust's own test harness decides before a run which tests it ignores. A test that needs a tool
//! finds out when it runs. Such tests stand in a test binary with `harness = false`:
//!
//! ```no_run
//! mod records {
//!     use rdev_testkit::tools::debian::{POWERDNS, unpacked};
//!     use rdev_testkit::tools::trial::Outcome;
//!
//!     rdev_testkit::trials! {
//!         fn a_test_that_needs_powerdns;
//!         async a_test_that_needs_nothing;
//!     }
//!
//!     fn a_test_that_needs_powerdns() -> Outcome {
//!         let packages = unpacked(POWERDNS)?;
//!         assert!(packages.file("usr/sbin/pdns_server").is_ok());
//!         Ok(())
//!     }
//!
//!     async fn a_test_that_needs_nothing() {}
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     rdev_testkit::tools::trial::run(None, [records::trials()])
//! }
//! ```

use std::future::Future;
use std::num::NonZero;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed};

use super::needs::{NotRun, all_required};

// The macro names it in crates that do not depend on libtest-mimic.
pub use libtest_mimic::Trial;

/// How a test ends that may lack something.
pub type Outcome = Result<(), NotRun>;

/// What a test may return.
pub trait IntoOutcome {
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Ok(())
    }
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

/// How many run at once, at least. Most of them wait: for a process, a lease, a poll.
const AT_ONCE: usize = 8;

/// Runs the trials that the command line selects, `threads` at once unless it says otherwise;
/// `None` means as many as there are processors, and no fewer than eight.
pub fn run(threads: Option<usize>, trials: impl IntoIterator<Item = Vec<Trial>>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    let processors = || std::thread::available_parallelism().map_or(1, NonZero::get);
    arguments.test_threads =
        arguments.test_threads.or(threads).or_else(|| Some(processors().max(AT_ONCE)));
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit_code()
}

/// A trial of a test that blocks.
pub fn blocking<R: IntoOutcome>(
    name: impl Into<String>,
    test: impl FnOnce() -> R + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || completion(test().into_outcome()))
}

/// A trial of an asynchronous test, in a multi-threaded runtime of its own.
pub fn asynchronous<F>(name: impl Into<String>, test: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output: IntoOutcome>,
{
    blocking(name, move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime for a test");
        runtime.block_on(test()).into_outcome()
    })
}

/// The name of a test: its path below the root of the test binary.
pub fn name(module_path: &str, test: &str) -> String {
    match module_path.split_once("::") {
        Some((_, module)) => format!("{module}::{test}"),
        None => test.to_owned(),
    }
}

/// Lists a module's tests, `async` ones and others: defines `trials()` for the module.
#[macro_export]
macro_rules! trials {
    ($($kind:tt $test:ident;)+) => {
        pub(crate) fn trials() -> Vec<$crate::tools::trial::Trial> {
            vec![$($crate::trials!(@one $kind $test)),+]
        }
    };
    (@one fn $test:ident) => {
        $crate::tools::trial::blocking(
            $crate::tools::trial::name(module_path!(), stringify!($test)), $test)
    };
    (@one async $test:ident) => {
        $crate::tools::trial::asynchronous(
            $crate::tools::trial::name(module_path!(), stringify!($test)), $test)
    };
}

fn completion(outcome: Outcome) -> Result<Completion, Failed> {
    match outcome {
        Ok(()) => Ok(Completion::Completed),
        Err(not_run) if all_required() => Err(Failed::from(not_run)),
        Err(not_run) => Ok(Completion::ignored_with(not_run)),
    }
}
