//! HTTP for git: one client per process, on a small runtime of its own.
//!
//! Answers and large requests are streamed. A request goes to the remote's own origin only,
//! because the client follows no redirect. When it connects, it checks each address of the name
//! against the installation's policy, so that a name that was accepted cannot be changed to a
//! private address later. For the same reason it uses no proxy.

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rdev_domain::git_url::UrlPolicy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Body, Client, RequestBuilder, Response, StatusCode};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::pkt::{Pieces, unexpected};
use super::{GitError, Remote};

/// Requests up to this size have a length; longer ones are sent in chunks, as git does.
const WHOLE: usize = 1 << 20;

/// The size of a chunk.
const CHUNK: usize = 64 << 10;

/// The time limit for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The time limit for one exchange. A server whose hook hangs is not silent: it sends keep-alives
/// forever.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// How long to wait for the end of an answer that is complete.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

/// How long to wait for the end of a push that is done: its connection is reused where no hook
/// takes its time.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(10);

/// A git service of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// Reading.
    UploadPack,
    /// Writing.
    ReceivePack,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }
}

/// The process's HTTP clients and their runtime.
struct Net {
    runtime: Runtime,
    /// For policies that allow only public addresses.
    public: Client,
    /// For policies that allow private addresses too.
    private: Client,
    /// The answers to pushes that are done, until they end.
    left: TaskTracker,
}

static NET: OnceLock<Result<Net, String>> = OnceLock::new();

/// Waits until the servers have ended the pushes that they have done already, at most for `limit`:
/// a server may end the hooks of a client that goes away.
pub async fn pushes_ended(limit: Duration) {
    let Some(Ok(net)) = NET.get() else { return };
    if tokio::time::timeout(limit, net.left.wait()).await.is_err() {
        warn!("a git server has not ended a push after {limit:?}; its hooks may be cut short");
    }
}

/// Made at the first use and reused: connections stay open across builds.
fn net() -> Result<&'static Net, GitError> {
    let made = NET.get_or_init(|| {
        // Another part of the process may have installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("git-http")
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let client = |allow_private| client(allow_private).map_err(|error| error.to_string());
        let left = TaskTracker::new();
        // Only a closed one can be waited for; it takes more all the same.
        left.close();
        Ok(Net { public: client(false)?, private: client(true)?, left, runtime })
    });
    made.as_ref().map_err(|error| GitError::broken("starting the git HTTP client", error.as_str()))
}

fn client(allow_private: bool) -> reqwest::Result<Client> {
    let policy = UrlPolicy { allow_private, file_root: None };
    Client::builder()
        // Some servers use git's protocol only for a client with such a name.
        .user_agent(concat!("git/2.0 (rdev ", env!("CARGO_PKG_VERSION"), ")"))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(Duration::from_secs(20))
        .dns_resolver(std::sync::Arc::new(CheckedResolver(policy)))
        .build()
}

/// Resolves names to addresses that the policy allows.
struct CheckedResolver(UrlPolicy);

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            for address in &found {
                policy.check_address(address.ip())?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// One exchange with a remote.
#[derive(Clone, Copy)]
pub(super) struct Session<'a> {
    net: &'static Net,
    remote: &'a Remote,
    cancel: &'a CancellationToken,
    began: Instant,
}

impl<'a> Session<'a> {
    /// Checks the URL against the policy. It does not connect yet.
    pub(super) fn new(remote: &'a Remote, cancel: &'a CancellationToken) -> Result<Self, GitError> {
        remote.url.check(&remote.policy)?;
        Ok(Self { net: net()?, remote, cancel, began: Instant::now() })
    }

    /// Requests a service's list of refs.
    pub(super) fn get(&self, service: Service) -> Result<Answer<'a>, GitError> {
        let path = format!("info/refs?service={}", service.name());
        let response = self.twice(|| Ok(self.request(reqwest::Method::GET, &path)))?;
        self.answer(response, service, "advertisement")
    }

    /// Sends a request to `git-upload-pack`. It changes nothing there, so it is repeated after a
    /// broken connection.
    pub(super) fn ask(&self, body: &[u8]) -> Result<Answer<'a>, GitError> {
        let service = Service::UploadPack;
        let response = self.twice(|| Ok(self.post(service).body(body.to_vec())))?;
        self.answer(response, service, "result")
    }

    /// Starts a request to `git-receive-pack`.
    pub(super) fn upload(&self) -> Upload<'a> {
        Upload { session: *self, waiting: Vec::new(), sending: None }
    }

    fn request(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        let client =
            if self.remote.policy.allow_private { &self.net.private } else { &self.net.public };
        let url = format!("{}/{path}", self.remote.url.as_str().trim_end_matches('/'));
        let request = client.request(method, url);
        match &self.remote.credentials {
            Some(login) => request.basic_auth(&login.username, Some(login.token.expose())),
            None => request,
        }
    }

    fn post(&self, service: Service) -> RequestBuilder {
        let kind = |what| format!("application/x-{}-{what}", service.name());
        self.request(reqwest::Method::POST, service.name())
            .header(CONTENT_TYPE, kind("request"))
            .header(ACCEPT, kind("result"))
    }

    /// Sends a request that may be repeated: a reused connection may have been closed meanwhile.
    fn twice(
        &self,
        request: impl Fn() -> Result<RequestBuilder, GitError>,
    ) -> Result<Response, GitError> {
        match self.wait(request()?.send())? {
            Err(error) if !error.is_connect() && !error.is_timeout() => {
                self.wait(request()?.send())?.map_err(|error| self.failed(error, false))
            }
            other => other.map_err(|error| self.failed(error, false)),
        }
    }

    /// Waits for `future`, at most until the server's time limit or a cancellation.
    fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, GitError> {
        let silence = self.remote.timeout;
        let left = EXCHANGE_LIMIT.saturating_sub(self.began.elapsed());
        self.net.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(GitError::Cancelled),
                done = tokio::time::timeout(silence.min(left), future) => done.map_err(|_| {
                    GitError::unreachable(match left < silence {
                        true => format!("it had not finished after {EXCHANGE_LIMIT:?}"),
                        false => format!("it was silent for {silence:?}"),
                    })
                }),
            }
        })
    }

    /// The error for a failed request.
    fn failed(&self, error: reqwest::Error, sent: bool) -> GitError {
        let in_doubt = sent && !error.is_connect();
        let error = error.without_url();
        // A refusal of the policy is the innermost source of a failure to connect.
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            if let Some(invalid) = inner.downcast_ref::<rdev_domain::Invalid>() {
                return GitError::NotAllowed(invalid.clone());
            }
            let text = inner.to_string();
            if !reason.contains(&text) {
                reason.push_str(": ");
                reason.push_str(&text);
            }
            source = inner.source();
        }
        GitError::Unreachable { reason, in_doubt }
    }

    /// Checks an answer's status and type.
    fn answer(
        &self,
        response: Response,
        service: Service,
        what: &str,
    ) -> Result<Answer<'a>, GitError> {
        let status = response.status();
        if status != StatusCode::OK {
            return Err(self.refused(status, response.headers(), service));
        }
        let expected = format!("application/x-{}-{what}", service.name());
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if kind.map(|kind| kind.split(';').next().unwrap_or_default().trim()) != Some(&expected) {
            return Err(unexpected("the server at this URL is not a git server"));
        }
        Ok(Answer { session: *self, response, in_doubt: false })
    }

    fn refused(&self, status: StatusCode, headers: &HeaderMap, service: Service) -> GitError {
        let logged_in = self.remote.credentials.is_some();
        match status {
            StatusCode::FORBIDDEN if logged_in && service == Service::ReceivePack => {
                let reason = "these credentials may not push to the repository (403)".to_owned();
                GitError::Rejected { reason }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let sent = if logged_in { "the configured ones" } else { "none were sent" };
                GitError::Auth { detail: format!("{sent}; {} answered {status}", service.name()) }
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => GitError::RepositoryNotFound,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                GitError::unreachable(format!("it answered {status}"))
            }
            _ if status.is_server_error() => GitError::unreachable(format!("it answered {status}")),
            _ if status.is_redirection() => {
                let to = headers.get(reqwest::header::LOCATION).map(HeaderValue::as_bytes);
                let to = url::Url::parse(&String::from_utf8_lossy(to.unwrap_or_default()));
                let to = to.map_or("elsewhere".to_owned(), |to| to.origin().ascii_serialization());
                unexpected(&format!("it redirects to {to}; use the repository's URL there"))
            }
            _ => unexpected(&format!("it answered {status}")),
        }
    }
}

/// An answer's body, streamed.
pub(super) struct Answer<'a> {
    session: Session<'a>,
    response: Response,
    /// Whether the request may have changed something, so that a lost answer leaves that open.
    in_doubt: bool,
}

impl Answer<'_> {
    /// Reads the end of the body, after which the connection can be reused. The end usually arrives
    /// with the last line: this does not wait long for it.
    pub(super) fn drain(mut self) {
        let ends = async { while let Ok(Some(_)) = self.response.chunk().await {} };
        self.session.net.runtime.block_on(async {
            // If it does not arrive in time, the connection is not reused.
            let _ = tokio::time::timeout(DRAIN_TIMEOUT, ends).await;
        });
    }

    /// Leaves an answer whose rest does not matter: it is read to its end beside what follows,
    /// since a server may end the hooks of a client that goes away.
    pub(super) fn leave(self) {
        let Self { session: Session { net, .. }, mut response, .. } = self;
        let mut ends = net.runtime.spawn(net.left.track_future(async move {
            let ends = async { while let Ok(Some(_)) = response.chunk().await {} };
            let _ = tokio::time::timeout(EXCHANGE_LIMIT, ends).await;
        }));
        net.runtime.block_on(async {
            // If it does not end in time, the next request has a connection of its own.
            let _ = tokio::time::timeout(LEAVE_TIMEOUT, &mut ends).await;
        });
    }
}

impl Pieces for Answer<'_> {
    fn append_to(&mut self, buffer: &mut Vec<u8>) -> Result<bool, GitError> {
        let session = self.session;
        let piece = session
            .wait(self.response.chunk())
            .and_then(|piece| piece.map_err(|error| session.failed(error, true)));
        match piece {
            Ok(Some(piece)) => {
                buffer.extend_from_slice(&piece);
                Ok(true)
            }
            Ok(None) if self.in_doubt => {
                Err(doubtful(GitError::unreachable("its answer ended too early")))
            }
            Ok(None) => Ok(false),
            Err(error) if self.in_doubt => Err(doubtful(error)),
            Err(GitError::Unreachable { reason, .. }) => Err(GitError::unreachable(reason)),
            Err(error) => Err(error),
        }
    }
}

/// A request body of any length, streamed.
pub(super) struct Upload<'a> {
    session: Session<'a>,
    waiting: Vec<u8>,
    sending: Option<Sending>,
}

struct Sending {
    pieces: mpsc::Sender<Vec<u8>>,
    response: JoinHandle<reqwest::Result<Response>>,
}

impl Drop for Sending {
    /// A request that is given up must not look complete to the server.
    fn drop(&mut self) {
        self.response.abort();
    }
}

impl<'a> Upload<'a> {
    /// Adds to the body. Above a certain size the request starts, and this waits for the network.
    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), GitError> {
        self.waiting.extend_from_slice(data);
        let limit = if self.sending.is_some() { CHUNK } else { WHOLE };
        if self.waiting.len() < limit { Ok(()) } else { self.send_waiting() }
    }

    fn send_waiting(&mut self) -> Result<(), GitError> {
        let session = self.session;
        let sending = self.sending.get_or_insert_with(|| {
            let (pieces, incoming) = mpsc::channel::<Vec<u8>>(4);
            let pieces_of = |mut incoming: mpsc::Receiver<Vec<u8>>| async move {
                let piece = incoming.recv().await?;
                Some((Ok::<_, std::io::Error>(piece), incoming))
            };
            let body = Body::wrap_stream(futures_util::stream::unfold(incoming, pieces_of));
            let request = session.post(Service::ReceivePack).body(body);
            Sending { pieces, response: session.net.runtime.spawn(request.send()) }
        });
        let piece = std::mem::replace(&mut self.waiting, Vec::with_capacity(CHUNK));
        match session.wait(sending.pieces.send(piece)) {
            // The server has answered already, or the connection broke. `finish` tells which.
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends the body and waits for the start of the answer.
    pub(super) fn finish(mut self) -> Result<Answer<'a>, GitError> {
        let session = self.session;
        let service = Service::ReceivePack;
        let response = if self.sending.is_none() {
            let body = std::mem::take(&mut self.waiting);
            session.wait(session.post(service).body(body).send())
        } else {
            if !self.waiting.is_empty() {
                self.send_waiting()?;
            }
            let Some(mut sending) = self.sending.take() else {
                return Err(unexpected("the request was given up"));
            };
            // Dropping the channel's only sender ends the body.
            let (closed, _) = mpsc::channel(1);
            drop(std::mem::replace(&mut sending.pieces, closed));
            let answered = session.wait(&mut sending.response);
            match answered {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(error)) => return Err(GitError::broken("pushing", error)),
                Err(error) => Err(error),
            }
        };
        let response = match response {
            Ok(response) => response.map_err(|error| session.failed(error, true))?,
            Err(error) => return Err(doubtful(error)),
        };
        let in_doubt = response.status().is_server_error();
        match session.answer(response, service, "result") {
            Ok(answer) => Ok(Answer { in_doubt: true, ..answer }),
            Err(error) if in_doubt => Err(doubtful(error)),
            Err(error) => Err(error),
        }
    }
}

/// The same error, for a push that had been sent.
pub(super) fn doubtful(error: GitError) -> GitError {
    match error {
        GitError::Unreachable { reason, .. } => GitError::Unreachable { reason, in_doubt: true },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_resolves_to_a_private_address_is_refused_at_connect() {
        let resolver = CheckedResolver(UrlPolicy::default());
        let name: Name = "localhost".parse().expect("a name");
        let net = net().expect("the client");
        let refused = net.runtime.block_on(resolver.resolve(name)).err().expect("refused");
        assert!(refused.downcast_ref::<rdev_domain::Invalid>().is_some(), "{refused}");
        // The whole path, behind the check of the URL's text.
        let answer = net.runtime.block_on(net.public.get("http://localhost:9/").send());
        let error = answer.expect_err("refused before any connection");
        let mut source: Option<&(dyn Error + 'static)> = Some(&error);
        let mut found = false;
        while let Some(inner) = source {
            found |= inner.downcast_ref::<rdev_domain::Invalid>().is_some();
            source = inner.source();
        }
        assert!(found, "{error:?}");
    }
}
