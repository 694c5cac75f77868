//! The raw queue, and the worker that empties it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{PATIENCE, Server, configure, git};

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_task_is_built_by_a_busy_worker_that_drains_when_asked() {
    let data = tempfile::tempdir().expect("a folder");
    configure(data.path(), "");
    let server = Server::start(data.path(), &[]).await;
    let repository = server.project("site", 1).await;
    let go = data.path().join("go");
    let script =
        format!("while [ ! -e {} ]; do sleep 0.02; done; echo raw > raw.txt", go.display());
    let order =
        json!({"project_id": "site", "type": "build", "priority": 9, "spec": {"prompt": script}});
    let answer = server.post("/work/enqueue", order).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let id = answer.body["id"].as_str().expect("an id").to_owned();

    until(&server, &format!("/work/{id}/status"), |status| status["state"] == "running").await;
    let workers =
        until(&server, "/workers", |workers| workers["items"][0]["status"] == "busy").await;
    let worker = &workers["items"][0];
    assert_eq!(worker["running"], json!([id]), "{workers:#}");
    let worker = worker["id"].as_str().expect("an id").to_owned();
    let ready = server.get("/ready").await;
    assert_eq!(ready.status, 200, "{ready:?}");

    let answer = server.post(&format!("/workers/{worker}/drain"), json!({})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body["status"], "draining");
    std::fs::write(&go, "").expect("go");
    until(&server, &format!("/work/{id}/status"), |status| status["state"] == "succeeded").await;
    let raw = server.get(&format!("/work/{id}")).await.body;
    let record = server.get(&format!("/projects/site/builds/{id}")).await.body;
    assert_eq!(raw["result"], record["result"]);
    assert_eq!(record["result"]["outcome"], "delivered", "{record:#}");
    assert_eq!(git(&repository, &["show", "main:raw.txt"]), "raw");
    let metrics = server.get("/metrics").await.body;
    let metrics = metrics.as_str().expect("text");
    assert!(metrics.contains("rdev_tasks_completed_total{outcome=\"delivered\"} 1"), "{metrics}");
    assert!(metrics.contains("rdev_phase_seconds_bucket{phase=\"push\""), "{metrics}");

    // Once it has heard of it, a draining worker takes nothing, until it is resumed.
    until(&server, &format!("/workers/{worker}"), |worker| {
        worker["status"] == "draining" && worker["running"] == json!([])
    })
    .await;
    let waiting = server.build("site", json!({"prompt": "echo later > later.txt"})).await;
    // Its wake-up lies there and is not received.
    until(&server, "/work/stats", |stats| stats["wake_ups"]["visible"] == 1).await;
    assert_eq!(server.get(&format!("/work/{waiting}/status")).await.body["state"], "queued");
    server.post(&format!("/workers/{worker}/resume"), json!({})).await;
    let record = server.ended("site", &waiting).await;
    assert_eq!(record["result"]["outcome"], "delivered", "{record:#}");
    server.stop().await;
}

async fn until(server: &Server, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = server.get(path).await;
        if wanted(&answer.body) {
            return answer.body;
        }
        assert!(Instant::now() < end, "{path} stayed as it was: {answer:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
