//! Protection from scale-in, asked of a real HTTP server that plays the agent of ECS.

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

use crate::outcomes::{appears, wait_script};
use crate::world::World;

/// What the agent of ECS answers to whoever asks for protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Gives,
    Refuses,
    IsBroken,
}

/// An agent of ECS.
struct Agent {
    uri: String,
    shared: Arc<RunnerContext>,
    server: JoinHandle<std::io::Result<()>>,
}

struct RunnerContext {
    mood: Mutex<Mood>,
    /// What it was told: protected or not.
    told: Mutex<Vec<bool>>,
}

async fn state(State(agent): State<Arc<RunnerContext>>, Json(body): Json<Value>) -> Response {
    let on = body["ProtectionEnabled"].as_bool().expect("what is asked for");
    if on {
        let minutes = body["ExpiresInMinutes"].as_u64().expect("how long");
        assert!((1..=2880).contains(&minutes), "ECS takes no {minutes}");
    }
    agent.told.lock().expect("no panics").push(on);
    let mood = *agent.mood.lock().expect("no panics");
    match mood {
        _ if !on => Json(json!({"protection": {"ProtectionEnabled": false, "TaskArn": "arn"}}))
            .into_response(),
        Mood::Gives => Json(json!({"protection": {
            "ProtectionEnabled": true, "ExpirationDate": "2030-01-01T00:00:00Z", "TaskArn": "arn",
        }}))
        .into_response(),
        Mood::Refuses => Json(json!({"failure": {
            "Arn": "arn", "Detail": null, "Reason": "DEPLOYMENT_BLOCKED",
        }}))
        .into_response(),
        Mood::IsBroken => (StatusCode::BAD_GATEWAY, "no ECS").into_response(),
    }
}

impl Agent {
    async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let uri = format!("http://{}/api/one", listener.local_addr().expect("an address"));
        let shared = Arc::new(RunnerContext { mood: Mutex::new(mood), told: Mutex::default() });
        let router = Router::new()
            .route("/api/one/task-protection/v1/state", put(state))
            .with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        // The program does it in `main`; here the first test does.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { uri, shared, server }
    }

    fn protection(&self) -> Protection {
        Protection::ecs(&self.uri).expect("a URL")
    }

    fn becomes(&self, mood: Mood) {
        *self.shared.mood.lock().expect("no panics") = mood;
    }

    fn told(&self) -> Vec<bool> {
        self.shared.told.lock().expect("no panics").clone()
    }

    async fn until_told(&self, what: &str, wanted: impl Fn(&[bool]) -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !wanted(&self.told()) {
            assert!(Instant::now() < end, "never {what}: {:?}", self.told());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_is_protected_before_it_claims_and_until_its_last_slot_is_free() {
    let agent = Agent::start(Mood::Gives).await;
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
    assert_eq!(agent.told(), [true], "asked once for both");
    std::fs::write(file("go1"), "").expect("go");
    assert_eq!(world.succeeded(builds[0]).await.outcome, Outcome::Delivered);
    assert_eq!(agent.told(), [true], "the second one still runs");
    std::fs::write(file("go2"), "").expect("go");
    assert_eq!(world.succeeded(builds[1]).await.outcome, Outcome::Delivered);
    // The slot that became free has sent a wake-up, for which the runner asks once more.
    agent.until_told("given back", |told| told.last() == Some(&false)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn protection_is_renewed_while_a_build_runs_and_a_renewal_that_fails_stops_nothing() {
    let agent = Agent::start(Mood::Gives).await;
    let mut world = World::new();
    let Protection::Ecs { agent: uri, .. } = agent.protection() else { panic!("it is of ECS") };
    world.protection = Protection::Ecs { agent: uri, renew_every: Duration::from_millis(20) };
    let site = world.project("site", &[("a", "1\n")]).await;
    let running = world.run();
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let id = world.build(&site, &wait_script("echo 2 > a", &begun, &go)).await;
    appears(&begun).await;
    let times = |told: &[bool]| told.iter().filter(|on| **on).count();
    agent.until_told("renewed", |told| times(told) >= 3).await;
    agent.becomes(Mood::IsBroken);
    let before = times(&agent.told());
    agent.until_told("tried again", |told| times(told) >= before + 3).await;
    std::fs::write(&go, "").expect("go");
    assert_eq!(world.succeeded(id).await.outcome, Outcome::Delivered);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_without_protection_claims_nothing_and_receives_again_only_with_it() {
    for mood in [Mood::Refuses, Mood::IsBroken] {
        let agent = Agent::start(mood).await;
        let mut world = World::new();
        world.protection = agent.protection();
        let site = world.project("site", &[("a", "1\n")]).await;
        let running = world.run();
        let id = world.build(&site, "echo 2 > a").await;
        agent.until_told("asked for again", |told| told.len() >= 2).await;
        let record = world.task(id).await;
        assert_eq!((record.task.state, record.task.attempt), (TaskState::Queued, 0), "{mood:?}");
        // The wake-up went back for others, and this runner leaves it to them.
        let queue = &world.embedded.queue;
        let message = returned(&world).await;
        assert!(message.receive_count >= 2, "{mood:?}");
        agent.becomes(Mood::Gives);
        queue.set_visibility(&message.receipt, Duration::ZERO).await.expect("put back");
        assert_eq!(world.succeeded(id).await.outcome, Outcome::Delivered);
        agent.until_told("given back", |told| told.last() == Some(&false)).await;
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_whose_agent_of_ecs_is_gone_drains_as_any_other() {
    let agent = Agent::start(Mood::Gives).await;
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
    let end = Instant::now() + Duration::from_secs(60);
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
