//! Where the test servers run: each on a free port of 127.0.0.1, with a runtime and a thread of its
//! own, so that a test that blocks does not stop it. A server stops when its host is dropped.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::net::{self, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use crate::tools::onward::Closed;

/// How long a server may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// A server that answers.
#[derive(Debug)]
pub(super) struct Host {
    address: SocketAddr,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

/// A server that has a port and a runtime, and does not answer yet.
#[derive(Debug)]
pub(super) struct Reserved {
    name: &'static str,
    listener: net::TcpListener,
    address: SocketAddr,
    runtime: Runtime,
}

/// Reserves a port and a runtime for the server of that name.
pub(super) fn reserve(name: &'static str) -> Reserved {
    let listener = net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket that does not block");
    let address = listener.local_addr().expect("the port's number");
    Reserved { name, listener, address, runtime: runtime() }
}

impl Reserved {
    /// `http://127.0.0.1:<port>`.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// For work beside the requests. It ends with the server.
    pub(super) fn runtime(&self) -> Handle {
        self.runtime.handle().clone()
    }

    /// Answers requests with a router. Handlers can ask for the client's address.
    pub(super) fn serve(self, app: Router) -> Host {
        self.run(async move |listener| {
            let listener = listener.tap_io(|stream| {
                // Without it a small answer waits for the client's delayed acknowledgement.
                stream.set_nodelay(true).expect("a socket that takes TCP_NODELAY");
            });
            let app = app.into_make_service_with_connect_info::<SocketAddr>();
            axum::serve(listener, app).await.expect("a server that serves");
        })
    }

    /// Runs a server that accepts its connections itself.
    pub(super) fn run<Serving: Future>(
        self,
        serve: impl FnOnce(TcpListener) -> Serving + Send + 'static,
    ) -> Host {
        let Self { name, listener, address, runtime } = self;
        Host::start(name, address, runtime, async move || {
            serve(TcpListener::from_std(listener).expect("a listener within a runtime")).await;
        })
    }
}

impl Host {
    /// Runs a server that has bound `address` itself.
    pub(super) fn run<Serving: Future>(
        name: &'static str,
        address: SocketAddr,
        serve: impl FnOnce() -> Serving + Send + 'static,
    ) -> Self {
        Self::start(name, address, runtime(), serve)
    }

    fn start<Serving: Future>(
        name: &'static str,
        address: SocketAddr,
        runtime: Runtime,
        serve: impl FnOnce() -> Serving + Send + 'static,
    ) -> Self {
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let work = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = serve() => {}
                    // Its sender was dropped, and the host with it.
                    _ = stopped => {}
                }
            });
            // Requests that hang end here. Nothing is started after it.
            runtime.shutdown_timeout(STOP);
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
        let thread = thread.expect("a thread for a test server");
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    /// `http://127.0.0.1:<port>`.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server's thread has been printed by then.
            let _ = thread.join();
        }
    }
}

fn runtime() -> Runtime {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime for a test server")
}

/// Accepts connections and answers their requests, until it is dropped. Unlike axum's server it can
/// close a connection without an answer.
pub(super) async fn accept<Answer, Answering, B>(
    listener: &TcpListener,
    keep_alive: bool,
    answer: Answer,
) where
    Answer: Fn(Request<Incoming>) -> Answering + Clone + Send + Sync + 'static,
    Answering: Future<Output = Result<Response<B>, Closed>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    loop {
        // A client may close its connection before it is accepted.
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Without it a small answer waits for the client's delayed acknowledgement.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let answer = answer.clone();
        tokio::spawn(async move {
            // Its errors are the faults that a test plans, and clients that go away.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(keep_alive)
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
        });
    }
}

/// Locks the state of a server. A change is whole by itself, so that a panic elsewhere, which
/// poisons the lock, has left a state that can be used.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
