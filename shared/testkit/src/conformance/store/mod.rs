//! The conformance suite of [`Store`]: `docs/protocol.md` as tests.
//!
//! An adapter hands in a constructor. Every case becomes a trial of its own, named
//! `store::<module>::<case>`, and runs against a store of its own:
//!
//! ```text
//! fn main() -> ExitCode {
//!     let open = async |retention| Ok(StoreUnderTest { … });
//!     trial::run(Some(AT_ONCE), [store::trials(open)])
//! }
//! ```
//!
//! The cases race on tokio tasks. A trial's runtime is multi-threaded, so that the races are real.

mod audit;
mod bad_records;
mod cancel;
mod claim;
mod claim_order;
mod claimed_task;
mod dead_letters;
mod deliveries;
mod domains;
mod enqueue;
mod events;
mod formats;
mod keys;
mod lease;
mod lists;
mod outbox;
mod pipelines;
mod projects;
mod push;
mod race;
mod recover;
mod ref_looks;
mod remade;
mod requests;
mod retention;
mod retry;
mod statuses;
mod sweep;
mod turns;
mod webhooks;
mod workers;
mod world;

use std::future::Future;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use rdev_domain::ids::TaskId;
use rdev_domain::ports::Store;
use rdev_domain::record::Format;
use rdev_domain::retention::Retention;

use super::suite::{self, Keep};
use crate::tools::needs::NotRun;
use crate::tools::trial::Trial;
use world::World;

/// A store, empty and opened with the retention that the constructor was given.
pub struct StoreUnderTest {
    pub store: Arc<dyn Store>,
    /// The same records, as a program of another format sees them.
    pub with_format: WithFormat,
    /// Replaces the record of a task, as a defect or another version would.
    pub replace_record: ReplaceRecord,
    /// Damages a record that belongs to a task, as a defect would.
    pub damage: DamageRecord,
    /// The sweep deletes what has expired, and counts it. `false` where the database does
    /// it by a clock of its own: there a case only checks that a read no longer finds it.
    pub sweep_deletes: bool,
    /// The store offers `recover_all`; `false`: it refuses, and changes nothing.
    pub recovers_all: bool,
    /// What must outlive the store's use.
    pub keep: Keep,
}

/// Opens the store once more, as a program of another format.
pub type WithFormat = Arc<dyn Fn(Format) -> Arc<dyn Store> + Send + Sync>;

/// Replaces a task's type and its body, past the store.
pub type ReplaceRecord =
    Arc<dyn Fn(TaskId, &'static str, String) -> BoxFuture<'static, ()> + Send + Sync>;

/// Damages a record past the store.
pub type DamageRecord = Arc<dyn Fn(TaskId, Damage) -> BoxFuture<'static, ()> + Send + Sync>;

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Its lease's usage is no JSON.
    Lease,
    /// Its state is none, beside the body.
    State,
}

/// One case of the suite.
struct StoreCase {
    name: String,
    retention: Retention,
    run: fn(World) -> BoxFuture<'static, ()>,
}

/// Every case as a trial. `open` opens an empty store with the retention that it is given.
pub fn trials<Open, Opening>(open: Open) -> Vec<Trial>
where
    Open: Fn(Retention) -> Opening + Clone + Send + 'static,
    Opening: Future<Output = Result<StoreUnderTest, NotRun>>,
{
    let trial = |StoreCase { name, retention, run }| {
        let open = open.clone();
        let run = async move |subject: StoreUnderTest| {
            run(World::new(&subject)).await;
            drop(subject);
        };
        suite::trial(name, move || open(retention), run)
    };
    all_cases().into_iter().map(trial).collect()
}

fn all_cases() -> Vec<StoreCase> {
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
        remade::cases(),
        webhooks::cases(),
        domains::cases(),
        deliveries::cases(),
        statuses::cases(),
        pipelines::cases(),
        ref_looks::cases(),
        keys::cases(),
        workers::cases(),
        dead_letters::cases(),
        audit::cases(),
        events::cases(),
        formats::cases(),
        lists::cases(),
        sweep::cases(),
        turns::cases(),
        bad_records::cases(),
        retention::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The cases of a module: its async functions, `with` another retention than the default.
macro_rules! cases {
    ($($name:ident $(with $retention:expr)?;)+) => {
        pub(super) fn cases() -> Vec<crate::conformance::store::StoreCase> {
            vec![$(crate::conformance::store::StoreCase {
                name: crate::conformance::suite::name(module_path!(), stringify!($name)),
                retention: {
                    let retention = rdev_domain::retention::Retention::default();
                    $(let retention = { let _ = retention; $retention };)?
                    retention
                },
                run: |world| Box::pin($name(world)),
            }),+]
        }
    };
}
use cases;
