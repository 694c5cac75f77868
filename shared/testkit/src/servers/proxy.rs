//! A proxy before the AWS emulator: it counts calls by service and operation, and lets some
//! go wrong, by a plan and with seeded chance.
//!
//! It ends when it is dropped.

mod call;
mod forward;
mod plan;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::host::{self, Host, locked};
use crate::tools::onward;

pub use call::{Call, Service};
pub use plan::{Fault, On, Rule};

/// A call as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub call: Call,
    /// The access key that signed it: the account, where a test has one of its own.
    pub key: Option<String>,
    /// The program that made it, if it has a name in `AWS_SDK_UA_APP_ID`.
    pub app: Option<String>,
    /// The partition key of the one item that it is about, where it is about one.
    pub item: Option<String>,
    /// What was done to it.
    pub fault: Option<Fault>,
    /// The answer's status; `None` while there is none.
    pub status: Option<u16>,
    /// How many bytes the answer's body has; 0 while there is none.
    pub bytes: u64,
}

#[derive(Debug)]
pub struct Proxy {
    host: Host,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<String>,
    plan: Mutex<Plan>,
    log: Mutex<Log>,
    tables: Arc<tables::Tables>,
    client: onward::Client,
}

/// The calls since `first`, which is a number that no earlier call has.
#[derive(Debug, Default)]
struct Log {
    first: usize,
    seen: Vec<Seen>,
}

#[derive(Debug)]
struct Plan {
    rules: Vec<Rule>,
    chance: StdRng,
}

impl Proxy {
    /// Starts one on a free port of 127.0.0.1 that forwards everything to `upstream`, as
    /// `http://127.0.0.1:4566`. Chance is the same for the same `seed` and order of calls.
    pub fn start(upstream: &str, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream.to_owned()),
            plan: Mutex::new(Plan { rules: Vec::new(), chance: StdRng::seed_from_u64(seed) }),
            log: Mutex::default(),
            tables: Arc::default(),
            client: onward::client(),
        });
        let state = Arc::clone(&shared);
        let host = host::reserve("aws-proxy").run(async move |listener| {
            let answer = move |request| forward::answer(Arc::clone(&state), request);
            host::accept(&listener, true, answer).await;
        });
        Self { host, shared }
    }

    /// `http://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        self.host.url()
    }

    /// Forwards to another place from now on: for an emulator that has to know the proxy's
    /// address before it starts.
    pub fn forward_to(&self, upstream: &str) {
        upstream.clone_into(&mut locked(&self.shared.upstream));
    }

    /// What goes wrong from now on, instead of what did. Of the rules that a call meets, the
    /// first that applies counts.
    pub fn plan(&self, rules: impl IntoIterator<Item = Rule>) {
        locked(&self.shared.plan).rules = rules.into_iter().collect();
    }

    /// Queries of an index are answered from now on by the index of this table: a copy of the one
    /// that is asked, as that was some time ago. `None`: no more.
    pub fn answer_indexes_from(&self, table: Option<&str>) {
        self.shared.tables.answer_indexes_from(table);
    }

    /// From now on, a transaction or a write is refused while another call writes one of its items,
    /// as DynamoDB does.
    pub fn refuse_writes_that_meet(&self) {
        self.shared.tables.refuse_writes_that_meet();
    }

    /// The calls so far, in the order in which they came, each try as one.
    pub fn seen(&self) -> Vec<Seen> {
        locked(&self.shared.log).seen.clone()
    }

    /// How many calls there were so far, each try as one.
    pub fn counts(&self) -> BTreeMap<Call, usize> {
        let mut counts = BTreeMap::new();
        for seen in &locked(&self.shared.log).seen {
            *counts.entry(seen.call.clone()).or_default() += 1;
        }
        counts
    }

    /// Forgets the calls so far. The answers of those under way are not noted any more.
    pub fn forget_seen(&self) {
        let mut log = locked(&self.shared.log);
        log.first += log.seen.len();
        log.seen.clear();
    }
}
