//! State-machine tests: random operations, the same on the store in memory and on a real one, and
//! after each of them the same answer and the same state.
//!
//! ```text
//! cargo test -p rdev-lab --test state_machine                       # small, always the same
//! PROPTEST_CASES=5000 cargo test -p rdev-lab --test state_machine   # more, and others each time
//! ```
//!
//! A failure prints the shortest sequence of operations that was found, what differs, and the
//! seed. `PROPTEST_RNG_SEED` and `PROPTEST_CASES` repeat it.

mod call;
mod op;
mod seen;
mod world;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{Credentials, Region};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use proptest_state_machine::ReferenceStateMachine;
use rdev_aws::DynamoStore;
use rdev_aws::schema::create_table;
use rdev_domain::ports::Store;
use rdev_domain::retention::Retention;
use rdev_embedded::{Options, open};
use rdev_testkit::conformance::Keep;
use rdev_testkit::servers::emulator::{Emulator, REGION};
use rdev_testkit::tools::trial::{self, Outcome};
use tokio::runtime::Runtime;

use call::{Answer, Outbox, Told, perform};
use op::Op;
use seen::{difference, shown};
use world::{Machine, World};

/// The most operations of a sequence.
const OPERATIONS: usize = 40;

/// The seed of a run that sets neither a seed nor a number of cases.
const SEED: u64 = 1;

rdev_testkit::trials! {
    fn sqlite_does_what_the_store_in_memory_does;
    fn dynamodb_does_what_the_store_in_memory_does;
}

fn main() -> ExitCode {
    trial::run(None, [trials()])
}

fn sqlite_does_what_the_store_in_memory_does() {
    let open = async || {
        let folder = tempfile::tempdir().expect("a folder");
        let data = open(&folder.path().join("data"), Options::default()).expect("a data folder");
        let store: Arc<dyn Store> = data.store.clone();
        Subject { store, outbox: Vec::new(), deletes: true, keep: Box::new((data, folder)) }
    };
    check(256, open);
}

fn dynamodb_does_what_the_store_in_memory_does() -> Outcome {
    const TABLE: &str = "rdev";
    let emulator = Emulator::shared()?;
    let open = async || {
        let account = emulator.account();
        let config = rdev_aws::config::loader()
            .endpoint_url(&account.endpoint)
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new(&account.id, "test", None, None, "test"))
            .load()
            .await;
        let client = Client::new(&config);
        create_table(&client, TABLE).await.expect("a table");
        let store = Arc::new(DynamoStore::new(client, TABLE.to_owned(), Retention::default()));
        Subject { store, outbox: Vec::new(), deletes: false, keep: Box::new(()) }
    };
    check(12, open);
    Ok(())
}

/// A store that is compared with the one in memory.
struct Subject {
    store: Arc<dyn Store>,
    outbox: Outbox,
    /// The sweep deletes what has expired, and counts it; elsewhere the database does it.
    deletes: bool,
    #[expect(dead_code, reason = "what must outlive the store's use")]
    keep: Keep,
}

/// Runs `cases` sequences, or as many as the environment says, each on a store of its own.
fn check(cases: u32, open: impl AsyncFn() -> Subject) {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    let set = |name| std::env::var_os(name).is_some();
    if !set("PROPTEST_CASES") {
        config.cases = cases;
    }
    if !set("PROPTEST_RNG_SEED") {
        let random = ulid::Ulid::generate().random() as u64;
        config.rng_seed = RngSeed::Fixed(if set("PROPTEST_CASES") { random } else { SEED });
    }
    let runtime = Runtime::new().expect("a runtime");
    let mut runner = TestRunner::new(config.clone());
    let sequences = Machine::sequential_strategy(1..=OPERATIONS);
    let outcome = runner.run(&sequences, |(world, ops, seen)| {
        runtime.block_on(async {
            let (mut world, mut subject) = (world, open().await);
            for op in &ops {
                if let Some(seen) = &seen {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
                world = Machine::apply(world, op);
                compare(&world, &mut subject, op).await?;
            }
            Ok(())
        })
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, (_, ops, _))) => {
            let ops: Vec<String> = ops.iter().map(|op| format!("  {op:?}")).collect();
            let (seed, cases) = (config.rng_seed, config.cases);
            panic!(
                "after these operations:\n{}\n{why}\nPROPTEST_RNG_SEED={seed} \
                 PROPTEST_CASES={cases} repeats it",
                ops.join("\n")
            );
        }
        Err(TestError::Abort(why)) => panic!("no sequence could be drawn: {why}"),
    }
}

/// Makes the last call of the reference at the subject too, and compares the answers and what
/// both show then.
async fn compare(world: &World, subject: &mut Subject, op: &Op) -> Result<(), TestCaseError> {
    let Some(last) = &world.last else { return Ok(()) };
    let (call, now, expected) = &**last;
    let mut found = perform(&*subject.store, &mut subject.outbox, call, *now).await;
    if let (Ok(Told::Swept { expired, .. }), Ok(Told::Swept { expired: expected, .. })) =
        (&mut found, expected)
        && !subject.deletes
    {
        *expired = *expected;
    }
    let fail = |what: String, expected: String, found: String| {
        let what = format!("{what} of {op:?}, which called {call:?}");
        Err(TestCaseError::fail(difference(&what, &expected, &found)))
    };
    if found != *expected {
        let answer = |answer: &Answer| format!("{answer:#?}");
        return fail("the answer".to_owned(), answer(expected), answer(&found));
    }
    let expected = shown(world.store(), *now).await.expect("the store in memory answers");
    let found = shown(&*subject.store, *now).await;
    match found {
        Ok(found) if found == expected => Ok(()),
        Ok(found) => fail(
            "what is shown after the answer".to_owned(),
            format!("{expected:#?}"),
            format!("{found:#?}"),
        ),
        Err(error) => {
            let error = rdev_domain::chain(&error);
            fail("what is shown after the answer".to_owned(), format!("{expected:#?}"), error)
        }
    }
}
