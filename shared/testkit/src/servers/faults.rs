//! A server that answers wrongly on purpose, alone or before a real one.
//!
//! ```no_run
//! # use rdev_testkit::servers::faults::{Fault, Server};
//! let server = Server::start();
//! server.answer_with(Fault::Status(500)); // all requests, from now on
//! let server = Server::before("http://127.0.0.1:3000"); // forwards everything there
//! server.break_nth(2, Fault::HoldAnswer); // the third from now on; the others are forwarded
//! server.heal();
//! for request in server.requests() {
//!     assert!(!request.shows("the token"), "{request:?}");
//! }
//! ```
//!
//! It ends when it is dropped. Each connection carries one request.

mod answer;
mod port;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use tokio::sync::watch;

use port::Port;

use super::host::{Host, locked};
use crate::tools::onward;

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection is refused. It stays so until a test plans something else, because a server
    /// that does not listen cannot count.
    Refused,
    /// The connection is closed without an answer, and nothing was done.
    Gone,
    /// There is never an answer, and nothing was done.
    Hang,
    /// The request is forwarded and done; its answer never comes.
    HoldAnswer,
    /// The request is forwarded and done; the connection is closed instead of an answer.
    LoseAnswer,
    /// This status, with a line of plain text.
    Status(u16),
    /// This status, with this body of this content type.
    Body(u16, &'static str, String),
    /// 429, with `Retry-After` in seconds.
    Limited(u64),
    /// 200, with a page of HTML.
    Html,
    /// 200, with JSON that ends in the middle.
    Truncated,
    /// 200, with fewer bytes of JSON than were promised.
    CutOff,
    /// 307, to the same path below this origin.
    Redirect(String),
    /// 200, with a JSON string of 50 MB.
    Huge,
}

/// A request as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

#[derive(Debug)]
pub struct Server {
    host: Host,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: Option<String>,
    plan: Mutex<Plan>,
    seen: Mutex<Vec<Request>>,
    client: onward::Client,
    /// How many answers were held back: their requests have been done.
    held: watch::Sender<usize>,
    /// Whether the port should accept connections.
    should_listen: watch::Sender<bool>,
    /// Whether it does.
    open: watch::Sender<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Plan {
    /// Forward all; where there is nothing to forward to, answer 404.
    Heal,
    All(Fault),
    /// One, after this many others.
    Nth(usize, Fault),
    /// Those of this method whose path contains this text.
    On(String, String, Fault),
    /// The first ones of this method whose path contains this text: how many of them are left.
    First(usize, String, String, Fault),
}

impl Fault {
    /// One of each kind that issues ask for: refused, silence, 401, 403, 404, 409, 422, 429
    /// (for 7 seconds), 500, HTML, truncated, redirected to `elsewhere` (an origin), 50 MB.
    pub fn table(elsewhere: &str) -> Vec<Self> {
        let mut table = vec![Self::Refused, Self::Gone, Self::Hang];
        table.extend([401, 403, 404, 409, 422].map(Self::Status));
        table.extend([Self::Limited(7), Self::Status(500), Self::Html]);
        table.extend([Self::Truncated, Self::CutOff]);
        table.extend([Self::Redirect(elsewhere.to_owned()), Self::Huge]);
        table
    }
}

impl Request {
    /// Its path, without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }

    /// Whether a text is anywhere in it.
    pub fn shows(&self, text: &str) -> bool {
        let mut values = self.headers.values();
        let in_body = self.body.windows(text.len().max(1)).any(|part| part == text.as_bytes());
        self.target.contains(text)
            || in_body
            || values.any(|value| String::from_utf8_lossy(value.as_bytes()).contains(text))
    }
}

impl Server {
    /// Starts one on a free port of 127.0.0.1 that answers 404 until a test plans a fault.
    pub fn start() -> Self {
        Self::run(None)
    }

    /// Starts one that forwards to `upstream`, as `http://127.0.0.1:3000`, until a test plans a
    /// fault.
    pub fn before(upstream: &str) -> Self {
        Self::run(Some(upstream.to_owned()))
    }

    fn run(upstream: Option<String>) -> Self {
        let shared = Arc::new(Shared {
            upstream,
            plan: Mutex::new(Plan::Heal),
            seen: Mutex::default(),
            client: onward::client(),
            held: watch::Sender::new(0),
            should_listen: watch::Sender::new(true),
            open: watch::Sender::new(false),
        });
        let port = Port::reserve();
        let state = Arc::clone(&shared);
        let host = Host::run("fault-server", port.address(), async move || {
            port.accept(&state).await;
        });
        let server = Self { host, shared };
        server.listen(true);
        server
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        self.host.url()
    }

    /// All requests from now on go wrong so.
    pub fn answer_with(&self, fault: Fault) {
        self.listen(fault != Fault::Refused);
        *locked(&self.shared.plan) = Plan::All(fault);
    }

    /// One request goes wrong, after `skipped` others that are forwarded; so are those after it.
    pub fn break_nth(&self, skipped: usize, fault: Fault) {
        self.listen(skipped > 0 || fault != Fault::Refused);
        *locked(&self.shared.plan) = Plan::Nth(skipped, fault);
    }

    /// The requests of this method whose path and query contain `part` go wrong; the others are
    /// forwarded. Not for [`Fault::Refused`], which is decided before there is a path.
    pub fn break_on(&self, method: &str, part: &str, fault: Fault) {
        assert_ne!(fault, Fault::Refused, "a refused connection has no path");
        self.listen(true);
        *locked(&self.shared.plan) = Plan::On(method.to_owned(), part.to_owned(), fault);
    }

    /// The next `count` requests of this method whose path and query contain `part` go wrong; those
    /// after them and all others are forwarded. Not for [`Fault::Refused`], as above.
    pub fn break_first(&self, count: usize, method: &str, part: &str, fault: Fault) {
        assert_ne!(fault, Fault::Refused, "a refused connection has no path");
        self.listen(true);
        *locked(&self.shared.plan) = Plan::First(count, method.to_owned(), part.to_owned(), fault);
    }

    /// All requests from now on are forwarded (or answered with 404, where there is nowhere).
    pub fn heal(&self) {
        *locked(&self.shared.plan) = Plan::Heal;
        self.listen(true);
    }

    /// The requests so far, in the order in which they came.
    pub fn requests(&self) -> Vec<Request> {
        locked(&self.shared.seen).clone()
    }

    /// How many answers were held back so far ([`Fault::HoldAnswer`]): what they answer has been
    /// done.
    pub fn held(&self) -> usize {
        *self.shared.held.borrow()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        locked(&self.shared.seen).clear();
    }

    /// Opens or closes the port, and returns when it is so.
    fn listen(&self, open: bool) {
        self.shared.should_listen.send_replace(open);
        let deadline = Instant::now() + Duration::from_secs(300);
        while *self.shared.open.borrow() != open {
            assert!(Instant::now() < deadline, "the fault server's port got stuck");
            std::thread::yield_now();
        }
    }
}
