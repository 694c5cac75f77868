//! A real smart HTTP git server: git's own `http-backend` behind basic authentication.
//!
//! Each [`GitServer`] has a folder of bare repositories and a port of its own, and ends with them
//! when it is dropped.
//! A test can make it misbehave ([`Behaviour`]) or slow ([`GitServer::slow_hooks`]). It records every
//! request.

pub(crate) mod cgi;
mod command;
pub(crate) mod requests;
pub(crate) mod slow_hooks;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use super::host::{self, Host, locked};
use requests::Requests;

pub use command::{git, git_command, try_git};
pub use requests::Seen;
pub use slow_hooks::HOOK;

/// The user name that the server accepts.
pub const USER: &str = "rdev";

/// The token that the server accepts with it.
pub const TOKEN: &str = "tok-6f1d0c2e9a7b4853";

/// The header `Authorization` of a client with this name and token.
pub fn basic_login(name: &str, token: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{token}")))
}

/// How the server answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Behaviour {
    /// As git does.
    #[default]
    Serve,
    /// With this status, to everything.
    Status(u16),
    /// Not at all: the connection stays open and silent.
    Hang,
    /// As git does until a push: that is applied, but its answer breaks off.
    LoseAnswer,
    /// As git does until a push: that one is never answered, nor applied.
    HangAtPush,
    /// With a redirect of everything to the same path below this origin.
    Redirect(String),
}

/// The server. The repositories of one that was started without a folder are removed when it is
/// dropped.
#[derive(Debug)]
pub struct GitServer {
    host: Host,
    shared: Arc<Shared>,
    _temporary: Option<TempDir>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// Who pushes, as the repositories' logs name them.
    pusher: String,
    behaviour: Mutex<Behaviour>,
    requests: Arc<Requests>,
}

impl GitServer {
    /// Starts a server on a free port of 127.0.0.1.
    pub fn start() -> Self {
        let folder = TempDir::new().expect("a folder for the repositories");
        let root = folder.path().to_owned();
        Self { _temporary: Some(folder), ..Self::over(root, "A Person") }
    }

    /// Starts a server over the repositories in a folder, which stay. The repositories' logs name
    /// whoever pushes through it `pusher`.
    pub fn over(folder: PathBuf, pusher: &str) -> Self {
        let shared = Arc::new(Shared {
            root: folder,
            pusher: pusher.to_owned(),
            behaviour: Mutex::default(),
            requests: Arc::default(),
        });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let host = host::reserve("git-http-server").serve(app);
        Self { host, shared, _temporary: None }
    }

    /// `http://127.0.0.1:<port>`.
    pub fn origin(&self) -> String {
        self.host.url()
    }

    /// A repository's clone URL, without credentials.
    pub fn url(&self, name: &str) -> String {
        format!("{}/{name}.git", self.origin())
    }

    pub fn folder(&self, name: &str) -> PathBuf {
        self.shared.root.join(format!("{name}.git"))
    }

    /// Makes an empty bare repository whose `HEAD` is `main`.
    pub fn create_empty(&self, name: &str) -> PathBuf {
        let folder = self.folder(name);
        let path = folder.to_str().expect("a UTF-8 path");
        git(&self.shared.root, &["init", "--quiet", "--bare", "--initial-branch=main", path]);
        git(&folder, &["config", "http.receivepack", "true"]);
        folder
    }

    /// Makes a repository with one commit of `files` on `main`; the commit's id.
    pub fn create(&self, name: &str, files: &[(&str, &str)]) -> String {
        self.create_empty(name);
        self.commit(name, "main", files, "initial commit")
    }

    /// Commits `files` to a branch as a person does, with a clone of their own:
    /// past hooks, since those are meant for clients over HTTP. A branch
    /// that is not there begins at `main`, or from nothing. The commit's id.
    pub fn commit(
        &self,
        name: &str,
        branch: &str,
        files: &[(&str, &str)],
        message: &str,
    ) -> String {
        let clone = TempDir::new().expect("a folder for a clone");
        let at = clone.path();
        let bare = self.folder(name);
        git(at, &["init", "--quiet", "--initial-branch=work", "."]);
        let from = ["main", branch]
            .into_iter()
            .rfind(|from| self.find_ref(name, &format!("refs/heads/{from}")).is_some());
        if let Some(from) = from {
            let bare = bare.to_str().expect("a UTF-8 path");
            git(at, &["fetch", "--quiet", bare, &format!("refs/heads/{from}")]);
            git(at, &["reset", "--quiet", "--hard", "FETCH_HEAD"]);
        }
        for (path, content) in files {
            let path = at.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder for a file");
            std::fs::write(path, content).expect("a file");
        }
        git(at, &["add", "--all", "--force"]);
        git(at, &["commit", "--quiet", "--allow-empty", "--message", message]);
        let id = git(at, &["rev-parse", "HEAD"]);
        let objects = bare.to_str().expect("a UTF-8 path");
        // Objects by a fetch, the branch by hand:
        // no hook runs for it.
        git(&bare, &["fetch", "--quiet", at.to_str().expect("a UTF-8 path"), "work"]);
        git(Path::new(objects), &["update-ref", &format!("refs/heads/{branch}"), &id]);
        id
    }

    /// Installs a hook (`pre-receive`, `update`, …), a shell script without its first line.
    pub fn hook(&self, name: &str, hook: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder(name).join("hooks").join(hook);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("the hooks' folder");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a hook");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            .expect("an executable hook");
    }

    /// Makes each push to the repository as slow as a forge that starts a program for each of its
    /// hooks: `pre-receive` and `post-receive` take [`HOOK`] each, and so does `update` for each ref.
    pub fn slow_hooks(&self, name: &str) {
        slow_hooks::install(&self.folder(name)).expect("the slow hooks");
    }

    /// The hooks that have run since they were made slow, each with the ref where it got one, as
    /// `update refs/heads/main`.
    pub fn hook_runs(&self, name: &str) -> Vec<String> {
        slow_hooks::runs(&self.folder(name))
    }

    /// Makes the repository refuse (and hide) all refs outside `refs/heads`.
    pub fn refuse_outside_heads(&self, name: &str) {
        let folder = self.folder(name);
        git(&folder, &["config", "--add", "transfer.hideRefs", "refs"]);
        git(&folder, &["config", "--add", "transfer.hideRefs", "!refs/heads"]);
    }

    /// Runs git in a repository; what it printed, trimmed.
    pub fn git(&self, name: &str, args: &[&str]) -> String {
        git(&self.folder(name), args)
    }

    /// Where a ref (its full name) is.
    pub fn find_ref(&self, name: &str, full_name: &str) -> Option<String> {
        try_git(&self.folder(name), &["rev-parse", "--verify", "--quiet", full_name]).ok()
    }

    /// The subjects of a branch's commits, newest first.
    pub fn log(&self, name: &str, branch: &str) -> Vec<String> {
        let log = self.git(name, &["log", "--format=%s", &format!("refs/heads/{branch}")]);
        log.lines().map(str::to_owned).collect()
    }

    /// Changes how the server answers from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        *locked(&self.shared.behaviour) = behaviour;
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.requests.seen()
    }

    /// How many of them were pushes.
    pub fn pushes(&self) -> usize {
        self.seen().iter().filter(|request| request.is_push()).count()
    }

    /// Forgets the requests so far.
    pub fn forget_seen(&self) {
        self.shared.requests.forget();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let under_way = shared.requests.begin(&request);
    under_way.until_sent(respond(&shared, request).await)
}

async fn respond(shared: &Shared, request: Request) -> Response {
    let target = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    let login = request.headers().get(header::AUTHORIZATION);
    let behaviour = locked(&shared.behaviour).clone();
    let pushing = request.method() == Method::POST && target.ends_with("/git-receive-pack");
    match behaviour {
        Behaviour::Status(status) => {
            return StatusCode::from_u16(status).expect("an HTTP status").into_response();
        }
        Behaviour::Hang => std::future::pending().await,
        Behaviour::HangAtPush if pushing => std::future::pending().await,
        Behaviour::Redirect(origin) => {
            let to = format!("{origin}{target}");
            return (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, to)]).into_response();
        }
        Behaviour::Serve | Behaviour::LoseAnswer | Behaviour::HangAtPush => {}
    }
    let expected = basic_login(USER, TOKEN);
    if login.is_none_or(|login| login.as_bytes() != expected.as_bytes()) {
        let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"git\"")];
        return (StatusCode::UNAUTHORIZED, challenge).into_response();
    }
    let variables = [("GIT_COMMITTER_NAME", OsStr::new(&shared.pusher))];
    match cgi::run(&shared.root, request, &variables).await {
        Ok(response) if pushing && behaviour == Behaviour::LoseAnswer => lose(response).await,
        Ok(response) => response,
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response(),
    }
}

/// Lets the answer run to its end, so that the push is applied, and breaks off before its first
/// byte.
async fn lose(response: Response) -> Response {
    let (parts, body) = response.into_parts();
    // Its content does not matter, and that it failed is what the test is about.
    let _ = axum::body::to_bytes(body, usize::MAX).await;
    let broken = futures_util::stream::once(async {
        Err::<Vec<u8>, _>(std::io::Error::other("the answer is lost"))
    });
    Response::from_parts(parts, Body::from_stream(broken))
}
