//! Protection from scale-in, with a real HTTP server in place of the ECS agent.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Json, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::put;
use rdev_domain::ports::{Queue, ReceivedMessage};
use rdev_domain::result::Outcome;
use rdev_domain::task::TaskState;
use rdev_runner::Protection;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::build::outcomes::{appears, wait_script};
use crate::world::World;

/// How the ECS agent answers a request for protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Grants,
    Refuses,
    Fails,
}

/// A server with the API of the ECS agent.
struct EcsAgent {
    uri: String,
    state: Arc<ServerState>,
    server: JoinHandle<std::io::Result<()>>,
}

struct ServerState {
    reply: Mutex<Reply>,
    /// The requests: whether each asked for protection or ended it.
    requests: Mutex<Vec<bool>>,
}

async fn respond(State(agent): State<Arc<ServerState>>, Json(body): Json<Value>) -> Response {
    let enabled = body["ProtectionEnabled"].as_bool().expect("the requested state");
    if enabled {
        let minutes = body["ExpiresInMinutes"].as_u64().expect("the duration");
        assert!((1..=2880).contains(&minutes), "ECS does not accept {minutes} minutes");
    }
    agent.requests.lock().expect("no panics").push(enabled);
    let reply = *agent.reply.lock().expect("no panics");
    match reply {
        _ if !enabled => {
            Json(json!({"protection": {"ProtectionEnabled": false, "TaskArn": "arn"}}))
                .into_response()
        }
        Reply::Grants => Json(json!({"protection": {
            "ProtectionEnabled": true, "ExpirationDate": "2030-01-01T00:00:00Z", "TaskArn": "arn",
        }}))
        .into_response(),
        Reply::Refuses => Json(json!({"failure": {
            "Arn": "arn", "Detail": null, "Reason": "DEPLOYMENT_BLOCKED",
        }}))
        .into_response(),
        Reply::Fails => (StatusCode::BAD_GATEWAY, "no ECS").into_response(),
    }
}

impl EcsAgent {
    async fn start(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let uri = format!("http://{}/api/one", listener.local_addr().expect("an address"));
        let state = Arc::new(ServerState { reply: Mutex::new(reply), requests: Mutex::default() });
        let router = Router::new()
            .route("/api/one/task-protection/v1/state", put(respond))
            .with_state(Arc::clone(&state));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        // The program does it in `main`; here the first test does.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { uri, state, server }
    }

    fn protection(&self) -> Protection {
        Protection::ecs(&self.uri).expect("a URL")
    }

    fn set_reply(&self, reply: Reply) {
        *self.state.reply.lock().expect("no panics") = reply;
    }

    fn requests(&self) -> Vec<bool> {
        self.state.requests.lock().expect("no panics").clone()
    }

    async fn until_requests(&self, what: &str, condition: impl Fn(&[bool]) -> bool) {
        let end = Instant::now() + Duration::from_secs(600);
        while !condition(&self.requests()) {
            assert!(Instant::now() < end, "never {what}: {:?}", self.requests());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_is_protected_before_it_claims_and_until_its_last_slot_is_free() {
    let agent = EcsAgent::start(Reply::Grants).await;
    let mut world = World::new();
    world.protection = agent.protection();
    let (one, two) =
        (world.project("one", &[("a", "1\n")]).await, world.project("two", &[("a", "1\n")]).await);
    let running = world.run();
    let file = |name: &str| world.data.path().join(name);
    let builds = [
        world.build(&one, &wait_script("echo 2 > a", &file("begun1"), &file("go1"))).await,
        world.build(&two, &wait_script("echo 2 > a", &file("begun2"), &file("go2"))).await,
    ];
    appears(&file("begun1")).await;
    appears(&file("begun2")).await;
    assert_eq!(agent.requests(), [true], "one request for both builds");
    std::fs::write(file("go1"), "").expect("go");
    assert_eq!(world.succeeded(builds[0]).await.outcome, Outcome::Delivered);
    assert_eq!(agent.requests(), [true], "the second one still runs");
    std::fs::write(file("go2"), "").expect("go");
    assert_eq!(world.succeeded(builds[1]).await.outcome, Outcome::Delivered);
    // The free slot has sent a wake-up, for which the runner requests protection once more.
    agent.until_requests("ended", |requests| requests.last() == Some(&false)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn protection_is_renewed_while_a_build_runs_and_a_failed_renewal_stops_nothing() {
    let agent = EcsAgent::start(Reply::Grants).await;
    let mut world = World::new();
    let Protection::Ecs { agent: uri, .. } = agent.protection() else { panic!("it is ECS") };
    world.protection = Protection::Ecs { agent: uri, renew_every: Duration::from_millis(20) };
    let site = world.project("site", &[("a", "1\n")]).await;
    let running = world.run();
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let id = world.build(&site, &wait_script("echo 2 > a", &begun, &go)).await;
    appears(&begun).await;
    let times = |requests: &[bool]| requests.iter().filter(|enabled| **enabled).count();
    agent.until_requests("renewed", |requests| times(requests) >= 3).await;
    agent.set_reply(Reply::Fails);
    let before = times(&agent.requests());
    agent.until_requests("repeated", |requests| times(requests) >= before + 3).await;
    std::fs::write(&go, "").expect("go");
    assert_eq!(world.succeeded(id).await.outcome, Outcome::Delivered);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_without_protection_claims_nothing_and_receives_again_only_with_it() {
    for reply in [Reply::Refuses, Reply::Fails] {
        let agent = EcsAgent::start(reply).await;
        let mut world = World::new();
        world.protection = agent.protection();
        let site = world.project("site", &[("a", "1\n")]).await;
        let running = world.run();
        let id = world.build(&site, "echo 2 > a").await;
        agent.until_requests("requested again", |requests| requests.len() >= 2).await;
        let record = world.task(id).await;
        assert_eq!((record.task.state, record.task.attempt), (TaskState::Queued, 0), "{reply:?}");
        // The wake-up went back to the queue, and this runner leaves it to others.
        let queue = &world.embedded.queue;
        let message = returned(&world).await;
        assert!(message.receive_count >= 2, "{reply:?}");
        agent.set_reply(Reply::Grants);
        queue.set_visibility(&message.receipt, Duration::ZERO).await.expect("put back");
        assert_eq!(world.succeeded(id).await.outcome, Outcome::Delivered);
        agent.until_requests("ended", |requests| requests.last() == Some(&false)).await;
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_whose_ecs_agent_is_unreachable_drains_like_any_other() {
    let agent = EcsAgent::start(Reply::Grants).await;
    agent.server.abort();
    let mut world = World::new();
    world.protection = agent.protection();
    let site = world.project("site", &[("a", "1\n")]).await;
    let running = world.run();
    let id = world.build(&site, "echo 2 > a").await;
    returned(&world).await;
    assert_eq!(world.task(id).await.task.state, TaskState::Queued);
    running.stop().await;
}

/// The wake-up that the runner has given back.
async fn returned(world: &World) -> ReceivedMessage {
    let end = Instant::now() + Duration::from_secs(600);
    loop {
        let message = world.embedded.queue.receive(Duration::from_secs(20)).await;
        match message.expect("a queue") {
            Some(message) if message.receive_count > 1 => return message,
            // This test was faster than the runner.
            Some(early) => {
                let queue = &world.embedded.queue;
                queue.set_visibility(&early.receipt, Duration::ZERO).await.expect("put back");
            }
            None => assert!(Instant::now() < end, "no wake-up came back"),
        }
    }
}
