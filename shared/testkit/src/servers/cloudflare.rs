//! A Cloudflare for tests: zones and their records behind the API in version 4, with its
//! envelope, its error codes, its transactions and its limits.
//!
//! It ends when it is dropped. What other people do in the dashboard, a test does by its methods.

mod api;
mod records;
mod shapes;

use std::sync::{Arc, Mutex};

use axum::Router;

use super::host::{self, Host, locked};

pub use records::Record;
use records::Zone;

/// The token that it accepts.
pub const TOKEN: &str = "cf-9d1f6c3a7e5b4820";

/// The longest comment of a record on a free plan, in characters.
pub const LONGEST_COMMENT: usize = 100;

#[derive(Debug)]
pub struct Cloudflare {
    host: Host,
    shared: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    zones: Vec<Zone>,
    /// Whether the token may write.
    may_edit: bool,
    /// Whether `/user/tokens/verify` knows the token: it does not know an account's own.
    token_of_user: bool,
    /// How many records a page has at most.
    page_size: usize,
    /// How many more requests are answered, and for how many seconds none is after that.
    limit: Option<(usize, u64)>,
    requests: usize,
}

impl Cloudflare {
    /// Starts one with these zones, which are empty, on a free port of 127.0.0.1.
    pub fn start(zones: &[&str]) -> Self {
        let shared = Arc::new(Mutex::new(State {
            zones: zones.iter().map(|name| Zone::new(name)).collect(),
            may_edit: true,
            token_of_user: true,
            page_size: 100,
            limit: None,
            requests: 0,
        }));
        let app = Router::new().fallback(api::answer).with_state(Arc::clone(&shared));
        Self { host: host::reserve("cloudflare-server").serve(app), shared }
    }

    /// `http://127.0.0.1:<port>`.
    pub fn origin(&self) -> String {
        self.host.url()
    }

    /// The API's base URL.
    pub fn url(&self) -> String {
        format!("{}/client/v4", self.origin())
    }

    /// The records of a name, of every kind, in the order in which they were made.
    pub fn records(&self, name: &str) -> Vec<Record> {
        let state = locked(&self.shared);
        let all = state.zones.iter().flat_map(|zone| &zone.records);
        all.filter(|record| record.name == name).cloned().collect()
    }

    /// Where a name leads: the contents of its A, AAAA and CNAME records, or of those of the
    /// wildcard that answers for it.
    pub fn look_up(&self, name: &str) -> Vec<String> {
        let leading = |name: &str| -> Vec<String> {
            let records = self.records(name).into_iter().filter(Record::leads);
            records.map(|record| record.content).collect()
        };
        let exact = leading(name);
        if !exact.is_empty() {
            return exact;
        }
        let above = name.match_indices('.').map(|(at, _)| &name[at..]);
        let wildcards = above.map(|rest| leading(&format!("*{rest}")));
        wildcards.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
    }

    /// What a name led to after each transaction in which that changed: the contents of its A,
    /// AAAA and CNAME records. The first is from before there was any.
    pub fn history(&self, name: &str) -> Vec<Vec<String>> {
        let state = locked(&self.shared);
        let zone = state.zones.iter().find(|zone| zone.has(name)).expect("a zone for the name");
        let mut states: Vec<Vec<String>> = vec![Vec::new()];
        for records in &zone.history {
            let of = records.iter().filter(|record| record.name == name && record.leads());
            let now: Vec<String> = of.map(|record| record.content.clone()).collect();
            if states.last() != Some(&now) {
                states.push(now);
            }
        }
        states
    }

    /// Adds a record as a person does in the dashboard; its id. Nothing is checked.
    pub fn add(&self, name: &str, kind: &str, content: &str, comment: Option<&str>) -> String {
        let mut state = locked(&self.shared);
        let zone = state.zones.iter_mut().find(|zone| zone.has(name));
        zone.expect("a zone for the name").add(Record::new(name, kind, content, comment))
    }

    /// Changes a record as a person does, or removes it: `change` says whether it stays.
    ///
    /// # Panics
    /// When there is no record with this id.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut Record) -> bool) {
        let mut state = locked(&self.shared);
        for zone in &mut state.zones {
            if let Some(at) = zone.records.iter().position(|record| record.id == id) {
                if !change(&mut zone.records[at]) {
                    zone.records.remove(at);
                }
                return zone.note();
            }
        }
        panic!("there is no record {id}");
    }

    /// Makes the zone `pending`, as it is until its name servers are Cloudflare's.
    pub fn zone_is(&self, name: &str, status: &str) {
        let mut state = locked(&self.shared);
        let zone = state.zones.iter_mut().find(|zone| zone.name == name);
        status.clone_into(&mut zone.expect("the zone").status);
    }

    /// Whether the token may write records from now on.
    pub fn token_may_edit(&self, may: bool) {
        locked(&self.shared).may_edit = may;
    }

    /// Whether the token is a user's. One of an account cannot be verified at the user's place.
    pub fn token_is_of_user(&self, is: bool) {
        locked(&self.shared).token_of_user = is;
    }

    /// Lists no more than so many records in a page, whatever a request asks for.
    pub fn page_size(&self, size: usize) {
        locked(&self.shared).page_size = size;
    }

    /// Answers so many requests more, and after that none: 429, with these seconds in
    /// `Retry-After`.
    pub fn limit(&self, requests: usize, retry_after: u64) {
        locked(&self.shared).limit = Some((requests, retry_after));
    }

    /// Answers all requests again.
    pub fn lift_limit(&self) {
        locked(&self.shared).limit = None;
    }

    /// How many requests there were, those that were refused too.
    pub fn requests(&self) -> usize {
        locked(&self.shared).requests
    }
}
