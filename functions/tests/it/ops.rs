//! Health, readiness, metrics.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::ConnectInfo;
use http::Method;
use rdev_domain::key::Scope;
use rdev_domain::worker::WorkerStatus;
use serde_json::json;

use crate::support::{Fixture, request};

#[tokio::test]
async fn health_needs_nothing() {
    let fixture = Fixture::new().await;
    let reply = fixture.send(request(Method::GET, "/health", None, None)).await;
    assert_eq!(reply.json()["status"], "ok", "{}", reply.text());
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    assert_eq!(reply.header("x-request-id").len(), 26);
    let head = fixture.send(request(Method::HEAD, "/health", None, None)).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}

#[tokio::test]
async fn readiness_looks_at_store_queue_and_workers() {
    let fixture = Fixture::new().await;
    let call = || fixture.send(request(Method::GET, "/ready", None, None));
    let none = call().await.assert_problem(503, "not_ready");
    assert_eq!(
        none["checks"],
        json!({ "store": "ok", "queue": "ok",
            "runner": { "status": "offline", "last_heartbeat_age_ms": null } })
    );
    fixture.heartbeat_of("old", WorkerStatus::Idle, Duration::from_secs(91)).await;
    let old = call().await.assert_problem(503, "not_ready");
    assert!(old["checks"]["runner"]["last_heartbeat_age_ms"].as_u64() >= Some(91_000), "{old}");
    fixture.heartbeat_of("young", WorkerStatus::Busy, Duration::from_secs(60)).await;
    let ready = call().await;
    assert_eq!(ready.status, 200, "{}", ready.text());
    assert_eq!(ready.json()["checks"]["runner"]["status"], "busy");
    let age = ready.json()["checks"]["runner"]["last_heartbeat_age_ms"].as_u64().expect("an age");
    assert!((60_000..90_000).contains(&age), "{age}");
    fixture.heartbeat_of("quitter", WorkerStatus::Offline, Duration::ZERO).await;
    assert_eq!(call().await.json()["checks"]["runner"]["status"], "busy");

    fixture.sql("queue.db", "ALTER TABLE messages RENAME TO gone");
    let broken = call().await;
    assert_eq!(broken.assert_problem(503, "not_ready")["checks"]["queue"], "failing");
    assert_eq!(broken.header("retry-after"), "5");
}

#[tokio::test]
async fn metrics_are_for_this_machine_or_for_a_key() {
    let fixture = Fixture::new().await;
    let from = |peer: Option<&str>, forwarded: Option<&'static str>| {
        let mut request = request(Method::GET, "/metrics", None, None);
        if let Some(peer) = peer {
            let peer: SocketAddr = peer.parse().expect("an address");
            request.extensions_mut().insert(ConnectInfo(peer));
        }
        if let Some(name) = forwarded {
            request.headers_mut().insert(name, "203.0.113.9".parse().expect("a value"));
        }
        fixture.send(request)
    };
    for local in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "127.8.9.1:1"] {
        assert_eq!(from(Some(local), None).await.status, 200, "{local}");
    }
    from(None, None).await.assert_problem(401, "unauthorized");
    for remote in ["203.0.113.9:1", "10.0.0.1:1", "[2001:db8::1]:1"] {
        from(Some(remote), None).await.assert_problem(401, "unauthorized");
    }
    for name in ["forwarded", "x-forwarded-for", "x-real-ip"] {
        // A proxy on this machine asks for somebody else.
        from(Some("127.0.0.1:1"), Some(name)).await.assert_problem(401, "unauthorized");
    }
    let key = fixture.key(&[Scope::WorkersRead]).await;
    let reply = fixture.send(request(Method::GET, "/metrics", Some(&key), None)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let other = fixture.key(&[Scope::ProjectsRead]).await;
    let reply = fixture.send(request(Method::GET, "/metrics", Some(&other), None)).await;
    reply.assert_problem(403, "missing_scope");
}

// Metrics are recorded for this thread alone, so this test has only one.
#[tokio::test(flavor = "current_thread")]
async fn metrics_show_counters_and_the_state_of_the_store() {
    let recorder = rdev_functions::services::metrics::prometheus().build_recorder();
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let fixture = Fixture::with(|context| context.metrics = Some(handle)).await;
    let text = async || {
        let reply = fixture.get("/metrics").await;
        assert!(reply.header("content-type").starts_with("text/plain; version=0.0.4"));
        String::from_utf8(reply.body).expect("UTF-8")
    };
    let before = text().await;
    assert!(before.contains("\nrdev_tasks_enqueued_total 0\n"), "{before}");
    let project = fixture.project("site").await;
    for _ in 0..3 {
        fixture.build(&project).await;
    }
    fixture.claim(&project).await;
    fixture.heartbeat(WorkerStatus::Busy, Duration::ZERO).await;
    // What a runner in the same process counts.
    metrics::counter!("rdev_tasks_completed_total", "outcome" => "delivered").increment(1);
    metrics::histogram!("rdev_phase_seconds", "phase" => "agent").record(0.3);
    let after = text().await;
    for line in [
        "rdev_tasks_enqueued_total 3",
        "rdev_tasks_completed_total{outcome=\"delivered\"} 1",
        "# TYPE rdev_phase_seconds histogram",
        "rdev_phase_seconds_bucket{phase=\"agent\",le=\"0.1\"} 0",
        "rdev_phase_seconds_bucket{phase=\"agent\",le=\"0.5\"} 1",
        "# TYPE rdev_queue_depth gauge",
        "rdev_queue_depth{state=\"due\"} 2",
        "rdev_queue_depth{state=\"running\"} 1",
        "rdev_wake_ups{state=\"visible\"} 3",
        "rdev_workers{status=\"busy\"} 1",
        "rdev_workers{status=\"offline\"} 0",
        "rdev_dead_letters 0",
    ] {
        assert!(after.lines().any(|one| one == line), "{line} is not in\n{after}");
    }
}

// Metrics are recorded for this thread alone, so this test has only one.
#[tokio::test(flavor = "current_thread")]
async fn a_cancelled_task_is_counted_once_it_has_ended_and_no_worker_has_it() {
    let recorder = rdev_functions::services::metrics::prometheus().build_recorder();
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let cancelled = || {
        let text = handle.render();
        let line = "rdev_tasks_completed_total{outcome=\"cancelled\"} ";
        text.lines().find_map(|one| one.strip_prefix(line)).map(str::to_owned)
    };
    let running = fixture.build(&project).await;
    fixture.claim(&project).await;
    let cancel = async |task| fixture.post(&format!("/work/{task}/cancel"), json!({})).await;
    assert_eq!(cancel(running).await.status, 202);
    assert_eq!(cancelled(), None, "its runner counts its end");
    for n in 1..=3 {
        let queued = fixture.build(&project).await;
        assert_eq!(cancel(queued).await.status, 200);
        assert_eq!(cancelled(), Some(n.to_string()));
        assert_eq!(cancel(queued).await.status, 409);
    }
    assert_eq!(cancelled(), Some("3".to_owned()));
}
