//! Records that this version cannot run: those of an unknown type end as `poison`, and those of a
//! newer format are left alone. An old program and a new one work on the same records.

use rdev_domain::failure::FailureClass;
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::ports::{Claim, PortResult};
use rdev_domain::project::{Deletion, Project, ProjectState};
use rdev_domain::record::{Format, VERSION};
use rdev_domain::spec::Work;
use rdev_domain::step::Refusal;
use rdev_domain::task::{Task, TaskState};
use serde_json::{Value, json};

use super::cases;
use super::world::{HOUR, MINUTE, Runner, SECOND, World, key_actor, refusal};

cases! {
    a_task_of_an_unknown_type_fails_as_poison_and_keeps_its_type;
    a_held_task_of_an_unknown_type_fails_as_poison;
    a_task_of_a_newer_format_is_left_alone_and_blocks_nothing;
    a_held_task_of_a_newer_format_keeps_its_lease_after_its_end;
    a_start_leaves_a_task_of_a_newer_format_alone;
    a_task_of_a_newer_format_refuses_every_change;
    a_deletion_that_meets_a_task_of_a_newer_format_changes_nothing;
    an_old_program_beside_a_new_one_does_what_it_can_and_leaves_the_rest;
    what_a_new_program_writes_about_a_task_that_an_old_one_holds_ends_by_the_new_one;
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
    let claim = w.try_claim(&project, &Runner::named("w1")).await;
    assert!(matches!(claim, Claim::Unsuited { .. }), "{claim:?}");
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
        assert_eq!(refusal(begin_delete(&w, &project).await), Refusal::NewerRecord);
        assert_eq!(w.snapshot(task.id).await, before);
    }
}

/// The store as the next version of rdev sees it.
fn next_version(w: &World) -> World {
    w.of_format(Format::of(VERSION + 1))
}

async fn begin_delete(w: &World, id: &ProjectId) -> PortResult<Project> {
    let keep = Deletion::KeepRepository;
    w.store.begin_delete_project(id, keep, None, &key_actor(), w.now()).await
}

async fn a_deletion_that_meets_a_task_of_a_newer_format_changes_nothing(w: World) {
    let new = next_version(&w);
    for later in [false, true] {
        let project = w.project().await;
        let mut left = Vec::new();
        for _ in 0..3 {
            left.push(w.enqueue(&project).await.id);
        }
        let available_at = if later { w.now().plus(HOUR) } else { w.now() };
        let newer = new.enqueue_task(Task { available_at, ..w.new_task(&project) }).await;
        left.push(newer.id);
        let before = w.audit(&project).await;
        assert_eq!(refusal(begin_delete(&w, &project).await), Refusal::NewerRecord);
        assert_eq!(w.audit(&project).await, before);
        let there = w.store.project(&project).await.expect("the project is there");
        assert_eq!((there.state, there.deletion), (ProjectState::Ready, None), "it stays open");
        left.push(w.enqueue(&project).await.id);
        for &id in &left {
            assert_eq!(w.state(id).await, TaskState::Queued);
        }
        // The program that wrote it can cancel it.
        begin_delete(&new, &project).await.expect("nothing runs");
        for &id in &left {
            assert_eq!(w.state(id).await, TaskState::Cancelled);
        }
        w.store
            .forget_project(&project, None, &key_actor(), w.now())
            .await
            .expect("it is deleting");
    }
    // A task that has ended is in no way.
    let project = w.project().await;
    let ended = new.enqueue(&project).await;
    new.cancel(ended.id).await.expect("it is queued");
    begin_delete(&w, &project).await.expect("nothing is queued");
}

async fn an_old_program_beside_a_new_one_does_what_it_can_and_leaves_the_rest(old: World) {
    let new = next_version(&old);
    let project = old.project_with_limit(3).await;
    let newer = [new.enqueue_with_priority(&project, 9).await, new.enqueue(&project).await];
    let own = [old.enqueue(&project).await, old.enqueue_with_priority(&project, 0).await];
    let before = [old.read(newer[0].id).await, old.read(newer[1].id).await];
    assert!(matches!(before[0].task.work, Work::Unreadable(_)));
    assert_eq!(new.read(newer[0].id).await.task, newer[0], "it reads its own");

    // The old one does what it can, though the newer tasks come first.
    let held = old.claim(&project).await;
    assert_eq!(held.id, own[0].id);
    old.finish(&held).await.expect("a holder may finish");
    let dead = old.claim_as(&project, &Runner::named("w2")).await;
    assert_eq!(dead.id, own[1].id);
    let claim = old.try_claim(&project, &Runner::named("w1")).await;
    assert!(matches!(claim, Claim::Unsuited { .. }), "{claim:?}");
    old.let_leases_expire();
    assert_eq!(old.sweep().await.recovered, 1, "its own dead holder's");
    assert_eq!(refusal(old.cancel(newer[0].id).await), Refusal::NewerRecord);
    assert_eq!([old.read(newer[0].id).await, old.read(newer[1].id).await], before);

    // A wake-up that the old one could do nothing with is sent again.
    old.pass(2 * MINUTE + SECOND);
    assert!(old.sweep().await.wake.iter().any(|wake_up| wake_up.project_id == project));

    // The new one does all of it, also what the old one has begun.
    let mut done = Vec::new();
    for _ in 0..3 {
        let held = new.claim_as(&project, &Runner::named("w3")).await;
        if done.len() == 2 {
            // It dies, and an old sweep leaves its lease to a new one.
            new.let_leases_expire();
            assert_eq!(old.sweep().await.recovered, 0);
            assert_eq!(new.sweep().await.recovered, 1);
            let again = new.claim_as(&project, &Runner::named("w4")).await;
            assert_eq!(again.id, held.id);
            new.prepare(&again).await.expect("a holder may prepare");
            new.complete(&again).await.expect("a holder may complete");
        } else {
            new.finish(&held).await.expect("a holder may finish");
        }
        done.push(held.id);
    }
    new.nothing_to_claim(&project).await;
    old.nothing_to_claim(&project).await;
    done.sort();
    let mut expected = [newer[0].id, newer[1].id, own[1].id];
    expected.sort();
    assert_eq!(done, expected);
    for record in old.all_tasks(&project).await {
        assert_eq!(record.task.state, TaskState::Succeeded);
        assert_eq!(record.lease, None);
    }
}

/// The old program can change the task no more, so it does not report its end. Nothing is lost: the
/// lease ends, and the new program decides.
async fn what_a_new_program_writes_about_a_task_that_an_old_one_holds_ends_by_the_new_one(
    old: World,
) {
    let new = next_version(&old);
    let held = old.running().await;
    new.cancel(held.id).await.expect("a running task can be cancelled");
    let renewal = old.renew(&held).await.expect("the lease is its own");
    assert!(renewal.cancel_requested, "it learns that it is to stop");
    assert_eq!(refusal(old.finish(&held).await), Refusal::NewerRecord);
    old.let_leases_expire();
    assert_eq!(old.sweep().await.recovered, 0);
    assert_eq!(old.try_claim(held.project(), &Runner::named("w2")).await, Claim::Nothing);
    assert_eq!(new.sweep().await.recovered, 1);
    assert_eq!(old.state(held.id).await, TaskState::Cancelled);
    assert_eq!(old.leases(held.project()).await, 0);
}
