//! The conformance suite of [`Dns`]: one record of ours at a name, and no foreign record is
//! touched.
//!
//! An adapter hands in a constructor. Every case becomes a trial of its own, named
//! `dns::<provider>::<module>::<case>`, and works on names of its own, so that all of them may
//! share one server and its zone.

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

use super::suite::{self, Keep};
use crate::tools::needs::NotRun;
use crate::tools::trial::Trial;
use world::World;

/// An adapter with what the suite needs beside it.
pub struct DnsUnderTest {
    pub dns: Arc<dyn Dns>,
    pub zone: Hostname,
    /// Writes a record without the adapter, as another program or a person does.
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

/// Writes the one record of a kind that a name has, or removes it.
pub type Write = Arc<dyn Fn(ForeignRecord) -> BoxFuture<'static, ()> + Send + Sync>;

pub type LookUp = Arc<dyn Fn(String) -> BoxFuture<'static, Vec<String>> + Send + Sync>;

/// A record that another program or a person writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignRecord {
    /// Its name, without a final dot.
    pub name: String,
    /// `A`, `AAAA` or `CNAME`.
    pub kind: &'static str,
    /// Its content, without a final dot; `None` removes it, even if it is ours.
    pub content: Option<String>,
    /// Its comment.
    pub comment: Option<String>,
}

/// One case of the suite.
struct DnsCase {
    name: String,
    run: fn(World) -> BoxFuture<'static, ()>,
}

/// Every case as a trial, for the adapter of `provider`.
pub fn trials<Open, Opening>(provider: &str, open: Open) -> Vec<Trial>
where
    Open: Fn() -> Opening + Clone + Send + 'static,
    Opening: Future<Output = Result<DnsUnderTest, NotRun>>,
{
    let all = [change::cases(), foreign::cases(), remove::cases(), names::cases()];
    let trial = |DnsCase { name, run }| {
        let name = name.replacen("dns::", &format!("dns::{provider}::"), 1);
        suite::trial(name, open.clone(), move |subject| run(World::new(subject)))
    };
    all.into_iter().flatten().map(trial).collect()
}

/// The cases of a module: its async functions.
macro_rules! cases {
    ($($name:ident;)+) => {
        pub(super) fn cases() -> Vec<crate::conformance::dns::DnsCase> {
            vec![$(crate::conformance::dns::DnsCase {
                name: crate::conformance::suite::name(module_path!(), stringify!($name)),
                run: |world| Box::pin($name(world)),
            }),+]
        }
    };
}
use cases;
