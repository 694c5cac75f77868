//! Deliveries: the end of a task is delivery once, and one sender at a time tells it.

use rdev_domain::failure::FailureClass;
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::page::Page;
use rdev_domain::ports::Claim;
use rdev_domain::project::Deletion;
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;
use rdev_domain::webhook::{DeliveryState, KEPT, WebhookDelivery};

use super::cases;
use super::world::{
    ClaimedTask, HOUR, MINUTE, Runner, SECOND, World, key_actor, race, race_two, refusal,
};

cases! {
    the_end_of_a_task_is_delivered_once;
    the_end_of_a_cancelled_task_is_delivered_once;
    the_end_of_a_task_whose_holder_died_is_delivered_once;
    the_end_of_a_task_that_cannot_be_read_is_delivered_once;
    a_task_without_notify_has_no_delivery;
    a_task_that_has_not_ended_has_no_delivery;
    what_a_deleted_project_cancels_is_delivered;
    a_cancel_that_races_an_end_is_delivered_as_the_task_ended;
    deliveries_are_due_by_their_time_the_longest_due_first;
    due_deliveries_are_limited_to_the_requested_number;
    only_one_sender_gets_a_delivery;
    a_delivery_that_has_changed_is_not_overwritten;
    deliveries_are_listed_newest_first_in_pages;
    deliveries_that_ended_go_after_a_month_and_others_stay;
}

async fn the_end_of_a_task_is_delivered_once(w: World) {
    for (event, class) in [
        ("build.succeeded", None),
        ("build.failed", Some(FailureClass::Invalid)),
        ("build.failed", Some(FailureClass::VerifyFailed)),
    ] {
        let held = running(&w).await;
        w.pass(MINUTE);
        assert_eq!(of(&w, held.project()).await, []);
        let end = class.map_or_else(|| held.finish(), |class| held.fail(class));
        w.write(&held, end.clone()).await.expect("a holder may end its task");
        let delivery = only_delivery(&w, held.project(), held.id, event).await;
        w.pass(MINUTE);
        refusal(w.write(&held, end).await);
        assert_eq!(of(&w, held.project()).await, [delivery]);
    }
    let held = running(&w).await;
    w.prepare(&held).await.expect("a holder may prepare");
    w.pass(MINUTE);
    assert_eq!(of(&w, held.project()).await, []);
    w.complete(&held).await.expect("the holder completes");
    only_delivery(&w, held.project(), held.id, "build.succeeded").await;
}

async fn the_end_of_a_cancelled_task_is_delivered_once(w: World) {
    let project = w.project().await;
    let queued = enqueue(&w, &project).await;
    w.cancel(queued.id).await.expect("a queued task can be cancelled");
    only_delivery(&w, &project, queued.id, "build.cancelled").await;
    refusal(w.cancel(queued.id).await);
    assert_eq!(of(&w, &project).await.len(), 1);

    let held = running(&w).await;
    w.cancel(held.id).await.expect("a running task can be cancelled");
    assert_eq!(of(&w, held.project()).await, [], "it has not ended");
    w.pass(SECOND);
    w.finish(&held).await.expect("it is cancelled instead");
    only_delivery(&w, held.project(), held.id, "build.cancelled").await;
}

async fn the_end_of_a_task_whose_holder_died_is_delivered_once(w: World) {
    for cancelled in [false, true] {
        let project = w.project().await;
        w.enqueue_task(Task { max_attempts: 1, ..new_task(&w, &project) }).await;
        let held = w.claim(&project).await;
        if cancelled {
            w.cancel(held.id).await.expect("a running task can be cancelled");
        }
        w.let_leases_expire();
        assert_eq!(w.sweep().await.recovered, 1);
        let event = if cancelled { "build.cancelled" } else { "build.failed" };
        let delivery = only_delivery(&w, &project, held.id, event).await;
        w.pass(MINUTE);
        w.sweep().await;
        refusal(w.finish(&held).await);
        assert_eq!(of(&w, &project).await, [delivery]);
    }
}

async fn the_end_of_a_task_that_cannot_be_read_is_delivered_once(w: World) {
    // Found by a claim, by a cancel, and by the sweep.
    let project = w.project().await;
    let task = enqueue(&w, &project).await;
    w.corrupt(task.id).await;
    assert_eq!(w.try_claim(&project, &Runner::named("w1")).await, Claim::Nothing);
    only_delivery(&w, &project, task.id, "build.failed").await;

    let project = w.project().await;
    let task = enqueue(&w, &project).await;
    w.corrupt(task.id).await;
    refusal(w.cancel(task.id).await);
    only_delivery(&w, &project, task.id, "build.failed").await;
    refusal(w.cancel(task.id).await);
    assert_eq!(of(&w, &project).await.len(), 1);

    let held = running(&w).await;
    w.corrupt(held.id).await;
    w.let_leases_expire();
    w.sweep().await;
    only_delivery(&w, held.project(), held.id, "build.failed").await;

    let project = w.project().await;
    let quiet = w.enqueue(&project).await;
    w.corrupt(quiet.id).await;
    w.nothing_to_claim(&project).await;
    assert_eq!(w.state(quiet.id).await, TaskState::Failed);
    assert_eq!(of(&w, &project).await, [], "it has no webhook to deliver to");
}

async fn a_task_without_notify_has_no_delivery(w: World) {
    let held = w.running().await;
    w.finish(&held).await.expect("a holder may finish");
    let queued = w.enqueue(held.project()).await;
    w.cancel(queued.id).await.expect("a queued task can be cancelled");
    assert_eq!(of(&w, held.project()).await, []);
    assert_eq!(due(&w, w.now(), 100).await, []);
}

async fn a_task_that_has_not_ended_has_no_delivery(w: World) {
    let held = running(&w).await;
    w.release(&held).await.expect("a holder may release");
    let held = w.claim(held.project()).await;
    w.fail(&held, FailureClass::Infra).await.expect("a holder may fail");
    assert_eq!(w.state(held.id).await, TaskState::Queued, "it is tried again");
    w.pass(HOUR);
    let held = w.claim(held.project()).await;
    w.fail(&held, FailureClass::Quota).await.expect("a holder may park");
    assert_eq!(of(&w, held.project()).await, []);
}

async fn what_a_deleted_project_cancels_is_delivered(w: World) {
    let project = w.project().await;
    let mut tasks = Vec::new();
    for _ in 0..3 {
        tasks.push(enqueue(&w, &project).await.id);
    }
    w.enqueue(&project).await;
    for _ in 0..2 {
        let deleting = w
            .store
            .begin_delete_project(&project, Deletion::KeepRepository, None, &key_actor(), w.now())
            .await;
        deleting.expect("nothing runs");
    }
    let deliveries = of(&w, &project).await;
    assert!(
        deliveries.iter().all(|delivery| delivery.event == "build.cancelled"),
        "{deliveries:?}"
    );
    let mut of_tasks: Vec<_> = deliveries.iter().map(|delivery| delivery.task_id).collect();
    of_tasks.sort();
    assert_eq!(of_tasks, tasks);
    w.store
        .forget_project(&project, None, &key_actor(), w.now())
        .await
        .expect("it is being deleted");
    assert_eq!(due(&w, w.now(), 100).await.len(), 3, "their sender finds no webhook");
}

async fn a_cancel_that_races_an_end_is_delivered_as_the_task_ended(w: World) {
    for round in 0..10 {
        let held = running(&w).await;
        let (one, ending) = (w.clone(), held.clone());
        let (other, id) = (w.clone(), held.id);
        race_two(async move { one.finish(&ending).await }, async move { other.cancel(id).await })
            .await
            .0
            .expect("a holder may finish, or is cancelled");
        let event = match w.state(held.id).await {
            TaskState::Succeeded => "build.succeeded",
            TaskState::Cancelled => "build.cancelled",
            other => panic!("round {round}: {other:?}"),
        };
        only_delivery(&w, held.project(), held.id, event).await;
    }
}

async fn deliveries_are_due_by_their_time_the_longest_due_first(w: World) {
    let mut deliveries = Vec::new();
    for _ in 0..4 {
        w.pass(SECOND);
        deliveries.push(new_delivery(&w).await);
    }
    let early = deliveries[0].created_at.minus(SECOND);
    assert_eq!(due(&w, early, 100).await, [], "none is due yet");
    assert_eq!(due(&w, deliveries[1].created_at, 100).await, deliveries[..2]);
    assert_eq!(due(&w, w.now(), 100).await, deliveries);

    // The first is tried, and is due again after the others.
    let begun = deliveries[0].begun(w.now());
    replace(&w, &deliveries[0], &begun).await;
    assert_eq!(due(&w, w.now(), 100).await, deliveries[1..]);
    let failed = begun.ended(Some(500), None, w.now());
    replace(&w, &begun, &failed).await;
    let next_at = failed.next_at.expect("it is tried again");
    assert_eq!(due(&w, next_at.minus(SECOND), 100).await, deliveries[1..]);
    let last = [&deliveries[1..], std::slice::from_ref(&failed)].concat();
    assert_eq!(due(&w, next_at, 100).await, last);

    // What has ended is never due.
    let delivered = deliveries[1].begun(w.now()).ended(Some(204), None, w.now());
    replace(&w, &deliveries[1], &delivered).await;
    replace(&w, &deliveries[2], &deliveries[2].dropped("the webhook was removed", w.now())).await;
    assert_eq!(due(&w, w.now().plus(KEPT), 100).await, [deliveries[3].clone(), failed]);
}

async fn due_deliveries_are_limited_to_the_requested_number(w: World) {
    let mut deliveries = Vec::new();
    for _ in 0..7 {
        w.pass(SECOND);
        deliveries.push(new_delivery(&w).await);
    }
    for limit in [1, 2, 7, 100] {
        let first = &deliveries[..deliveries.len().min(limit as usize)];
        assert_eq!(due(&w, w.now(), limit).await, first, "of {limit}");
    }
}

async fn only_one_sender_gets_a_delivery(w: World) {
    for round in 0..10 {
        let delivery = new_delivery(&w).await;
        // They do it in the same millisecond, in the same words.
        let begun = delivery.begun(w.now());
        let took = race(6, |_| {
            let (w, delivery, begun) = (w.clone(), delivery.clone(), begun.clone());
            async move { w.store.update_delivery(&delivery, &begun).await.expect("an answer") }
        });
        let took = took.await.into_iter().filter(|took| *took).count();
        assert_eq!(took, 1, "round {round}");
        assert_eq!(of(&w, &delivery.project_id).await, [begun]);
    }
}

async fn a_delivery_that_has_changed_is_not_overwritten(w: World) {
    let delivery = new_delivery(&w).await;
    let begun = delivery.begun(w.now());
    replace(&w, &delivery, &begun).await;
    w.pass(SECOND);
    for stale in [delivery.clone(), WebhookDelivery { tries: 7, ..begun.clone() }] {
        let dropped = stale.dropped("the receiver is gone", w.now());
        let replaced = w.store.update_delivery(&stale, &dropped).await;
        assert!(!replaced.expect("an answer"), "it is not as {stale:?}");
        assert_eq!(of(&w, &delivery.project_id).await, std::slice::from_ref(&begun));
    }
    let unknown = WebhookDelivery { id: w.ulid(), ..begun.clone() };
    let replaced = w.store.update_delivery(&unknown, &unknown.begun(w.now())).await;
    assert!(!replaced.expect("an answer"), "there is no such delivery");
    assert_eq!(of(&w, &delivery.project_id).await, [begun]);
}

async fn deliveries_are_listed_newest_first_in_pages(w: World) {
    let (mine, other) = (w.project().await, w.project().await);
    let mut expected = Vec::new();
    for _ in 0..5 {
        for project in [&mine, &other] {
            w.pass(SECOND);
            let task = enqueue(&w, project).await;
            w.cancel(task.id).await.expect("a queued task can be cancelled");
            if project == &mine {
                expected.insert(0, task.id);
            }
        }
    }
    for limit in [1, 2, 5, 100] {
        let mut page = Page { limit, before: None };
        let mut listed = Vec::new();
        loop {
            let part = w.store.deliveries(&mine, &page).await.expect("a page");
            assert!(part.items.len() <= limit as usize);
            listed.extend(part.items.into_iter().map(|delivery| delivery.task_id));
            match part.next {
                Some(next) => page.before = Some(next),
                None => break,
            }
        }
        assert_eq!(listed, expected, "in pages of {limit}");
    }
}

async fn deliveries_that_ended_go_after_a_month_and_others_stay(w: World) {
    let project = w.project().await;
    let mut deliveries = Vec::new();
    for _ in 0..3 {
        let task = enqueue(&w, &project).await;
        w.cancel(task.id).await.expect("a queued task can be cancelled");
        w.pass(MINUTE);
    }
    deliveries.extend(of(&w, &project).await);
    let delivered = deliveries[0].begun(w.now()).ended(Some(200), None, w.now());
    replace(&w, &deliveries[0], &delivered).await;
    let tried = deliveries[1].begun(w.now());
    replace(&w, &deliveries[1], &tried).await;
    w.pass(KEPT - HOUR);
    w.sweep().await;
    let kept = [delivered, tried.clone(), deliveries[2].clone()];
    assert_eq!(of(&w, &project).await, kept);
    let failed = deliveries[2].dropped("the receiver is gone", w.now());
    replace(&w, &deliveries[2], &failed).await;

    w.pass(HOUR + SECOND);
    w.sweep_what_expired().await;
    assert_eq!(of(&w, &project).await, [tried.clone(), failed], "counted from its end");
    w.pass(KEPT);
    w.sweep_what_expired().await;
    assert_eq!(of(&w, &project).await, std::slice::from_ref(&tried));
    assert_eq!(due(&w, w.now(), 100).await, [tried]);
}

fn new_task(w: &World, project: &ProjectId) -> Task {
    Task { notify: true, ..w.new_task(project) }
}

/// A build whose end is to be delivery.
async fn enqueue(w: &World, project: &ProjectId) -> Task {
    w.enqueue_task(new_task(w, project)).await
}

/// A new project whose only task runs, and is delivery of when it ends.
async fn running(w: &World) -> ClaimedTask {
    let project = w.project().await;
    enqueue(w, &project).await;
    w.claim(&project).await
}

/// A delivery of a project of its own, not tried yet.
async fn new_delivery(w: &World) -> WebhookDelivery {
    let project = w.project().await;
    let task = enqueue(w, &project).await;
    w.cancel(task.id).await.expect("a queued task can be cancelled");
    only_delivery(w, &project, task.id, "build.cancelled").await
}

/// The one delivery of the project, just written.
async fn only_delivery(
    w: &World,
    project: &ProjectId,
    task_id: TaskId,
    event: &str,
) -> WebhookDelivery {
    let mut deliveries = of(w, project).await;
    assert_eq!(deliveries.len(), 1, "{event}: {deliveries:?}");
    let deliveries = deliveries.remove(0);
    let expected = WebhookDelivery {
        id: deliveries.id,
        project_id: project.clone(),
        project_nonce: w.nonce(project),
        task_id,
        event: event.to_owned(),
        state: DeliveryState::Pending,
        tries: 0,
        next_at: Some(w.now()),
        status: None,
        error: None,
        created_at: w.now(),
        updated_at: w.now(),
    };
    assert_eq!(deliveries, expected);
    deliveries
}

/// The newest deliveries of a project.
async fn of(w: &World, project: &ProjectId) -> Vec<WebhookDelivery> {
    let page = Page { limit: 100, before: None };
    w.store.deliveries(project, &page).await.expect("a page").items
}

async fn due(w: &World, now: Timestamp, limit: u32) -> Vec<WebhookDelivery> {
    w.store.due_deliveries(now, limit).await.expect("an answer")
}

async fn replace(w: &World, before: &WebhookDelivery, after: &WebhookDelivery) {
    let replaced = w.store.update_delivery(before, after).await.expect("an answer");
    assert!(replaced, "it is as {before:?}");
}
