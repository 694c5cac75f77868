//! Retention: what has expired goes with the sweep, and nothing else does.

use rdev_domain::failure::FailureClass;
use rdev_domain::ports::Record;
use rdev_domain::retention::Retention;
use rdev_domain::step::Event;
use rdev_domain::task::TaskState;

use super::cases;
use super::world::{ClaimedTask, DAY, HOUR, SECOND, World, not_found};

const FOR_EVER: Retention =
    Retention { builds_days: 0, tasks_days: 0, events_days: 0, audit_days: 0, idempotency_days: 0 };

const A_DAY: Retention =
    Retention { builds_days: 1, tasks_days: 1, events_days: 1, audit_days: 1, idempotency_days: 1 };

cases! {
    events_and_diffs_go_after_a_week_and_the_build_after_ninety_days;
    checks_go_after_a_week;
    what_has_not_ended_does_not_expire;
    the_audit_log_goes_after_four_hundred_days;
    zero_days_are_for_ever with FOR_EVER;
    what_expired_goes_in_batches with A_DAY;
    a_worker_that_was_not_heard_of_for_a_day_is_not_listed;
}

async fn events_and_diffs_go_after_a_week_and_the_build_after_ninety_days(w: World) {
    for state in [TaskState::Succeeded, TaskState::Failed] {
        let held = w.running().await;
        let end = match state {
            TaskState::Succeeded => held.finish(),
            _ => held.fail(FailureClass::Invalid),
        };
        logged_and_ended(&w, &held, end).await;
        w.pass(7 * DAY - HOUR);
        w.sweep().await;
        assert_eq!(log_of(&w, &held).await, (1, true));
        w.pass(HOUR + SECOND);
        w.sweep_what_expired().await;
        assert_eq!(log_of(&w, &held).await, (0, false));
        assert_eq!(w.state(held.id).await, state, "the record stays");

        w.pass(83 * DAY - HOUR);
        w.sweep().await;
        assert_eq!(w.state(held.id).await, state);
        w.pass(HOUR);
        w.sweep_what_expired().await;
        not_found(w.store.task(held.id).await);
        not_found(w.store.events(held.id, 0, 10).await);
        assert_eq!(w.all_tasks(held.project()).await, []);
        w.store.project(held.project()).await.expect("a project does not expire");
    }
}

async fn checks_go_after_a_week(w: World) {
    let project = w.project().await;
    let check = w.enqueue_task(w.new_check(&project)).await;
    let held = w.claim(&project).await;
    w.fail(&held, FailureClass::Invalid).await.expect("a holder may fail");
    w.pass(7 * DAY - HOUR);
    w.sweep().await;
    w.read(check.id).await;
    w.pass(HOUR + SECOND);
    w.sweep().await;
    not_found(w.store.task(check.id).await);
}

async fn what_has_not_ended_does_not_expire(w: World) {
    let running = w.running().await;
    logged(&w, &running).await;
    let unowned = w.pushing().await;
    w.release(&unowned).await.expect("a holder may release");
    let queued = w.enqueue(&w.project().await).await;
    w.pass(399 * DAY);
    w.renew(&running).await.expect("it was never recovered");
    w.sweep().await;
    assert_eq!(log_of(&w, &running).await.0, 1);
    assert_eq!(w.state(running.id).await, TaskState::Running);
    // Its project was never served.
    assert_eq!(w.claim(&queued.project_id).await.id, queued.id);
    assert_eq!(w.claim(unowned.project()).await.id, unowned.id);
    w.finish(&running).await.expect("a holder may finish");
    w.pass(89 * DAY);
    w.sweep().await;
    assert_eq!(w.state(running.id).await, TaskState::Succeeded, "counted from its end");
}

async fn the_audit_log_goes_after_four_hundred_days(w: World) {
    let project = w.project().await;
    w.pass(200 * DAY);
    w.set_limit(&project, 2).await;
    w.pass(200 * DAY - HOUR);
    w.sweep().await;
    assert_eq!(w.audit(&project).await.len(), 2);
    w.pass(HOUR + SECOND);
    w.sweep_what_expired().await;
    assert_eq!(w.audit(&project).await.len(), 1);
}

async fn zero_days_are_for_ever(w: World) {
    let held = w.running().await;
    logged_and_ended(&w, &held, held.finish()).await;
    let check = w.enqueue_task(w.new_check(held.project())).await;
    w.cancel(check.id).await.expect("a queued task can be cancelled");
    let before = w.audit(held.project()).await.len();
    w.pass(4000 * DAY);
    w.sweep().await;
    assert_eq!(log_of(&w, &held).await, (1, true));
    assert_eq!(w.state(check.id).await, TaskState::Cancelled);
    assert_eq!(w.audit(held.project()).await.len(), before);
}

async fn what_expired_goes_in_batches(w: World) {
    let project = w.project().await;
    let mut ended = Vec::new();
    for _ in 0..150 {
        let task = w.enqueue(&project).await;
        w.cancel(task.id).await.expect("a queued task can be cancelled");
        ended.push(task.id);
    }
    let kept = w.enqueue(&project).await;
    w.pass(DAY + SECOND);
    let mut pages = 0;
    let mut expired = 0;
    loop {
        let page = w.store.sweep(w.now()).await.expect("the store sweeps");
        w.store.delete_outbox(&page.outbox).await.expect("outbox entries can be deleted");
        assert!(page.expired <= 1000, "one page deletes {} records", page.expired);
        expired += page.expired;
        pages += 1;
        assert!(pages < 1000, "the sweep finds no end");
        if !page.more {
            break;
        }
    }
    assert!(!w.sweep_deletes || expired >= 150, "{expired} records expired");
    for id in ended {
        not_found(w.store.task(id).await);
    }
    assert_eq!(w.claim(&project).await.id, kept.id);
}

async fn a_worker_that_was_not_heard_of_for_a_day_is_not_listed(w: World) {
    let worker = rdev_domain::worker::Worker {
        id: "w1".parse().expect("a worker id"),
        hostname: "w1".to_owned(),
        version: "0.1.0".to_owned(),
        status: rdev_domain::worker::WorkerStatus::Idle,
        slots: 1,
        running: Vec::new(),
        agents: Vec::new(),
        started_at: w.now(),
        last_heartbeat_at: w.now(),
    };
    w.store.heartbeat(&worker, w.now()).await.expect("a report is accepted");
    w.pass(DAY - HOUR);
    w.sweep().await;
    assert_eq!(w.store.workers().await.expect("the workers").len(), 1);
    w.pass(2 * HOUR);
    w.sweep().await;
    assert_eq!(w.store.workers().await.expect("the workers"), []);
}

/// Writes one event.
async fn logged(w: &World, held: &ClaimedTask) {
    let event = [held.event(0, w.now())];
    w.renew_with(held, &event, None).await.expect("a holder may renew");
}

/// Writes one event, and a diff with the end of the task.
async fn logged_and_ended(w: &World, held: &ClaimedTask, end: Event) {
    logged(w, held).await;
    let record =
        Record { events: Vec::new(), diff: Some("a diff".to_owned()), ..Record::default() };
    w.advance(held.id, end, record, &held.by).await.expect("a holder may end its task");
}

/// How many events the task has, and whether it has a diff.
async fn log_of(w: &World, held: &ClaimedTask) -> (usize, bool) {
    let events = w.store.events(held.id, 0, 100).await.expect("the task's events").events;
    (events.len(), w.store.diff(held.id).await.expect("the task is there").is_some())
}
