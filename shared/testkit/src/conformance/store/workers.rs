//! Workers: heartbeats, the order to drain, silence.

use std::time::Duration;

use rdev_domain::ids::{TaskId, WorkerId};
use rdev_domain::spec::AgentName;
use rdev_domain::worker::{SILENT_AFTER, Worker, WorkerStatus};

use super::cases;
use super::world::{SECOND, World, key_actor, not_found};

cases! {
    a_worker_is_shown_as_it_last_reported;
    a_drained_worker_learns_it_at_its_next_heartbeat;
    a_silent_worker_is_offline_until_it_reports_again;
    workers_are_listed_by_id;
    an_unknown_worker_is_not_found;
    a_worker_is_offline_as_soon_as_it_has_been_silent_for_long_enough;
    a_drain_that_changes_nothing_is_not_recorded;
}

async fn a_worker_is_shown_as_it_last_reported(w: World) {
    let idle = worker(&w, "w1", WorkerStatus::Idle);
    assert!(!beat(&w, &idle).await, "it was not drained");
    assert_eq!(shown(&w, &idle.id).await, idle);
    w.pass(30 * SECOND);
    let busy = Worker { running: vec![TaskId(w.ulid())], ..worker(&w, "w1", WorkerStatus::Busy) };
    assert!(!beat(&w, &busy).await);
    assert_eq!(shown(&w, &busy.id).await, busy);
    let gone = worker(&w, "w1", WorkerStatus::Offline);
    assert!(!beat(&w, &gone).await);
    assert_eq!(shown(&w, &gone.id).await.status, WorkerStatus::Offline, "it said goodbye");
}

async fn a_drained_worker_learns_it_at_its_next_heartbeat(w: World) {
    let busy = worker(&w, "w1", WorkerStatus::Busy);
    beat(&w, &busy).await;
    let drained = w.store.set_drain(&busy.id, true, &key_actor(), w.now()).await;
    assert_eq!(drained.expect("it is there").status, WorkerStatus::Draining);
    for _ in 0..2 {
        w.pass(30 * SECOND);
        let report = worker(&w, "w1", WorkerStatus::Busy);
        assert!(beat(&w, &report).await, "it is to drain");
        assert_eq!(shown(&w, &busy.id).await.status, WorkerStatus::Draining);
    }
    w.store.set_drain(&busy.id, false, &key_actor(), w.now()).await.expect("it is there");
    let report = worker(&w, "w1", WorkerStatus::Idle);
    assert!(!beat(&w, &report).await, "it may take work again");
    assert_eq!(shown(&w, &busy.id).await, report);
}

async fn a_silent_worker_is_offline_until_it_reports_again(w: World) {
    beat(&w, &worker(&w, "silent", WorkerStatus::Busy)).await;
    w.pass(SILENT_AFTER / 2);
    beat(&w, &worker(&w, "lively", WorkerStatus::Idle)).await;
    w.pass(SILENT_AFTER / 2 - SECOND);
    assert_eq!(w.sweep().await.offline, 0);
    w.pass(2 * SECOND);
    assert_eq!(w.sweep().await.offline, 1);
    let silent = shown(&w, &"silent".parse().expect("a worker id")).await;
    assert_eq!(silent.status, WorkerStatus::Offline);
    assert_eq!(silent.last_heartbeat_at, w.now().minus(SILENT_AFTER + SECOND));
    let lively = shown(&w, &"lively".parse().expect("a worker id")).await;
    assert_eq!(lively.status, WorkerStatus::Idle);
    assert_eq!(w.sweep().await.offline, 0, "it is offline already");

    let back = worker(&w, "silent", WorkerStatus::Idle);
    beat(&w, &back).await;
    assert_eq!(shown(&w, &back.id).await, back);
}

async fn workers_are_listed_by_id(w: World) {
    assert_eq!(w.store.workers().await.expect("the workers"), []);
    for name in ["m", "a", "z"] {
        beat(&w, &worker(&w, name, WorkerStatus::Idle)).await;
    }
    let ids: Vec<_> = w
        .store
        .workers()
        .await
        .expect("the workers")
        .into_iter()
        .map(|w| w.id.to_string())
        .collect();
    assert_eq!(ids, ["a", "m", "z"]);
}

async fn an_unknown_worker_is_not_found(w: World) {
    let unknown = "nobody".parse().expect("a worker id");
    not_found(w.store.worker(&unknown).await);
    not_found(w.store.set_drain(&unknown, true, &key_actor(), w.now()).await);
}

async fn a_worker_is_offline_as_soon_as_it_has_been_silent_for_long_enough(w: World) {
    beat(&w, &worker(&w, "w1", WorkerStatus::Idle)).await;
    w.pass(SILENT_AFTER - Duration::from_millis(1));
    assert_eq!(w.sweep().await.offline, 0);
    w.pass(Duration::from_millis(1));
    assert_eq!(w.sweep().await.offline, 1);
}

async fn a_drain_that_changes_nothing_is_not_recorded(w: World) {
    let idle = worker(&w, "w1", WorkerStatus::Idle);
    beat(&w, &idle).await;
    for (drain, recorded) in [(false, 0), (true, 1), (true, 1), (false, 2), (false, 2)] {
        w.store.set_drain(&idle.id, drain, &key_actor(), w.now()).await.expect("the worker exists");
        assert_eq!(w.audit_log(None).await.len(), recorded, "drain: {drain}");
    }
}

fn worker(w: &World, id: &str, status: WorkerStatus) -> Worker {
    Worker {
        id: id.parse().expect("a worker id"),
        hostname: format!("{id}.example.com"),
        version: "0.1.0".to_owned(),
        status,
        slots: 2,
        running: Vec::new(),
        agents: vec![AgentName::Command, AgentName::Codex],
        started_at: w.now().minus(SECOND),
        last_heartbeat_at: w.now(),
    }
}

async fn beat(w: &World, worker: &Worker) -> bool {
    w.store.heartbeat(worker, w.now()).await.expect("a report is accepted")
}

async fn shown(w: &World, id: &WorkerId) -> Worker {
    w.store.worker(id).await.expect("it is there")
}
