//! A Cloudflare for tests: zones and their records behind the API in version 4, with its
//! envelope, its error codes, its transactions and its limits.
//!
//! It runs on a thread of its own, so that a test that blocks does not stop it, and ends when it
//! is dropped. What other people do in the dashboard, a test does by its methods.

mod api;
mod records;
mod shapes;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::sync::oneshot;

pub use records::Record;
use records::Zone;

/// The token that it takes.
pub const TOKEN: &str = "cf-9d1f6c3a7e5b4820";

/// The longest comment of a record on a free plan, in characters.
pub const LONGEST_COMMENT: usize = 100;

/// The server.
#[derive(Debug)]
pub struct Cloudflare {
    shared: Arc<Mutex<State>>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves a zone as it was after its last transaction.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let state = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("cloudflare-server".to_owned())
            .spawn(move || serve(state, stopped, &tell))
            .expect("a thread for the Cloudflare server");
        let address = told.recv().expect("the Cloudflare server's address");
        Self { shared, address, stop: Some(stop), thread: Some(thread) }
    }

    /// `http://127.0.0.1:<port>`.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
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

    /// Adds a record as somebody else does; its id. Nothing is checked.
    pub fn add(&self, name: &str, kind: &str, content: &str, comment: Option<&str>) -> String {
        let mut state = locked(&self.shared);
        let zone = state.zones.iter_mut().find(|zone| zone.has(name));
        zone.expect("a zone for the name").add(Record::new(name, kind, content, comment))
    }

    /// Changes a record as somebody else does, or removes it: `change` says whether it stays.
    ///
    /// # Panics
    /// When there is none with this id.
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

    /// Lists no more than so many records at once, whatever is asked for.
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

impl Drop for Cloudflare {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server's thread has been printed by then.
            let _ = thread.join();
        }
    }
}

fn serve(
    shared: Arc<Mutex<State>>,
    stopped: oneshot::Receiver<()>,
    tell: &std::sync::mpsc::Sender<SocketAddr>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime for the Cloudflare server");
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("the port's number");
        let listener = listener.tap_io(|stream| {
            // Without it a small answer waits for the client's delayed acknowledgement.
            stream.set_nodelay(true).expect("a socket that takes TCP_NODELAY");
        });
        let app = Router::new().fallback(api::answer).with_state(shared);
        tell.send(address).expect("somebody waits for the address");
        tokio::select! {
            served = async { axum::serve(listener, app).await } => served.expect("a server that serves"),
            // Not even an error: the server was dropped.
            _ = stopped => {}
        }
    });
    runtime.shutdown_background();
}
