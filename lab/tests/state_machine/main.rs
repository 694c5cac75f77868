//! State-machine tests: random operations, the same on the store in memory and on a real one, and
//! after each of them the same answer and the same state.
//!
//! ```text
//! cargo test -p rdev-lab --test state_machine                       # small, always the same
//! PROPTEST_CASES=5000 cargo test -p rdev-lab --test state_machine   # more, and others each time
//! ```
//!
//! A failure prints the shortest sequence of operations that was found, what differs, and the
//! seed, which `PROPTEST_RNG_SEED` takes.

mod call;
mod flaws;
mod op;
mod seen;
mod subjects;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use proptest_state_machine::ReferenceStateMachine;
use rdev_domain::chain;
use rdev_testkit::servers::emulator::Emulator;
use rdev_testkit::tools::trial::{self, Outcome};
use tokio::runtime::Runtime;

use call::{Told, kind, perform};
use flaws::{flawed_call, flawed_end};
use op::Op;
use seen::{Look, difference, shown};
use subjects::{Subject, dynamodb, memory, sqlite};
use world::{API, Last, Machine, World};

/// How many operations a sequence has before it is shortened.
const OPERATIONS: std::ops::RangeInclusive<usize> = 20..=40;

/// The seed of a run that sets neither a seed nor a number of sequences.
const SEED: u64 = 1;

rdev_testkit::trials! {
    fn sqlite_does_what_the_store_in_memory_does;
    fn dynamodb_does_what_the_store_in_memory_does;
    fn a_store_that_breaks_a_rule_is_caught;
}

fn main() -> ExitCode {
    trial::run(None, [trials()])
}

/// Answers that a run must have reached: what is never drawn is never compared.
const REACHED: [&str; 26] = [
    "claimed running",
    "claimed pushing",
    "Nothing",
    "SlotsTaken",
    "Unsuited",
    "became queued",
    "became running",
    "became pushing",
    "became succeeded",
    "became failed",
    "became cancelled",
    "recovered by a sweep",
    "expired",
    "NotFound",
    "Stale",
    "Ended",
    "WrongState",
    "CancelRequested",
    "Alive",
    "NewerRecord",
    "NotRetryable",
    "RetriedAlready",
    "Conflict(ProjectExists)",
    "Conflict(ProjectNotReady)",
    "Conflict(TasksRunning)",
    "Conflict(IdTaken)",
];

fn sqlite_does_what_the_store_in_memory_does() {
    let reached = check::<true>(160, sqlite).unwrap_or_else(|why| panic!("{why}"));
    let missing: Vec<&str> =
        REACHED.into_iter().filter(|kind| !reached.contains_key(*kind)).collect();
    assert!(missing.is_empty(), "never answered: {missing:?}, but {reached:?}");
}

fn dynamodb_does_what_the_store_in_memory_does() -> Outcome {
    let emulator = Emulator::shared()?;
    let checked = check::<false>(12, async || dynamodb(emulator).await);
    let reached = checked.unwrap_or_else(|why| panic!("{why}"));
    assert!(reached.len() > 15, "{reached:?}");
    Ok(())
}

fn a_store_that_breaks_a_rule_is_caught() {
    let sound = check::<true>(256, async || memory(None));
    assert!(sound.is_ok(), "{sound:?}");
    for flaw in flaws::ALL {
        let caught = check::<true>(1000, async || memory(Some(flaw)));
        assert!(caught.is_err(), "{flaw:?} was not noticed");
    }
}

/// Runs `cases` sequences, or as many as the environment says, each on a store of its own. Returns
/// how many answers of each kind there were.
///
/// # Errors
/// The shortest sequence that was found after which the stores differ, and what differs.
fn check<const RECOVERS_ALL: bool>(
    cases: u32,
    open: impl AsyncFn() -> Subject,
) -> Result<BTreeMap<String, u32>, String> {
    let set = |name| std::env::var_os(name).is_some();
    // What fails is printed, and not written into the sources.
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if !set("PROPTEST_CASES") {
        config.cases = cases;
    }
    if !set("PROPTEST_RNG_SEED") {
        let fresh = ulid::Ulid::generate().random() as u64;
        config.rng_seed = RngSeed::Fixed(if set("PROPTEST_CASES") { fresh } else { SEED });
    }
    let reached = RefCell::new(BTreeMap::new());
    let runtime = Runtime::new().expect("a runtime");
    let mut runner = TestRunner::new(config.clone());
    let sequences = Machine::<RECOVERS_ALL>::sequential_strategy(OPERATIONS);
    let outcome = runner.run(&sequences, |(world, ops, seen)| {
        runtime.block_on(async {
            let (mut world, mut subject) = (world, open().await);
            for (number, op) in ops.iter().enumerate() {
                if let Some(seen) = &seen {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
                world = Machine::<RECOVERS_ALL>::apply(world, op);
                let last = number + 1 == ops.len();
                let look = if last || number % 8 == 7 { Look::Whole } else { subject.look };
                compare(&world, &mut subject, op, look).await?;
                if let Some(last) = &world.last {
                    *reached.borrow_mut().entry(kind(&last.answer)).or_insert(0) += 1;
                }
            }
            Ok(())
        })
    });
    match outcome {
        Ok(()) => Ok(reached.into_inner()),
        Err(TestError::Fail(why, (_, ops, _))) => {
            let ops: Vec<String> = ops.iter().map(|op| format!("  {op:?}")).collect();
            let (ops, seed, cases) = (ops.join("\n"), config.rng_seed, config.cases);
            let again = format!("PROPTEST_RNG_SEED={seed} PROPTEST_CASES={cases}");
            Err(format!("after\n{ops}\n{why}\n{again}"))
        }
        Err(TestError::Abort(why)) => Err(format!("no sequence could be drawn: {why}")),
    }
}

/// Makes the last call of the reference at the subject too, and compares the answers and what
/// both show then.
async fn compare(
    world: &World,
    subject: &mut Subject,
    op: &Op,
    look: Look,
) -> Result<(), TestCaseError> {
    let Some(last) = &world.last else { return Ok(()) };
    let Last { call, clock, now, answer: expected } = &**last;
    let process = subject.processes[clock % subject.processes.len()].clone();
    let (mut call_made, mut at) = (call.clone(), *now);
    if let Some(flaw) = subject.flaw {
        call_made = flawed_call(flaw, &*process, call, &mut at).await;
    }
    let (replace, outbox) = (&*subject.replace, &mut subject.outbox);
    let mut found = perform(&*process, replace, outbox, &call_made, at).await;
    if let Some(flaw) = subject.flaw {
        flawed_end(flaw, &*process, &subject.outbox).await;
    }
    if let (Ok(Told::Swept { expired, .. }), Ok(Told::Swept { expired: expected, .. })) =
        (&mut found, expected)
        && !subject.deletes
    {
        *expired = *expected;
    }
    let differ = |what: &str, expected: String, found: String| {
        let what = format!("{what} of {op:?}, which called {call:?} at {now}");
        Err(TestCaseError::fail(difference(&what, &expected, &found)))
    };
    if found != *expected {
        return differ("the answer", format!("{expected:#?}"), format!("{found:#?}"));
    }
    let tasks = world.tasks();
    let expected = shown(world.store(), look, &tasks, *now).await;
    let mut expected = expected.expect("the store in memory answers");
    if look == Look::Whole && subject.processes.len() > 1 {
        // Each process learns the time from its calls, and hides what had expired by then. This
        // one learns what the others know.
        subject.process(API).work_stats(world.latest).await.expect("the store answers");
    }
    let mut found = match shown(subject.process(API), look, &tasks, *now).await {
        Ok(found) => found,
        Err(error) => return differ("a read after the answer", String::new(), chain(&error)),
    };
    if subject.processes.len() > 1 {
        expected = expected.without_order_of_audit();
        found = found.without_order_of_audit();
    }
    if found != expected {
        return differ("what is shown after", format!("{expected:#?}"), format!("{found:#?}"));
    }
    Ok(())
}
