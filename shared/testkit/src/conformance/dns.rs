//! The conformance suite of [`Dns`]: one record of ours at a name, and nobody else's touched.
//!
//! An adapter hands in a constructor, and every case works on names of its own, so that all of
//! them may share one server and its zone:
//!
//! ```text
//! let open = || async { DnsUnderTest { … } };
//! let passed = exercise_dns(open).await.expect("the suite");
//! ```

mod change;
mod foreign;
mod names;
mod remove;
mod world;

use std::future::Future;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use rdev_domain::hostname::Hostname;
use rdev_domain::ports::Dns;

use crate::conformance::suite::{Ended, Failed, Keep, Passed, run_case, run_suite};
use world::World;

/// An adapter with what the suite needs beside it.
pub struct DnsUnderTest {
    /// The adapter.
    pub dns: Arc<dyn Dns>,
    /// Its zone.
    pub zone: Hostname,
    /// Writes a record past the adapter, as somebody else does.
    pub write: Write,
    /// What a name leads to for the world: addresses and names without a final dot.
    pub look_up: LookUp,
    /// The time to live of a record that has none of its own, in seconds; 1 where the provider
    /// shows it as automatic.
    pub automatic_ttl: u32,
    /// Whether the provider has a proxy to stand before records.
    pub has_proxy: bool,
    /// What must outlive the adapter's use.
    pub keep: Keep,
}

/// Writes the one record of a kind that a name has, or removes it, where there is none.
pub type Write = Arc<dyn Fn(Stranger) -> BoxFuture<'static, ()> + Send + Sync>;

/// Looks a name up.
pub type LookUp = Arc<dyn Fn(String) -> BoxFuture<'static, Vec<String>> + Send + Sync>;

/// A record that somebody else writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// Its name, without a final dot.
    pub name: String,
    /// `A`, `AAAA` or `CNAME`.
    pub kind: &'static str,
    /// What it says, without a final dot; `None` removes it, whoever has made it.
    pub content: Option<String>,
    /// What stands beside it.
    pub comment: Option<String>,
}

/// One case of the suite.
pub struct DnsCase {
    name: &'static str,
    run: fn(World) -> BoxFuture<'static, ()>,
}

/// Every case, each with a name that is a sentence.
pub fn dns_cases() -> Vec<DnsCase> {
    let all = [change::cases(), foreign::cases(), remove::cases(), names::cases()];
    all.into_iter().flatten().collect()
}

/// Runs every case.
///
/// # Errors
/// The names of the cases that did not hold, each with the reason.
pub async fn exercise_dns<Open, Opening>(open: Open) -> Result<Passed, Failed>
where
    Open: Fn() -> Opening + Sync,
    Opening: Future<Output = DnsUnderTest> + Send,
{
    let open = &open;
    let mut cases: Vec<(&'static str, BoxFuture<'_, Ended>)> = Vec::new();
    for case in dns_cases() {
        cases.push((case.name, Box::pin(async move { case.run(open().await).await })));
    }
    run_suite("dns", cases).await
}

impl DnsCase {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs it.
    pub async fn run(&self, subject: DnsUnderTest) -> Ended {
        run_case((self.run)(World::new(subject))).await
    }
}

/// The cases of a module: its async functions.
macro_rules! cases {
    ($($name:ident;)+) => {
        pub(super) fn cases() -> Vec<crate::conformance::dns::DnsCase> {
            vec![$(crate::conformance::dns::DnsCase {
                name: stringify!($name),
                run: |world| Box::pin($name(world)),
            }),+]
        }
    };
}
use cases;
