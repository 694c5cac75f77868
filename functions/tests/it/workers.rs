//! Workers and agents.

use std::time::Duration;

use rdev_domain::worker::WorkerStatus;
use serde_json::json;

use crate::support::{Fixture, WORKER};

#[tokio::test]
async fn a_worker_is_shown_drained_and_resumed() {
    let fixture = Fixture::new().await;
    fixture.heartbeat(WorkerStatus::Idle, Duration::ZERO).await;
    let path = format!("/workers/{WORKER}");
    let worker = fixture.get(&path).await.json();
    assert_eq!((&worker["status"], &worker["slots"]), (&json!("idle"), &json!(2)));
    assert_eq!(worker["agents"], json!(["command", "codex"]));
    assert_eq!(fixture.get("/workers").await.json()["items"], json!([worker]));
    let drained = fixture.post(&format!("{path}/drain"), json!({})).await;
    assert_eq!(drained.json()["status"], "draining", "{}", drained.text());
    assert_eq!(fixture.get(&path).await.json()["status"], "draining");
    let resumed = fixture.post(&format!("{path}/resume"), json!({})).await.json();
    assert_eq!(resumed["status"], "idle");
}

#[tokio::test]
async fn agents_are_listed_with_the_workers_that_offer_them() {
    let fixture = Fixture::new().await;
    fixture.heartbeat_of("b", WorkerStatus::Busy, Duration::ZERO).await;
    fixture.heartbeat_of("a", WorkerStatus::Idle, Duration::ZERO).await;
    fixture.heartbeat_of("gone", WorkerStatus::Offline, Duration::ZERO).await;
    let agents = fixture.get("/agents").await.json();
    assert_eq!(
        agents["items"],
        json!([
            { "name": "claude-code", "default": false, "workers": [] },
            { "name": "codex", "default": false, "workers": ["a", "b"] },
            { "name": "command", "default": true, "workers": ["a", "b"] },
            { "name": "opencode", "default": false, "workers": [] },
        ])
    );
}
