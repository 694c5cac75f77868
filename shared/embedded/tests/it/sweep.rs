//! The sweep beyond the conformance suite: it works in pages, and leaves no expired row.

use std::sync::Arc;
use std::time::Duration;

use rdev_domain::audit::Actor;
use rdev_domain::event::{BuildEvent, EventKind};
use rdev_domain::ids::ProjectId;
use rdev_domain::lease::Holder;
use rdev_domain::pipeline::CommitPipeline;
use rdev_domain::ports::{PortError, Record, Store};
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::request::RequestKey;
use rdev_domain::result::{CheckResult, TaskResult, Usage};
use rdev_domain::spec::{CheckSpec, Work};
use rdev_domain::step::Event;
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::WakeUp;
use rdev_domain::worker::{Worker, WorkerStatus};
use rdev_embedded::SqliteStore;
use rusqlite::Connection;
use ulid::Ulid;

use crate::scene::{NOW, Scene, claim, create, enqueue, project, task};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn after(time: Duration) -> Timestamp {
    NOW.plus(time)
}

/// Counts the rows of `rdev.db` as another program would.
struct Rows(Connection);

impl Rows {
    fn of(scene: &Scene) -> Self {
        Self(Connection::open(scene.path("rdev.db")).expect("a second connection"))
    }

    fn count(&self, from: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {from}");
        self.0.query_row(&sql, [], |row| row.get(0)).expect("a count")
    }
}

/// Enqueues 501 tasks at once, which wait until `available_at`, and deletes their outbox entries.
async fn enqueue_many(store: &Arc<SqliteStore>, site: &ProjectId, available_at: Timestamp) {
    let mut enqueuers = Vec::new();
    for _ in 0..501 {
        let (store, task) = (store.clone(), Task { available_at, ..task(site) });
        enqueuers.push(tokio::spawn(async move {
            store.enqueue(&task, &Actor::maintenance(), NOW).await.expect("a queued task")
        }));
    }
    for enqueuer in enqueuers {
        let outbox = enqueuer.await.expect("no panic").outbox;
        store.delete_outbox(&outbox).await.expect("they were sent");
    }
}

#[tokio::test]
async fn a_sweep_promotes_five_hundred_tasks_in_a_page() {
    let scene = Scene::new();
    let store = scene.data.store.clone();
    let site = create(&*store, "site").await;
    enqueue_many(&store, &site, after(Duration::from_secs(60))).await;
    let rows = Rows::of(&scene);
    let now = after(Duration::from_secs(60));
    for (more, due, later) in [(true, 500, 1), (false, 501, 0)] {
        let page = store.sweep(now).await.expect("a page");
        let agent = task(&site).work.agent();
        let woken = vec![WakeUp { project_id: site.clone(), agent }];
        assert_eq!((page.outbox, page.more, page.wake), (vec![], more, woken));
        assert_eq!((rows.count("due"), rows.count("later")), (due, later));
    }
}

#[tokio::test]
async fn a_sweep_recovers_five_hundred_leases_in_a_page() {
    let scene = Scene::new();
    let store = scene.data.store.clone();
    let site = Project { build_limit: 501, ..project("site") };
    let site =
        store.create_project(&site, &Actor::maintenance(), NOW).await.expect("a new name").id;
    enqueue_many(&store, &site, NOW).await;
    let mut claimers = Vec::new();
    for _ in 0..501 {
        let (store, site) = (store.clone(), site.clone());
        claimers.push(tokio::spawn(async move { claim(&*store, &site).await }));
    }
    for claimer in claimers {
        claimer.await.expect("no panic");
    }
    let rows = Rows::of(&scene);
    let now = after(Duration::from_secs(3600));
    for (recovered, more, leases) in [(500, true, 1), (1, false, 0)] {
        let page = store.sweep(now).await.expect("a page");
        store.delete_outbox(&page.outbox).await.expect("they were sent");
        assert_eq!((page.recovered, page.more, rows.count("leases")), (recovered, more, leases));
    }
}

#[tokio::test]
async fn a_sweep_fails_five_hundred_stuck_projects_in_a_page() {
    let scene = Scene::new();
    let store = scene.data.store.clone();
    let mut creators = Vec::new();
    for number in 0..501 {
        let state = ProjectState::Provisioning;
        let stuck = Project { state, ..project(&format!("stuck-{number}")) };
        let store = store.clone();
        creators.push(tokio::spawn(async move {
            store.create_project(&stuck, &Actor::maintenance(), NOW).await.expect("a new name")
        }));
    }
    for creator in creators {
        creator.await.expect("no panic");
    }
    let rows = Rows::of(&scene);
    let now = after(Duration::from_secs(120));
    assert!(store.sweep(now).await.expect("a page").more);
    assert_eq!(rows.count("projects WHERE state = 'provisioning'"), 1);
    assert!(!store.sweep(now).await.expect("a page").more);
    assert_eq!(rows.count("projects WHERE state = 'provisioning_failed'"), 501);
}

#[tokio::test]
async fn a_sweep_deletes_five_thousand_events_in_a_page() {
    let scene = Scene::new();
    let store = &*scene.data.store;
    let site = create(store, "site").await;
    let (first, second) = (enqueue(store, &site).await, enqueue(store, &site).await);
    let by = Actor::maintenance();
    let rows = Rows::of(&scene);
    for (task, events) in [(&first, 3000), (&second, 2001)] {
        let cancel = store.advance(task.id, Event::Cancel, Record::default(), &by, NOW);
        cancel.await.expect("a queued task can be cancelled");
        let insert = "INSERT INTO events (task, seq, at, kind, data)
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
             SELECT ?1, i, 1, 'log', '{}' FROM n";
        rows.0.execute(insert, (task.id.0.to_bytes(), events)).expect("events");
    }
    let now = after(8 * DAY);
    let page = store.sweep(now).await.expect("a page");
    assert!(page.more);
    assert_eq!(rows.count("events"), 1);
    let page = store.sweep(now).await.expect("a page");
    assert_eq!((page.expired, page.more, rows.count("events")), (1, false, 0));
    let page = store.sweep(now).await.expect("a page");
    assert_eq!((page.expired, page.more), (0, false));
}

#[tokio::test]
async fn expired_records_leave_no_row_in_any_table() {
    let scene = Scene::new();
    let store = &*scene.data.store;
    let site = create(store, "site").await;
    finished_check(store, &site).await;
    let pipeline = CommitPipeline {
        project_id: site.clone(),
        commit: "0".repeat(40).parse().expect("a commit"),
        number: None,
        status: String::new(),
        url: None,
        at: NOW,
    };
    store.record_pipeline(&pipeline, NOW).await.expect("a pipeline");
    let key = RequestKey("a".to_owned());
    store.begin_request(&key, "body", Ulid::nil(), NOW).await.expect("a request");
    let worker = Worker {
        id: "w1".parse().expect("a worker id"),
        hostname: String::new(),
        version: String::new(),
        status: WorkerStatus::Idle,
        slots: 1,
        running: Vec::new(),
        agents: Vec::new(),
        started_at: NOW,
        last_heartbeat_at: NOW,
    };
    store.heartbeat(&worker, NOW).await.expect("a heartbeat");

    let rows = Rows::of(&scene);
    let expiring =
        ["tasks", "events", "diffs", "deliveries", "pipelines", "requests", "workers", "audit"];
    for table in expiring {
        assert!(rows.count(table) > 0, "{table} has a row");
    }
    let now = after(1000 * DAY);
    while store.sweep(now).await.expect("a page").more {}
    for table in expiring {
        assert_eq!(rows.count(table), 0, "{table}");
    }
    for table in ["due", "later", "leases"] {
        assert_eq!(rows.count(table), 0, "{table}");
    }
    assert_eq!(rows.count("projects"), 1, "a project does not expire");
}

#[tokio::test]
async fn an_expired_task_stays_hidden_from_a_caller_with_an_older_clock() {
    let scene = Scene::new();
    let store = &*scene.data.store;
    let site = create(store, "site").await;
    let check = finished_check(store, &site).await;
    store.task(check.id).await.expect("it has not expired");
    // Only these two name a time: no sweep deletes the task.
    store
        .begin_request(&RequestKey("a".to_owned()), "", Ulid::nil(), after(8 * DAY))
        .await
        .expect("ok");
    store.begin_request(&RequestKey("b".to_owned()), "", Ulid::nil(), NOW).await.expect("ok");
    let hidden = store.task(check.id).await;
    assert!(matches!(hidden, Err(PortError::NotFound { .. })), "{hidden:?}");
}

/// A finished check with an event, a diff, and a delivery that has ended.
async fn finished_check(store: &dyn Store, site: &ProjectId) -> Task {
    let work = CheckSpec { branch: None, commands: vec!["true".to_owned()], timeout_s: 9 };
    let check = Task { work: Work::Check(work), notify: true, ..task(site) };
    store.enqueue(&check, &Actor::maintenance(), NOW).await.expect("a queued task");
    let claimed = claim(store, site).await;
    let holder = Holder { fence: claimed.lease.fence, owner: claimed.lease.owner.clone() };
    let event = BuildEvent { seq: 1, at: NOW, kind: EventKind::Log, data: serde_json::json!({}) };
    let commit_sha = "0".repeat(40).parse().expect("a commit");
    let finish = Event::Finish {
        holder,
        result: TaskResult::Check(CheckResult { commit_sha, commands: Vec::new() }),
        usage: Usage::default(),
    };
    let record =
        Record { events: vec![event], diff: Some("a diff".to_owned()), ..Record::default() };
    let by = Actor::maintenance();
    store.advance(check.id, finish, record, &by, NOW).await.expect("a holder may finish");
    let due = store.due_deliveries(NOW, 10).await.expect("deliveries").remove(0);
    let ended = due.begun(NOW).ended(Some(200), None, NOW);
    assert!(store.update_delivery(&due, &ended).await.expect("an update"));
    check
}

#[tokio::test]
async fn a_task_whose_write_is_refused_stops_no_other_recovery() {
    let scene = Scene::new();
    let store = &*scene.data.store;
    let mut held = Vec::new();
    for number in 0..6 {
        let site = create(store, &format!("site-{number}")).await;
        enqueue(store, &site).await;
        held.push(claim(store, &site).await.task.id);
    }
    let rows = Rows::of(&scene);
    let first: String = held[0].0.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let refuse = format!(
        "CREATE TRIGGER refuse BEFORE UPDATE ON tasks WHEN OLD.id = x'{first}'
         BEGIN SELECT RAISE(ABORT, 'refused'); END"
    );
    rows.0.execute_batch(&refuse).expect("a trigger");
    let later = after(Duration::from_secs(3600));
    let swept = store.sweep(later).await.expect("a sweep");
    assert_eq!((swept.recovered, rows.count("leases"), rows.count("due")), (5, 1, 5));
    let outbox = store.recover_all(later).await.expect("a start");
    assert_eq!((outbox, rows.count("leases")), (vec![], 1), "nothing of the first is written");
    rows.0.execute_batch("DROP TRIGGER refuse").expect("no trigger");
    assert_eq!(store.sweep(later).await.expect("a sweep").recovered, 1);
}

#[tokio::test]
async fn records_that_cannot_be_read_stop_no_sweep_and_no_delivery() {
    let scene = Scene::new();
    let (store, by) = (&*scene.data.store, Actor::maintenance());
    for name in ["bad", "good"] {
        for (state, of) in
            [(ProjectState::Provisioning, "stuck"), (ProjectState::Deleting, "deleting")]
        {
            let project = Project { state, ..project(&format!("{name}-{of}")) };
            store.create_project(&project, &by, NOW).await.expect("a new name");
        }
        let site = create(store, name).await;
        enqueue(store, &site).await;
        finished_check(store, &create(store, &format!("{name}-told")).await).await;
    }
    let rows = Rows::of(&scene);
    for sql in [
        "UPDATE projects SET body = '?' WHERE id LIKE 'bad%'",
        "UPDATE deliveries SET next_at = 1, expires_at = NULL",
        "UPDATE deliveries SET body = '?' WHERE project = 'bad-told'",
        "INSERT INTO marks (send_at, id, project) VALUES (0, zeroblob(16), 'No Name')",
        "INSERT INTO due (project, agent, class, rank, task, since)
         VALUES ('A Name', '', 1, 4, zeroblob(16), 0)",
    ] {
        rows.0.execute(sql, []).expect("a change");
    }
    let swept = store.sweep(after(Duration::from_secs(3600))).await.expect("a sweep");
    let ids: Vec<_> = swept.deleting.iter().map(|project| project.id.as_str()).collect();
    assert_eq!(ids, ["good-deleting"]);
    assert_eq!(rows.count("projects WHERE state = 'provisioning_failed'"), 1);
    let woken: Vec<_> = swept.wake.iter().map(|one| one.project_id.as_str()).collect();
    assert_eq!(woken, ["good"]);
    assert_eq!(rows.count("marks WHERE send_at = 0"), 0, "it names no project");
    let due = store.due_deliveries(NOW, 1).await.expect("deliveries");
    let due: Vec<_> = due.iter().map(|delivery| delivery.project_id.as_str()).collect();
    assert_eq!(due, ["good-told"], "it does not wait behind the other");
}
