//! A proxy before the AWS emulator: it counts calls by service and operation, and lets some
//! go wrong, by a plan and with seeded chance.
//!
//! It runs on threads of its own, so that a test that blocks does not stop it, and ends when
//! it is dropped.

mod call;
mod forward;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::tools::onward;

pub use call::{Call, Service};
pub use plan::{Fault, On, Rule};

/// A call as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What was called.
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
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<String>,
    plan: Mutex<Plan>,
    log: Mutex<Log>,
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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is whole by itself; a panic elsewhere leaves it so.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Starts one on a free port of 127.0.0.1 that forwards everything to `upstream`, as
    /// `http://127.0.0.1:4566`. Chance is the same for the same `seed` and order of calls.
    pub fn start(upstream: &str, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream.to_owned()),
            plan: Mutex::new(Plan { rules: Vec::new(), chance: StdRng::seed_from_u64(seed) }),
            log: Mutex::default(),
            client: onward::client(),
        });
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let state = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("aws-proxy".to_owned())
            .spawn(move || serve(state, stopped, &tell))
            .expect("a thread for the proxy");
        let address = told.recv().expect("the proxy's address");
        Self { shared, address, stop: Some(stop), thread: Some(thread) }
    }

    /// `http://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Forwards to another place from now on: for an emulator that has to know the proxy's
    /// address before it starts.
    pub fn forward_to(&self, upstream: &str) {
        upstream.clone_into(&mut locked(&self.shared.upstream));
    }

    /// What goes wrong from now on, instead of what did. Of the rules that a call meets, the
    /// first that takes hold counts.
    pub fn plan(&self, rules: impl IntoIterator<Item = Rule>) {
        locked(&self.shared.plan).rules = rules.into_iter().collect();
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

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the proxy's thread has been printed by then.
            let _ = thread.join();
        }
    }
}

fn serve(
    shared: Arc<Shared>,
    stopped: oneshot::Receiver<Infallible>,
    tell: &std::sync::mpsc::Sender<SocketAddr>,
) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime for the proxy");
    runtime.block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        tell.send(listener.local_addr().expect("its number")).expect("somebody waits for it");
        tokio::select! {
            () = accept(&listener, &shared) => {}
            // Not even an error: the proxy was dropped.
            _ = stopped => {}
        }
    });
    // Whatever still hangs goes with its runtime.
    runtime.shutdown_background();
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        // A connection that is gone before it is taken concerns nobody.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(shared);
        // Without it a small answer waits for the client's delayed acknowledgement.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        tokio::spawn(async move {
            let service = service_fn(move |request| forward::answer(Arc::clone(&shared), request));
            // Its errors are the faults that were asked for, and clients that go away.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
