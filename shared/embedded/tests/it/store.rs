//! Properties of the store beyond the conformance suite.

use std::time::Duration;

use rdev_domain::audit::Actor;
use rdev_domain::ports::{PortError, Record, Store, TaskFilter};
use rdev_domain::project::Deletion;
use rdev_domain::secret::Secret;
use rdev_domain::step::{Event, Refusal};
use rdev_domain::task::TaskState;
use rdev_domain::webhook::Webhook;
use rdev_embedded::Options;
use rusqlite::Connection;

use crate::scene::{NOW, Scene, claim, create, enqueue, task};

#[tokio::test]
async fn a_database_that_another_program_has_locked_is_unavailable_and_then_works_again() {
    let busy_timeout = Duration::from_millis(20);
    let scene = Scene::with(Options { busy_timeout, ..Options::default() });
    let project = create(&*scene.data.store, "site").await;
    let other = Connection::open(scene.path("rdev.db")).expect("a second connection");
    other.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    let refused = scene.data.store.enqueue(&task(&project), &Actor::maintenance(), NOW).await;
    let error = refused.expect_err("it is locked");
    assert!(matches!(error, PortError::Unavailable { .. }) && error.is_transient(), "{error:?}");
    assert!(scene.data.store.ping().await.is_err());
    scene.data.store.project(&project).await.expect("reads still work");
    other.execute_batch("ROLLBACK").expect("the lock is free");
    enqueue(&*scene.data.store, &project).await;
    scene.data.store.ping().await.expect("it answers");
}

#[tokio::test]
async fn the_secret_of_a_webhook_is_deleted_with_it() {
    let scene = Scene::new();
    let (store, by) = (&*scene.data.store, Actor::maintenance());
    let secrets = Connection::open(scene.path("rdev.db")).expect("a second connection");
    let secrets = || -> Vec<String> {
        let mut all = secrets.prepare("SELECT secret FROM webhooks").expect("the table");
        let all = all.query_map([], |row| row.get(0)).and_then(Iterator::collect);
        all.expect("texts")
    };
    let project = create(store, "site").await;
    let url = "https://hooks.example.com/".parse().expect("a URL");
    let webhook = Webhook { url, secret: Secret::new("whsec_sesame") };
    store.set_webhook(&project, Some(&webhook), &by, NOW).await.expect("a webhook");
    assert_eq!(secrets(), ["whsec_sesame"]);
    store.set_webhook(&project, None, &by, NOW).await.expect("no webhook");
    assert_eq!(secrets(), [""; 0]);
    store.set_webhook(&project, Some(&webhook), &by, NOW).await.expect("a webhook");
    store
        .begin_delete_project(&project, Deletion::KeepRepository, None, &by, NOW)
        .await
        .expect("nothing runs");
    assert_eq!(secrets(), ["whsec_sesame"], "deliveries of ended tasks still need it");
    store.forget_project(&project, None, &by, NOW).await.expect("it is being deleted");
    assert_eq!(secrets(), [""; 0]);
}

#[tokio::test]
async fn a_corrupt_task_is_shown_and_an_event_ends_it() {
    let scene = Scene::new();
    let store = &*scene.data.store;
    let project = create(store, "site").await;
    let broken = enqueue(store, &project).await;
    let other = Connection::open(scene.path("rdev.db")).expect("a second connection");
    other.execute("UPDATE tasks SET body = '{\"id\": 7'", []).expect("a broken record");

    let shown = store.task(broken.id).await.expect("it can be looked at").task;
    assert_eq!((shown.id, shown.state), (broken.id, TaskState::Queued));
    assert_eq!(shown.created_at.as_millis().unsigned_abs(), broken.id.0.timestamp_ms());
    let by = Actor::maintenance();
    let cancel = store.advance(broken.id, Event::Cancel, Record::default(), &by, NOW);
    let refused = cancel.await.expect_err("it has ended");
    assert!(matches!(refused, PortError::Refused(Refusal::Ended(TaskState::Failed))));
    let shown = store.task(broken.id).await.expect("it can be looked at").task;
    assert_eq!((shown.state, shown.finished_at), (TaskState::Failed, Some(NOW)));
    let kept: String = other
        .query_row("SELECT unreadable FROM tasks", [], |row| row.get(0))
        .expect("the record as it was");
    assert_eq!(kept, "{\"id\": 7");
    let next = enqueue(store, &project).await;
    assert_eq!(claim(store, &project).await.task.id, next.id, "it blocks nothing");
}

#[tokio::test]
async fn a_project_with_thousands_of_queued_tasks_is_deleted_in_pages() {
    let scene = Scene::new();
    let store = scene.data.store.clone();
    let project = create(&*store, "site").await;
    let mut enqueuers = Vec::new();
    for _ in 0..1201 {
        let (store, project) = (store.clone(), project.clone());
        enqueuers.push(tokio::spawn(async move { enqueue(&*store, &project).await }));
    }
    for enqueuer in enqueuers {
        enqueuer.await.expect("no panic");
    }
    let by = Actor::maintenance();
    store
        .begin_delete_project(&project, Deletion::KeepRepository, None, &by, NOW)
        .await
        .expect("nothing runs");
    let stats = store.work_stats(NOW).await.expect("stats");
    assert_eq!((stats.due, stats.later), (0, 0));
    let filter = TaskFilter { state: Some(TaskState::Queued), ..TaskFilter::default() };
    let page = rdev_domain::page::Page { limit: 1, before: None };
    assert_eq!(store.tasks(&filter, &page).await.expect("a page").items, []);
}

#[tokio::test]
async fn the_audit_log_keeps_its_order_when_the_clock_goes_back() {
    let scene = Scene::new();
    let project = create(&*scene.data.store, "site").await;
    let by = Actor::maintenance();
    let ahead = NOW.plus(Duration::from_secs(3600));
    scene.data.store.enqueue(&task(&project), &by, ahead).await.expect("a queued task");
    let scene = scene.reopened();
    let last = task(&project);
    scene.data.store.enqueue(&last, &by, NOW).await.expect("a queued task");
    let page = rdev_domain::page::Page { limit: 1, before: None };
    let newest = scene.data.store.audit(&Default::default(), &page).await.expect("a page");
    assert_eq!(newest.items[0].subject, format!("task/{}", last.id));
}
