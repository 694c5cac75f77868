//! The conformance suite of [`Store`]: `docs/protocol.md` as tests.
//!
//! An adapter hands in a constructor and gets every case run against a store of
//! its own:
//!
//! ```text
//! #[tokio::test(flavor = "multi_thread")]
//! async fn the_store_keeps_the_protocol() {
//!     let open = |retention| async move { StoreUnderTest { … } };
//!     let passed = exercise_store(open).await.expect("the suite");
//!     assert!(passed.left_out().is_empty());
//! }
//! ```
//!
//! The cases race on tokio tasks: only a multi-threaded runtime makes that real.
//! [`store_cases`] gives the cases one by one, for a harness that shows each.

mod audit;
mod cancel;
mod claim;
mod claim_order;
mod deliveries;
mod domains;
mod enqueue;
mod events;
mod held;
mod keys;
mod lease;
mod letters;
mod lists;
mod outbox;
mod pipelines;
mod projects;
mod push;
mod race;
mod recover;
mod requests;
mod retention;
mod retry;
mod sweep;
mod webhooks;
mod workers;
mod world;

use std::future::Future;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use rdev_domain::ids::TaskId;
use rdev_domain::ports::Store;
use rdev_domain::retention::Retention;

use crate::conformance::suite::{Ended, Failed, Keep, Passed, run_case, run_suite};
use world::World;

/// A store, empty and opened with the retention that the constructor was given.
pub struct StoreUnderTest {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Makes the record of a task unreadable, as a defect or another version
    /// would. Without it the cases of poison are left out.
    pub corrupt: Option<Corrupt>,
    /// The sweep deletes what has expired, and counts it. `false` where the database does
    /// it by a clock of its own: there it is only held to be gone for whoever reads.
    pub sweep_deletes: bool,
    /// The store offers `recover_all`; `false`: it refuses, and changes nothing.
    pub recovers_all: bool,
    /// What must outlive the store's use.
    pub keep: Keep,
}

/// Makes a task's record unreadable.
pub type Corrupt = Arc<dyn Fn(TaskId) -> BoxFuture<'static, ()> + Send + Sync>;

/// One case of the suite.
pub struct StoreCase {
    name: &'static str,
    retention: Retention,
    needs: Option<Need>,
    run: fn(World) -> BoxFuture<'static, ()>,
}

/// What not every store offers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Corruption,
}

/// Every case, each with a name that is a sentence.
pub fn store_cases() -> Vec<StoreCase> {
    [
        enqueue::cases(),
        claim::cases(),
        claim_order::cases(),
        lease::cases(),
        recover::cases(),
        push::cases(),
        retry::cases(),
        cancel::cases(),
        outbox::cases(),
        requests::cases(),
        projects::cases(),
        webhooks::cases(),
        domains::cases(),
        deliveries::cases(),
        pipelines::cases(),
        keys::cases(),
        workers::cases(),
        letters::cases(),
        audit::cases(),
        events::cases(),
        lists::cases(),
        sweep::cases(),
        retention::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Runs every case, each against a store of its own.
///
/// # Errors
/// The names of the cases that did not hold, each with the reason.
pub async fn exercise_store<Open, Opening>(open: Open) -> Result<Passed, Failed>
where
    Open: Fn(Retention) -> Opening + Sync,
    Opening: Future<Output = StoreUnderTest> + Send,
{
    let open = &open;
    let mut cases: Vec<(&'static str, BoxFuture<'_, Ended>)> = Vec::new();
    for case in store_cases() {
        cases
            .push((case.name, Box::pin(async move { case.run(open(case.retention).await).await })));
    }
    run_suite("store", cases).await
}

impl StoreCase {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What its store is to be opened with.
    pub fn retention(&self) -> Retention {
        self.retention
    }

    /// Runs it.
    pub async fn run(&self, subject: StoreUnderTest) -> Ended {
        if let Some(why) = self.needs.and_then(|need| need.missing_in(&subject)) {
            return Ended::LeftOut(why);
        }
        let case = (self.run)(World::new(&subject));
        let ended = run_case(case).await;
        drop(subject);
        ended
    }
}

impl Need {
    fn missing_in(self, subject: &StoreUnderTest) -> Option<&'static str> {
        match self {
            Self::Corruption if subject.corrupt.is_none() => Some("no way to corrupt a record"),
            _ => None,
        }
    }
}

/// The cases of a module: its async functions, `with` another retention or
/// `if` the store offers what they need.
macro_rules! cases {
    ($($name:ident $(with $retention:expr)? $(, if $need:ident)?;)+) => {
        pub(super) fn cases() -> Vec<crate::conformance::store::StoreCase> {
            vec![$(crate::conformance::store::StoreCase {
                name: stringify!($name),
                retention: {
                    let retention = rdev_domain::retention::Retention::default();
                    $(let retention = { let _ = retention; $retention };)?
                    retention
                },
                needs: {
                    let needs = None;
                    $(let needs = { let _: Option<crate::conformance::store::Need> = needs; Some(crate::conformance::store::Need::$need) };)?
                    needs
                },
                run: |world| Box::pin($name(world)),
            }),+]
        }
    };
}
use cases;
