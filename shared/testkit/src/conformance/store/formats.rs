//! Records that this version cannot run: those of an unknown type end as `poison`, and those of a
//! newer format are left alone.

use rdev_domain::failure::FailureClass;
use rdev_domain::ids::TaskId;
use rdev_domain::ports::Claim;
use rdev_domain::project::Deletion;
use rdev_domain::record::VERSION;
use rdev_domain::spec::Work;
use rdev_domain::step::Refusal;
use rdev_domain::task::{Task, TaskState};
use serde_json::{Value, json};

use super::cases;
use super::world::{Runner, World, key_actor, refusal};

cases! {
    a_task_of_an_unknown_type_fails_as_poison_and_keeps_its_type;
    a_held_task_of_an_unknown_type_fails_as_poison;
    a_task_of_a_newer_format_is_left_alone_and_blocks_nothing;
    a_held_task_of_a_newer_format_keeps_its_lease_after_its_end;
    a_start_leaves_a_task_of_a_newer_format_alone;
    a_task_of_a_newer_format_refuses_every_change;
}

/// Gives a task's record an unknown type.
async fn make_unknown(w: &World, id: TaskId) {
    let mut record = record(&w.read(id).await.task);
    record["type"] = json!("deploy");
    w.replace_record(id, "deploy", record.to_string()).await;
}

/// The record of `task` in a newer format: with the same fields, with an unknown type, and with
/// fields of which this version knows none.
fn newer(task: &Task) -> [(&'static str, String); 3] {
    let mut same = record(task);
    same["v"] = json!(VERSION + 1);
    let mut unknown = same.clone();
    unknown["type"] = json!("deploy");
    let other = json!({ "v": VERSION + 2, "what": { "is": "this" } });
    [("build", same.to_string()), ("deploy", unknown.to_string()), ("build", other.to_string())]
}

fn record(task: &Task) -> Value {
    serde_json::to_value(task).expect("a task can be written as JSON")
}

async fn is_poison(w: &World, id: TaskId) {
    let task = w.read(id).await.task;
    assert_eq!(task.state, TaskState::Failed);
    assert_eq!(task.failure.map(|failure| failure.class), Some(FailureClass::Poison));
    assert_eq!((task.work.kind(), task.finished_at), ("deploy", Some(w.now())));
    assert!(matches!(task.work, Work::Unreadable(_)), "it is not taken for another type");
}

async fn a_task_of_an_unknown_type_fails_as_poison_and_keeps_its_type(w: World) {
    let project = w.project().await;
    let unknown = w.enqueue_with_priority(&project, 9).await;
    let healthy = w.enqueue(&project).await;
    make_unknown(&w, unknown.id).await;
    let held = w.claim(&project).await;
    assert_eq!(held.id, healthy.id);
    w.finish(&held).await.expect("a holder may finish");
    w.nothing_to_claim(&project).await;
    is_poison(&w, unknown.id).await;
    let listed: Vec<_> = w.all_tasks(&project).await.iter().map(|r| r.task.id).collect();
    assert_eq!(listed, [healthy.id, unknown.id], "it is listed");
    assert_eq!(refusal(w.cancel(unknown.id).await), Refusal::Ended(TaskState::Failed));
}

async fn a_held_task_of_an_unknown_type_fails_as_poison(w: World) {
    let held = w.running().await;
    make_unknown(&w, held.id).await;
    w.let_leases_expire();
    assert_eq!(w.sweep().await.recovered, 1);
    is_poison(&w, held.id).await;
    assert_eq!(w.leases(held.project()).await, 0, "its slot is free");
}

async fn a_task_of_a_newer_format_is_left_alone_and_blocks_nothing(w: World) {
    let project = w.project_with_limit(10).await;
    let mut before = Vec::new();
    for number in 0..3 {
        let task = w.enqueue_with_priority(&project, 9).await;
        let (kind, body) = newer(&task)[number].clone();
        w.replace_record(task.id, kind, body).await;
        before.push(w.read(task.id).await);
        assert_eq!(
            (before[number].task.state, &before[number].task.failure),
            (TaskState::Queued, &None)
        );
        assert_eq!(before[number].task.work.kind(), kind);
    }
    let healthy = [w.enqueue(&project).await.id, w.enqueue(&project).await.id];
    let claimed = [w.claim(&project).await.id, w.claim(&project).await.id];
    assert_eq!(claimed, healthy);
    assert_eq!(w.try_claim(&project, &Runner::named("w1")).await, Claim::Unsuited);
    w.sweep().await;
    for record in &before {
        assert_eq!(&w.read(record.task.id).await, record);
    }
    assert_eq!(w.all_tasks(&project).await.len(), 5, "lists can be read, and show them");
    assert_eq!(w.store.work_stats(w.now()).await.expect("the stats").due, 3);
}

async fn a_held_task_of_a_newer_format_keeps_its_lease_after_its_end(w: World) {
    let project = w.project_with_limit(2).await;
    let [newer_one, dead] = <[_; 2]>::try_from(w.hold(&project, 2).await).expect("two tasks");
    let (kind, body) = newer(&w.read(newer_one.id).await.task)[0].clone();
    w.replace_record(newer_one.id, kind, body).await;
    let before = w.read(newer_one.id).await;
    w.enqueue_with_priority(&project, 0).await;
    w.let_leases_expire();
    let again = w.claim_as(&project, &Runner::named("w2")).await;
    assert_eq!(again.id, dead.id, "the other lease is recovered");
    assert_eq!(w.sweep().await.recovered, 0);
    assert_eq!(refusal(w.recover(newer_one.id).await), Refusal::NewerRecord);
    assert_eq!(w.try_claim(&project, &Runner::named("w3")).await, Claim::SlotsTaken);
    assert_eq!(w.read(newer_one.id).await, before);
}

async fn a_start_leaves_a_task_of_a_newer_format_alone(w: World) {
    let held = w.running().await;
    let (kind, body) = newer(&w.read(held.id).await.task)[2].clone();
    w.replace_record(held.id, kind, body).await;
    let before = w.read(held.id).await;
    let recovered = w.store.recover_all(w.now()).await;
    assert_eq!(recovered.is_ok(), w.recovers_all);
    assert_eq!(w.read(held.id).await, before);
}

async fn a_task_of_a_newer_format_refuses_every_change(w: World) {
    let project = w.project().await;
    let task = w.enqueue(&project).await;
    for (kind, body) in newer(&task) {
        w.replace_record(task.id, kind, body).await;
        let before = w.snapshot(task.id).await;
        assert_eq!(refusal(w.cancel(task.id).await), Refusal::NewerRecord);
        assert_eq!(w.snapshot(task.id).await, before);
        let deleted = w
            .store
            .begin_delete_project(&project, Deletion::KeepRepository, None, &key_actor(), w.now())
            .await;
        assert_eq!(refusal(deleted), Refusal::NewerRecord);
        assert_eq!(w.read(task.id).await.task.state, TaskState::Queued);
    }
}
