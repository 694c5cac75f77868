//! A whole API in a folder of its own, and shortcuts for requests to it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, StatusCode};
use rdev_domain::audit::Actor;
use rdev_domain::ids::{Owner, ProjectId, TaskId, WorkerId};
use rdev_domain::key::Scope;
use rdev_domain::lease::Holder;
use rdev_domain::ports::{Capabilities, Claim, Claimed, Record, Store};
use rdev_domain::spec::AgentName;
use rdev_domain::step::Event;
use rdev_domain::time::Timestamp;
use rdev_domain::worker::{Worker, WorkerStatus};
use rdev_embedded::{Embedded, Options};
use rdev_functions::http::key_text;
use rdev_functions::{Context, Settings, api};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

/// The worker as which tests act.
pub(crate) const WORKER: &str = "test-worker";

pub(crate) struct Fixture {
    pub(crate) context: Context,
    pub(crate) app: Router,
    pub(crate) embedded: Embedded,
    /// A key with the scope `admin`.
    pub(crate) admin: String,
    pub(crate) folder: TempDir,
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// `change` may put other ports or settings in.
    pub(crate) async fn with(change: impl FnOnce(&mut Context)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let embedded =
            rdev_embedded::open(folder.path(), Options::default()).expect("a new data folder");
        let mut context = Context {
            store: embedded.store.clone(),
            queue: embedded.queue.clone(),
            forge: embedded.forge.clone(),
            ci: None,
            dns: None,
            settings: Settings { rate_limit_per_s: 0, ..Settings::default() },
            metrics: None,
            on_cancel: None,
        };
        change(&mut context);
        let app = api(context.clone());
        let mut fixture = Self { context, app, embedded, admin: String::new(), folder };
        fixture.admin = fixture.key(&[Scope::Admin]).await;
        fixture
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.embedded.store
    }

    /// A new key with these scopes.
    pub(crate) async fn key(&self, scopes: &[Scope]) -> String {
        let (text, key) = key_text::generate("test", scopes.to_vec(), now(), None);
        let by = Actor::maintenance();
        self.store().create_key(&key, &by, now()).await.expect("a key");
        text.expose().to_owned()
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        send(&self.app, request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(request(Method::GET, path, Some(&self.admin), None)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.send(request(Method::DELETE, path, Some(&self.admin), None)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(request(Method::POST, path, Some(&self.admin), Some(body))).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Reply {
        self.send(request(Method::PATCH, path, Some(&self.admin), Some(body))).await
    }

    /// A POST with an `Idempotency-Key`.
    pub(crate) async fn post_once(&self, path: &str, key: &str, body: Value) -> Reply {
        self.send(keyed(path, &self.admin, key, body)).await
    }

    /// A project with a repository from the default template.
    pub(crate) async fn project(&self, name: &str) -> ProjectId {
        let reply = self.post("/projects", json!({ "name": name })).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
        name.parse().expect("a project's name")
    }

    /// A queued build.
    pub(crate) async fn build(&self, project: &ProjectId) -> TaskId {
        let reply =
            self.post(&format!("/projects/{project}/builds"), json!({ "prompt": "do it" })).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text());
        reply.task_id()
    }

    /// Takes the project's next task, as a runner does.
    pub(crate) async fn claim(&self, project: &ProjectId) -> (Claimed, Holder) {
        let worker: WorkerId = WORKER.parse().expect("a worker's id");
        let owner = Owner::new(&worker, "1");
        let can = Capabilities { worker_id: worker, agents: AgentName::ALL.to_vec() };
        match self.store().claim_next(project, &owner, &can, now()).await {
            Ok(Claim::Claimed(claimed)) => {
                let holder = Holder { fence: claimed.task.fence, owner };
                (*claimed, holder)
            }
            other => panic!("nothing to claim: {other:?}"),
        }
    }

    /// Applies an event, as a runner does.
    pub(crate) async fn advance(&self, task: TaskId, event: Event, record: Record) {
        let by = Actor::worker(WORKER.parse().expect("a worker's id"));
        self.store().advance(task, event, record, &by, now()).await.expect("the event applies");
    }

    /// Reports a worker, `ago` in the past.
    pub(crate) async fn heartbeat(&self, status: WorkerStatus, ago: Duration) {
        self.heartbeat_of(WORKER, status, ago).await;
    }

    pub(crate) async fn heartbeat_of(&self, id: &str, status: WorkerStatus, ago: Duration) {
        let at = now().minus(ago);
        let worker = Worker {
            id: id.parse().expect("a worker's id"),
            hostname: "host".to_owned(),
            version: "0.1.0".to_owned(),
            status,
            slots: 2,
            running: vec![],
            agents: vec![AgentName::Command, AgentName::Codex],
            started_at: at,
            last_heartbeat_at: at,
        };
        self.store().heartbeat(&worker, at).await.expect("a heartbeat");
    }

    /// Runs SQL in the store's file, past the store.
    pub(crate) fn sql(&self, file: &str, sql: &str) -> usize {
        let db = rusqlite::Connection::open(self.folder.path().join(file)).expect("the file");
        db.busy_timeout(Duration::from_secs(120)).expect("a time");
        db.execute(sql, []).expect(sql)
    }
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// The id of the task it tells of.
    pub(crate) fn task_id(&self) -> TaskId {
        self.json()["id"].as_str().expect("an id").parse().expect("a task's id")
    }

    /// Asserts that it is a problem of this status and code, as RFC 9457 has it.
    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["type"], "about:blank");
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
        problem
    }

    /// Asserts that exactly these fields broke rules.
    #[track_caller]
    pub(crate) fn assert_fields(&self, fields: &[&str]) {
        let problem = self.assert_problem(422, "invalid_request");
        let named: Vec<_> = problem["errors"]
            .as_array()
            .expect("errors")
            .iter()
            .map(|error| error["field"].as_str().expect("a field"))
            .collect();
        assert_eq!(named, fields, "{problem}");
    }
}

pub(crate) async fn send(app: &Router, request: Request<Body>) -> Reply {
    let response = app.clone().oneshot(request).await.expect("the router does not fail");
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a whole body").to_vec();
    Reply { status: parts.status, headers: parts.headers, body }
}

pub(crate) fn request(
    method: Method,
    path: &str,
    key: Option<&str>,
    body: Option<Value>,
) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(key) = key {
        request = request.header(AUTHORIZATION, format!("Bearer {key}"));
    }
    match body {
        Some(body) => request
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()))
            .expect("a request"),
        None => request.body(Body::empty()).expect("a request"),
    }
}

pub(crate) fn keyed(path: &str, key: &str, once: &str, body: Value) -> Request<Body> {
    let mut request = request(Method::POST, path, Some(key), Some(body));
    let once = once.parse().expect("a header's value");
    request.headers_mut().insert("idempotency-key", once);
    request
}

pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Waits until `holds`; fails after five minutes, which only what hangs takes.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(300);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not within five minutes: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The real forge, behind faults that a test chooses.
pub(crate) struct TestForge {
    pub(crate) inner: Arc<dyn rdev_domain::ports::Forge>,
    pub(crate) behaviour: std::sync::Mutex<ForgeBehaviour>,
    /// A repository is being made.
    pub(crate) entered: tokio::sync::Notify,
    /// Lets it be made.
    pub(crate) resume: tokio::sync::Notify,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum ForgeBehaviour {
    Works,
    /// Waits for `resume`, and then does what it is set to by then.
    Waits,
    Unavailable,
    /// It deletes no repositories: they are others' to delete.
    MayNotDelete,
    /// It creates no repositories at all.
    NotSupported,
    Fails,
    Panics,
}

impl TestForge {
    pub(crate) fn over(
        inner: Arc<dyn rdev_domain::ports::Forge>,
        behaviour: ForgeBehaviour,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner,
            behaviour: std::sync::Mutex::new(behaviour),
            entered: tokio::sync::Notify::new(),
            resume: tokio::sync::Notify::new(),
        })
    }

    pub(crate) fn set(&self, behaviour: ForgeBehaviour) {
        *self.behaviour.lock().expect("not poisoned") = behaviour;
    }

    fn behaviour(&self) -> ForgeBehaviour {
        *self.behaviour.lock().expect("not poisoned")
    }
}

#[async_trait::async_trait]
impl rdev_domain::ports::Forge for TestForge {
    async fn create_repository(
        &self,
        new: &rdev_domain::ports::NewRepository,
    ) -> rdev_domain::ports::PortResult<rdev_domain::ports::Repository> {
        use rdev_domain::ports::PortError;
        if let ForgeBehaviour::Waits = self.behaviour() {
            self.entered.notify_one();
            self.resume.notified().await;
        }
        match self.behaviour() {
            ForgeBehaviour::Works | ForgeBehaviour::Waits | ForgeBehaviour::MayNotDelete => {}
            ForgeBehaviour::Unavailable => {
                return Err(PortError::unavailable("the forge", "connection refused"));
            }
            ForgeBehaviour::NotSupported => {
                return Err(PortError::NotSupported { what: "a repository" });
            }
            ForgeBehaviour::Fails => {
                return Err(PortError::broken("the forge", "hunter2 is no password"));
            }
            ForgeBehaviour::Panics => panic!("a defect, on purpose"),
        }
        self.inner.create_repository(new).await
    }

    async fn delete_repository(
        &self,
        of: &rdev_domain::ports::OwnRepository,
    ) -> rdev_domain::ports::PortResult<()> {
        use rdev_domain::ports::PortError;
        match self.behaviour() {
            ForgeBehaviour::Unavailable => {
                return Err(PortError::unavailable("the forge", "refused"));
            }
            ForgeBehaviour::MayNotDelete => {
                let what = "the forge (status 403: not the owner)".to_owned();
                return Err(PortError::Denied { what });
            }
            _ => {}
        }
        self.inner.delete_repository(of).await
    }

    async fn find_pull_request(
        &self,
        branches: &rdev_domain::ports::PullRequestBranches,
    ) -> rdev_domain::ports::PortResult<Option<rdev_domain::ports::FoundPullRequest>> {
        self.inner.find_pull_request(branches).await
    }

    async fn pull_request(
        &self,
        request: &rdev_domain::ports::PullRequest,
    ) -> rdev_domain::ports::PortResult<rdev_domain::ports::OpenedPullRequest> {
        self.inner.pull_request(request).await
    }

    async fn standing(
        &self,
        of: &rdev_domain::ports::PushTarget,
    ) -> rdev_domain::ports::PortResult<rdev_domain::ports::Standing> {
        self.inner.standing(of).await
    }

    fn shows_statuses(&self, repository: &rdev_domain::git_url::GitUrl) -> bool {
        self.inner.shows_statuses(repository)
    }

    async fn set_status(
        &self,
        status: &rdev_domain::ports::CommitStatus,
    ) -> rdev_domain::ports::PortResult<()> {
        self.inner.set_status(status).await
    }
}

/// A fixture whose forge behaves so.
pub(crate) async fn with_forge(behaviour: ForgeBehaviour) -> (Fixture, Arc<TestForge>) {
    let mut forge = None;
    let fixture = Fixture::with(|context| {
        let test = TestForge::over(context.forge.clone(), behaviour);
        context.forge = test.clone();
        forge = Some(test);
    })
    .await;
    (fixture, forge.expect("it was put in"))
}
