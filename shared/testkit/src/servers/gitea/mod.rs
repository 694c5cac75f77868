//! A Gitea for tests: its API over real bare repositories, which are cloned from and pushed to
//! at the same origin, with its webhooks and its quirks.
//!
//! ```no_run
//! # use rdev_testkit::servers::gitea::{Gitea, TOKEN};
//! # async fn test() {
//! let gitea = Gitea::start(&["acme"]); // organisations
//! let mut pushes = gitea.pushes(); // each push to a branch, from now on
//! gitea.commit("acme/site", "main", &[("a.txt", b"a")], "Add a"); // as a person does
//! let push = pushes.recv().await.expect("the push");
//! assert_eq!((push.full_name.as_str(), push.branch.as_str()), ("acme/site", "main"));
//! gitea.settled().await; // all webhooks were delivered, or have failed
//! # }
//! ```
//!
//! * [`TOKEN`] belongs to [`USER`], who may do everything in the organisations given at the start
//!   and has all scopes. [`Gitea::token`] makes tokens with fewer, [`Gitea::user`] other users.
//! * git: `<url>/<owner>/<name>.git`, with `oauth2:<token>`, `x-access-token:<token>` or the
//!   token as user name. Public repositories are read without.
//! * API: `<url>/api/v1`, see `api.rs` for the routes. Answers are those of a recorded Gitea
//!   1.26 (`captures/forge`), and have the shapes of the published description; tests in
//!   `rdev-platform` hold them to both.
//! * Webhooks are sent for `push` and `status`, each as a task of its own, once.
//!
//! It ends with its repositories when it is dropped.

mod api;
mod contents;
mod files;
mod git;
mod hook_tests;
mod hooks;
mod issues;
mod merge;
mod moved;
mod pulls;
mod records;
mod releases;
mod repositories;
mod response;
mod reviews;
mod seed;
mod shapes;
mod state;
mod statuses;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{broadcast, watch};

use super::git_http::{self, requests::Requests, slow_hooks};
use super::host::{self, Host, locked};

pub use records::{Hook, Merged, Pull, RepositoryInfo, Status};

/// Who the server knows from the start.
pub const USER: &str = "rdev-bot";

/// Their token, with all scopes.
pub const TOKEN: &str = "c0ffee5a1b7d4e2f9a8b3c6d7e0f1a2b3c4d5e6f";

/// A push to a branch. The same for a commit that the API made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// `owner/name`.
    pub full_name: String,
    /// The bare repository's folder.
    pub repository: PathBuf,
    /// The branch's short name.
    pub branch: String,
    /// Where it is now.
    pub commit: String,
    /// That commit's whole message.
    pub message: String,
}

/// A request to the API, and its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// `GET`, `POST`, …
    pub method: String,
    /// The path below `/api/v1`, as it came, without the query.
    pub path: String,
    /// The query, as it came.
    pub query: String,
    /// The request's body, where it is JSON.
    pub body: Option<Value>,
    pub status: u16,
    /// The answer's body, where it is JSON.
    pub answer: Option<Value>,
}

/// A webhook that was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct HookDelivery {
    /// Whose webhook: `owner/name`.
    pub full_name: String,
    pub url: String,
    /// `push` or `status`.
    pub event: String,
    /// `X-Gitea-Delivery`.
    pub id: String,
    pub payload: Value,
    /// The status of the answer; `None` when there was none.
    pub status: Option<u16>,
}

#[derive(Debug)]
pub struct Gitea {
    _host: Host,
    shared: Arc<Shared>,
    _folder: TempDir,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    url: String,
    state: Mutex<state::State>,
    seen: Mutex<Vec<Seen>>,
    /// Those of git.
    requests: Arc<Requests>,
    /// How long each answer of the API is held back.
    api_takes: Mutex<Duration>,
    pushes: broadcast::Sender<Push>,
    outgoing: Arc<Outgoing>,
}

/// The webhooks that were sent, or are on their way.
#[derive(Debug)]
struct Outgoing {
    deliveries: Mutex<Vec<HookDelivery>>,
    /// Webhooks go to public addresses only, as a Gitea does that is not told otherwise.
    public_only: AtomicBool,
    under_way: watch::Sender<usize>,
    runtime: tokio::runtime::Handle,
}

impl Gitea {
    /// Starts a server with these organisations on a free port of 127.0.0.1.
    pub fn start(organisations: &[&str]) -> Self {
        let folder = TempDir::new().expect("a folder for the repositories");
        let root = folder.path().canonicalize().expect("the folder's real path");
        let organisations = organisations.iter().map(|&name| name.to_owned()).collect();
        let host = host::reserve("gitea");
        let url = host.url();
        let shared = Arc::new(Shared {
            folder: root,
            state: Mutex::new(state::State::new(url.clone(), organisations)),
            url,
            seen: Mutex::default(),
            requests: Arc::default(),
            api_takes: Mutex::default(),
            pushes: broadcast::Sender::new(256),
            outgoing: Arc::new(Outgoing {
                deliveries: Mutex::default(),
                public_only: AtomicBool::new(false),
                under_way: watch::Sender::new(0),
                runtime: host.runtime(),
            }),
        });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        Self { _host: host.serve(app), shared, _folder: folder }
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        self.shared.url.clone()
    }

    /// Another token of [`USER`], with these scopes, as `write:repository`.
    pub fn token(&self, scopes: &[&str]) -> String {
        locked(&self.shared.state).token(USER, scopes)
    }

    /// Makes another user, who is in no organisation; their token, with all scopes.
    pub fn user(&self, name: &str) -> String {
        locked(&self.shared.state).user(name)
    }

    /// What the server believes to be its own URL (`ROOT_URL`), and writes into its answers.
    pub fn believes_url(&self, root: &str) {
        root.clone_into(&mut locked(&self.shared.state).root_url);
    }

    /// Makes pages shorter than the 50 items that clients ask for.
    pub fn shorten_pages(&self, items: usize) {
        locked(&self.shared.state).page = items;
    }

    /// Holds back each answer of the API for so long, from now on; git's requests are answered as
    /// before.
    pub fn slow_api(&self, by: Duration) {
        *locked(&self.shared.api_takes) = by;
    }

    /// Makes each push to a repository slow, as
    /// [`GitServer::slow_hooks`](super::git_http::GitServer::slow_hooks).
    pub fn slow_hooks(&self, full_name: &str) {
        let folder = self.shared.with(full_name, |found| found.folder.clone());
        slow_hooks::install(&folder).expect("the slow hooks");
    }

    /// All repositories, by name.
    pub fn repositories(&self) -> Vec<RepositoryInfo> {
        let state = locked(&self.shared.state);
        state.repositories.values().map(records::Repository::info).collect()
    }

    pub fn hooks(&self, full_name: &str) -> Vec<Hook> {
        self.shared.with(full_name, |repository| repository.hooks.clone())
    }

    /// The statuses of a commit, newest first.
    pub fn statuses(&self, full_name: &str, commit: &str) -> Vec<Status> {
        self.shared.with(full_name, |repository| {
            let of = repository.statuses.iter().rev();
            of.filter(|status| status.commit == commit).cloned().collect()
        })
    }

    pub fn pulls(&self, full_name: &str) -> Vec<Pull> {
        self.shared.with(full_name, |repository| repository.pulls.clone())
    }

    /// Each push to a branch from now on.
    pub fn pushes(&self) -> broadcast::Receiver<Push> {
        self.shared.pushes.subscribe()
    }

    /// The webhooks that were sent so far, in the order of their answers.
    pub fn deliveries(&self) -> Vec<HookDelivery> {
        locked(&self.shared.outgoing.deliveries).clone()
    }

    /// Waits until no webhook is on its way, five minutes at most.
    ///
    /// # Panics
    /// When there is still one then.
    pub async fn settled(&self) {
        let mut under_way = self.shared.outgoing.under_way.subscribe();
        let waited = under_way.wait_for(|count| *count == 0);
        let waited = tokio::time::timeout(Duration::from_secs(300), waited).await;
        assert!(waited.is_ok(), "a webhook is still on its way");
    }

    /// The requests to the API so far.
    pub fn seen(&self) -> Vec<Seen> {
        locked(&self.shared.seen).clone()
    }

    /// The requests of git so far.
    pub fn seen_of_git(&self) -> Vec<git_http::Seen> {
        self.shared.requests.seen()
    }

    /// Forgets the requests so far, those of git too.
    pub fn forget_seen(&self) {
        locked(&self.shared.seen).clear();
        self.shared.requests.forget();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if request.uri().path().starts_with("/api/v1/") {
        let takes = *locked(&shared.api_takes);
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        return api::answer(shared, request).await;
    }
    match git::GitRequest::of(&request) {
        Some(git_request) => {
            let under_way = shared.requests.begin(&request);
            under_way.until_sent(git::answer(shared, git_request, request).await)
        }
        None => response::web(&shared, request.uri().path()),
    }
}
