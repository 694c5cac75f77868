//! Webhooks that go out.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use rdev_domain::audit::Actor;
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::ports::{Record, Store};
use rdev_domain::project::{Deletion, Project};
use rdev_domain::secret::Secret;
use rdev_domain::spec::{BuildSpec, Work};
use rdev_domain::step::Event;
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use rdev_domain::webhook::Webhook;
use rdev_platform::webhooks::Sender;
use serde_json::{Value, json};
use tempfile::TempDir;
use ulid::Ulid;

use crate::support::{PATIENCE, Server, configure};

rdev_testkit::trials! {
    async the_end_of_a_build_is_told_signed_and_again_until_it_is_taken;
    async a_failed_and_a_cancelled_build_are_told_too_and_gone_ends_it;
    async a_message_outlives_the_server;
    async the_webhook_of_a_later_project_is_told_nothing_of_an_earlier_one;
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Somebody who listens, and answers with the statuses it is given, 204 after those.
#[derive(Clone, Default)]
struct Receiver {
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    answers: Arc<Mutex<Vec<u16>>>,
}

impl Receiver {
    async fn start(answers: &[u16]) -> (Self, String) {
        let receiver = Self::default();
        *receiver.answers.lock().expect("unpoisoned") = answers.iter().rev().copied().collect();
        let take = |State(own): State<Self>, headers: HeaderMap, body: Bytes| async move {
            own.got.lock().expect("unpoisoned").push((headers, body));
            let status = own.answers.lock().expect("unpoisoned").pop().unwrap_or(204);
            StatusCode::from_u16(status).expect("a status")
        };
        let app = Router::new().fallback(take).with_state(receiver.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("its address"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        (receiver, url)
    }

    fn got(&self) -> Vec<(HeaderMap, Bytes)> {
        self.got.lock().expect("unpoisoned").clone()
    }

    async fn until(&self, count: usize) -> Vec<(HeaderMap, Bytes)> {
        let end = Instant::now() + PATIENCE;
        while self.got().len() < count {
            assert!(Instant::now() < end, "only {} messages came", self.got().len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.got()
    }
}

async fn up(more: &str) -> (TempDir, Server) {
    let data = tempfile::tempdir().expect("a data folder");
    configure(data.path(), more);
    let server = Server::start(data.path(), &[]).await;
    (data, server)
}

async fn deliveries(server: &Server) -> Vec<Value> {
    let list = server.get("/projects/site/deliveries").await.body;
    list["items"].as_array().expect("a list").clone()
}

async fn the_end_of_a_build_is_told_signed_and_again_until_it_is_taken() {
    let (data, server) = up("[api]\nwebhooks_to_private_addresses = true\n").await;
    let (receiver, url) = Receiver::start(&[500]).await;
    let body = json!({ "name": "site", "webhook_url": url, "webhook_secret": SECRET });
    let made = server.post("/project", body).await;
    assert_eq!((made.status, &made.body["webhook_url"]), (201, &json!(url)), "{made:?}");
    let task = server.build("site", json!({ "prompt": "echo x > x" })).await;
    let record = server.ended("site", &task).await;

    let got = receiver.until(2).await;
    let text = |at: usize, name: &str| got[at].0[name].to_str().expect("text").to_owned();
    assert_eq!(text(0, "webhook-id"), text(1, "webhook-id"), "the same message");
    for (headers, body) in &got {
        let key = standardwebhooks::Webhook::new(SECRET).expect("a key");
        key.verify(body, headers).expect("signed as Standard Webhooks has it");
        let told: Value = serde_json::from_slice(body).expect("JSON");
        assert_eq!(told["type"], "build.succeeded", "{told:#}");
        assert_eq!(told["data"]["task_id"], task, "{told:#}");
        assert_eq!(told["data"]["commit_sha"], record["result"]["commit_sha"], "{told:#}");
    }
    let end = Instant::now() + PATIENCE;
    let told = loop {
        let all = deliveries(&server).await;
        if all[0]["state"] == "delivered" {
            break all;
        }
        assert!(Instant::now() < end, "{all:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["tries"], &told[0]["status"]), (&json!(2), &json!(204)), "{told:?}");

    // Without the webhook nobody is told, and its secret was never shown.
    let gone = server.patch("/projects/site", json!({ "webhook_url": "" })).await;
    assert_eq!((gone.status, &gone.body["webhook_url"]), (200, &Value::Null), "{gone:?}");
    let task = server.build("site", json!({ "prompt": "echo y > y" })).await;
    server.ended("site", &task).await;
    assert_eq!(deliveries(&server).await.len(), 1);
    let audit = server.get("/audit").await.body.to_string();
    let log = std::fs::read_to_string(data.path().join("up.log")).expect("a log");
    for shown in [&audit, &log, &made.body.to_string()] {
        assert!(!shown.contains(SECRET), "the secret is shown");
    }
}

async fn a_failed_and_a_cancelled_build_are_told_too_and_gone_ends_it() {
    let (_data, server) = up("[api]\nwebhooks_to_private_addresses = true\n").await;
    let (receiver, url) = Receiver::start(&[410]).await;
    let body = json!({ "name": "site", "webhook_url": url, "webhook_secret": SECRET });
    assert_eq!(server.post("/project", body).await.status, 201);
    let failing = json!({ "prompt": "exit 1", "max_attempts": 1 });
    let task = server.build("site", failing).await;
    server.ended("site", &task).await;
    receiver.until(1).await;
    let waiting = json!({ "prompt": "sleep 600" });
    let (first, second) =
        (server.build("site", waiting.clone()).await, server.build("site", waiting).await);
    server.until("site", &first, |state| state == "running").await;
    for task in [&second, &first] {
        let path = format!("/projects/site/builds/{task}/cancel");
        assert!(server.post(&path, json!({})).await.status < 300);
    }
    let got = receiver.until(3).await;
    let kinds: Vec<String> = got
        .iter()
        .map(|(_, body)| {
            let told: Value = serde_json::from_slice(body).expect("JSON");
            told["type"].as_str().expect("a type").to_owned()
        })
        .collect();
    assert_eq!(kinds, ["build.failed", "build.cancelled", "build.cancelled"]);
    let all = deliveries(&server).await;
    let first = all.last().expect("the oldest");
    assert_eq!((&first["state"], &first["status"]), (&json!("failed"), &json!(410)), "{all:?}");
}

async fn a_message_outlives_the_server() {
    let data = tempfile::tempdir().expect("a data folder");
    configure(data.path(), "[api]\nwebhooks_to_private_addresses = true\n");
    let server = Server::start(data.path(), &[]).await;
    // A port that nobody listens on yet.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    drop(listener);
    let body = json!({
        "name": "site", "webhook_url": format!("http://{address}/"), "webhook_secret": SECRET,
    });
    assert_eq!(server.post("/project", body).await.status, 201);
    let task = server.build("site", json!({ "prompt": "echo x > x" })).await;
    server.ended("site", &task).await;
    let before = deliveries(&server).await;
    assert_eq!(before.len(), 1, "{before:?}");
    assert_eq!(before[0]["task_id"], task);
    server.kill();

    let server = Server::start(data.path(), &[]).await;
    let end = Instant::now() + PATIENCE;
    loop {
        let all = deliveries(&server).await;
        assert_eq!(all.len(), 1, "{all:?}");
        if all[0]["tries"].as_u64() >= Some(1) && all[0]["error"].is_string() {
            assert_eq!(all[0]["state"], "pending", "{all:?}");
            assert!(all[0]["next_at"].is_string(), "{all:?}");
            break;
        }
        assert!(Instant::now() < end, "{all:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A project with a webhook, and a build of it that ends cancelled and is to be told.
async fn project_and_end(store: &dyn Store, url: &str, now: Timestamp) -> (Project, TaskId) {
    let by = Actor::maintenance();
    let project = Project::new("site".parse().expect("a slug"), Ulid::generate(), now);
    store.create_project(&project, &by, now).await.expect("the name is free");
    let url = url.parse().expect("a URL");
    let webhook = Webhook { url, secret: Secret::new(SECRET.to_owned()) };
    store.set_webhook(&project.id, Some(&webhook), &by, now).await.expect("a webhook");
    let id = TaskId(Ulid::generate());
    let task = Task::new(id, project.id.clone(), Work::Build(BuildSpec::of("do it")), now);
    let task = Task { project_nonce: project.nonce, notify: true, ..task };
    store.enqueue(&task, &by, now).await.expect("it is queued");
    store.advance(id, Event::Cancel, Record::default(), &by, now).await.expect("it is queued");
    (project, id)
}

async fn delete(store: &dyn Store, id: &ProjectId, now: Timestamp) {
    let (by, keep) = (Actor::maintenance(), Deletion::KeepRepository);
    store.begin_delete_project(id, keep, None, &by, now).await.expect("nothing runs");
    store.forget_project(id, None, &by, now).await.expect("it is deleting");
}

async fn the_webhook_of_a_later_project_is_told_nothing_of_an_earlier_one() {
    let data = tempfile::tempdir().expect("a data folder");
    let data = rdev_embedded::open(data.path(), rdev_embedded::Options::default()).expect("opened");
    let store = &*data.store;
    let sender = Sender::new(true, None).expect("a sender");
    // The earlier project's delivery was not tried yet, or was refused once.
    for refused_once in [false, true] {
        let (earlier, earlier_url) = Receiver::start(&[500]).await;
        let (later, later_url) = Receiver::start(&[]).await;
        let mut now: Timestamp = SystemTime::now().into();
        let (project, _) = project_and_end(store, &earlier_url, now).await;
        if refused_once {
            assert_eq!(sender.send_due(store, || now).await.expect("sent"), 1);
        }
        assert_eq!(earlier.got().len(), usize::from(refused_once));
        delete(store, &project.id, now).await;
        let (project, task) = project_and_end(store, &later_url, now).await;

        // Long enough for each try that a delivery could have.
        for _ in 0..20 {
            now = now.plus(Duration::from_secs(24 * 60 * 60));
            sender.send_due(store, || now).await.expect("sent");
        }
        assert_eq!(store.due_deliveries(now, 100).await.expect("read"), []);
        assert_eq!(earlier.got().len(), usize::from(refused_once), "it is gone");
        let told: Vec<Value> = later
            .got()
            .iter()
            .map(|(_, body)| serde_json::from_slice(body).expect("JSON"))
            .collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0]["data"]["task_id"], task.to_string(), "{told:?}");
        delete(store, &project.id, now).await;
    }
}
