//! The raw queue: checks, statistics, dead letters.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use rdev_domain::audit::Actor;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::ids::TaskId;
use rdev_domain::outbox::{self, MAX_DELAY};
use rdev_domain::ports::{DeadLetter, Queue, Record};
use rdev_domain::spec::{CheckSpec, Work};
use rdev_domain::step::Event;
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use rdev_functions::services::maintenance;
use serde_json::{Value, json};
use ulid::Ulid;

use crate::builds::failed;
use crate::support::{Fixture, now};

#[tokio::test]
async fn a_check_is_queued_and_shown() {
    let fixture = Fixture::new().await;
    fixture.project("site").await;
    let body = json!({
        "project_id": "site", "type": "check", "priority": 0, "max_attempts": 10,
        "spec": { "commands": ["make test"], "branch": "dev", "timeout_s": 9 },
    });
    let mut with_null = body.clone();
    with_null["spec"]["timeout_s"] = Value::Null;
    let defaulted = fixture.post("/work/enqueue", with_null).await.json();
    assert_eq!(defaulted["spec"]["timeout_s"], 3600, "{defaulted}");
    let reply = fixture.post("/work/enqueue", body).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let task = reply.json();
    assert_eq!(task["type"], "check");
    assert_eq!(task["spec"], json!({ "commands": ["make test"], "branch": "dev", "timeout_s": 9 }));
    let id = reply.task_id();
    assert_eq!(reply.header("location"), format!("/work/{id}"));
    let status = fixture.get(&format!("/work/{id}/status")).await.json();
    assert_eq!(status["state"], "queued");
    assert_eq!(status["attempt"], 0);
    assert_eq!((&status["max_attempts"], &status["type"]), (&json!(10), &json!("check")));
    let builds = fixture.get("/projects/site/builds").await.json();
    assert_eq!(builds["items"], json!([]), "a check is no build");
}

#[tokio::test]
async fn statistics_count_queued_and_running_tasks() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    for _ in 0..3 {
        fixture.build(&project).await;
    }
    fixture.claim(&project).await;
    let stats = fixture.get("/work/stats").await.json();
    let counts =
        ["due", "later", "running", "pushing", "dead_letters"].map(|name| stats[name].clone());
    assert_eq!(counts, [2, 0, 1, 0, 0].map(|n| json!(n)), "{stats}");
    assert!(stats["oldest_due_ms"].is_u64(), "{stats}");
    assert_eq!(stats["wake_ups"]["visible"], 3, "{stats}");
}

async fn letter(fixture: &Fixture, project: Option<&str>) -> Ulid {
    let letter = DeadLetter {
        id: Ulid::generate(),
        at: now(),
        body: "{}".to_owned(),
        reason: if project.is_some() { "undelivered" } else { "garbage" }.to_owned(),
        project_id: project.map(|name| name.parse().expect("a name")),
        receive_count: 10,
    };
    fixture.store().record_dead_letter(&letter).await.expect("recorded");
    letter.id
}

async fn fail_one(fixture: &Fixture, project: &str) -> TaskId {
    let project = project.parse().expect("a name");
    let task = fixture.build(&project).await;
    let (claimed, holder) = fixture.claim(&project).await;
    assert_eq!(claimed.task.id, task);
    fixture.advance(task, failed(holder), Record::default()).await;
    task
}

async fn empty_queue(fixture: &Fixture) -> usize {
    let mut count = 0;
    while let Some(message) =
        fixture.embedded.queue.receive(Duration::ZERO).await.expect("the queue")
    {
        fixture.embedded.queue.delete(&message.receipt).await.expect("the queue");
        count += 1;
    }
    count
}

#[tokio::test]
async fn a_redrive_of_everything_wakes_projects_and_retries_failed_tasks_once() {
    let fixture = Fixture::new().await;
    for name in ["one", "two"] {
        fixture.project(name).await;
    }
    let failures = [fail_one(&fixture, "one").await, fail_one(&fixture, "two").await];
    let cancelled = fixture.build(&"one".parse().expect("a name")).await;
    fixture.post(&format!("/work/{cancelled}/cancel"), json!({})).await;
    letter(&fixture, Some("one")).await;
    letter(&fixture, Some("one")).await;
    letter(&fixture, Some("gone")).await;
    let garbage = letter(&fixture, None).await;
    let dead = fixture.get("/work/dead").await.json();
    assert_eq!(dead["items"].as_array().expect("items").len(), 4);
    let listed = dead["items"].as_array().expect("items");
    let listed = listed.iter().find(|one| one["id"] == garbage.to_string());
    assert_eq!(listed.expect("it is in the list")["reason"], "garbage");
    empty_queue(&fixture).await;

    let reply = fixture.post_once("/work/dead/redrive", "k", json!({})).await;
    let done = reply.json();
    assert_eq!((&done["woken"], &done["left"]), (&json!(2), &json!(2)), "{done}");
    assert_eq!(done["more"], false);
    let retried: Vec<TaskId> = serde_json::from_value(done["retried"].clone()).expect("ids");
    assert_eq!(retried.len(), 2);
    for new in &retried {
        let task = fixture.get(&format!("/work/{new}")).await.json();
        let of: TaskId = serde_json::from_value(task["retry_of"].clone()).expect("an id");
        assert!(failures.contains(&of));
        assert_eq!(task["lineage"], task["retry_of"]);
    }
    // One for the dead letters' project, one for each new task.
    assert_eq!(empty_queue(&fixture).await, 3);
    assert_eq!(fixture.get("/work/dead").await.json()["items"].as_array().expect("items").len(), 2);

    let again = fixture.post("/work/dead/redrive", json!({})).await.json();
    assert_eq!((&again["woken"], &again["retried"]), (&json!(0), &json!([])), "{again}");
    // A repeat after a crash names the same tasks and makes none.
    fixture.sql("rdev.db", "UPDATE requests SET answer = NULL, in_flight_until = 0");
    let repeat = fixture.post_once("/work/dead/redrive", "k", json!({})).await.json();
    assert_eq!(repeat["retried"], done["retried"]);
}

#[tokio::test]
async fn a_redrive_of_some_touches_only_those() {
    let fixture = Fixture::new().await;
    fixture.project("one").await;
    let (first, second) = (fail_one(&fixture, "one").await, fail_one(&fixture, "one").await);
    let ids = [letter(&fixture, Some("one")).await, letter(&fixture, Some("one")).await];
    let body = json!({ "dead_letter_ids": [ids[0], Ulid::generate()] });
    let done = fixture.post("/work/dead/redrive", body).await.json();
    assert_eq!((&done["woken"], &done["retried"]), (&json!(1), &json!([])), "{done}");
    let body = json!({ "task_ids": [second, second] });
    let done = fixture.post("/work/dead/redrive", body).await.json();
    assert_eq!(done["retried"].as_array().expect("ids").len(), 1, "{done}");
    let untouched = fixture.store().task(first).await.expect("a task").task;
    assert_eq!(untouched.retried_as, None);
    let dead = fixture.get("/work/dead").await.json();
    assert_eq!(dead["items"][0]["id"], ids[1].to_string());
}

#[tokio::test]
async fn a_redrive_of_a_task_that_was_retried_names_the_newest_and_changes_nothing() {
    let fixture = Fixture::new().await;
    fixture.project("one").await;
    let (old, other) = (fail_one(&fixture, "one").await, fail_one(&fixture, "one").await);
    let body = json!({ "task_ids": [old] });
    let done = fixture.post("/work/dead/redrive", body.clone()).await.json();
    let retry = done["retried"][0].as_str().expect("an id").to_owned();
    for body in [body, json!({ "task_ids": [other, old] })] {
        let refused = fixture.post("/work/dead/redrive", body).await;
        refused.assert_problem(409, "retried_already");
        let detail = refused.json()["detail"].as_str().expect("a detail").to_owned();
        assert!(detail.contains(&retry), "{detail}");
    }
    assert_eq!(fixture.store().task(other).await.expect("a task").task.retried_as, None);
}

#[tokio::test]
async fn two_redrives_at_once_retry_each_task_once() {
    let fixture = Fixture::new().await;
    fixture.project("one").await;
    let mut failed = Vec::new();
    for _ in 0..4 {
        failed.push(fail_one(&fixture, "one").await);
    }
    let redrive = || fixture.post("/work/dead/redrive", json!({}));
    let (one, two) = tokio::join!(redrive(), redrive());
    let mut retried = 0;
    for done in [one, two] {
        assert_eq!(done.status, 200, "{}", done.text());
        retried += done.json()["retried"].as_array().expect("ids").len();
    }
    assert_eq!(retried, failed.len());
    let listed = fixture.get("/work?state=queued").await.json();
    assert_eq!(listed["items"].as_array().expect("items").len(), failed.len(), "{listed}");
}

#[tokio::test]
async fn a_redrive_with_one_task_that_has_not_failed_changes_nothing() {
    let fixture = Fixture::new().await;
    let project = fixture.project("one").await;
    let bad = fail_one(&fixture, "one").await;
    let queued = fixture.build(&project).await;
    let id = letter(&fixture, Some("one")).await;
    let body = json!({ "task_ids": [bad, queued], "dead_letter_ids": [id] });
    fixture.post("/work/dead/redrive", body).await.assert_problem(409, "not_retryable");
    let body = json!({ "task_ids": [bad, "01JDGZ2V9QK8M3T5X7Y9ABCDEF"] });
    fixture.post("/work/dead/redrive", body).await.assert_problem(404, "not_found");
    let too_many = json!({ "task_ids": vec![bad; 1001] });
    fixture.post("/work/dead/redrive", too_many).await.assert_fields(&["task_ids"]);
    let no_ids = json!({ "dead_letter_ids": ["x"] });
    fixture.post("/work/dead/redrive", no_ids).await.assert_fields(&["dead_letter_ids[0]"]);
    assert_eq!(fixture.store().task(bad).await.expect("a task").task.retried_as, None);
    let dead: Value = fixture.get("/work/dead").await.json();
    assert_eq!(dead["items"].as_array().expect("items").len(), 1);
}

#[tokio::test]
async fn a_redrive_of_everything_leaves_a_poisoned_task_and_retries_the_others() {
    let fixture = Fixture::new().await;
    let project = fixture.project("one").await;
    let failures = [fail_one(&fixture, "one").await, fail_one(&fixture, "one").await];
    let poisoned = fixture.build(&project).await;
    let (_, holder) = fixture.claim(&project).await;
    let failure = Failure::new(FailureClass::Poison, "its record cannot be read");
    let event = Event::Fail { holder, failure, usage: None, revoked: false, left: None };
    fixture.advance(poisoned, event, Record::default()).await;
    for _ in 0..2 {
        let done = fixture.post("/work/dead/redrive", json!({})).await;
        assert_eq!((done.status.as_u16(), &done.json()["left"]), (200, &json!(1)));
    }
    for task in failures {
        let task = fixture.store().task(task).await.expect("a task").task;
        assert!(task.retried_as.is_some(), "{task:?}");
    }
    let body = json!({ "task_ids": [poisoned] });
    fixture.post("/work/dead/redrive", body).await.assert_problem(409, "not_retryable");
}

#[tokio::test]
async fn failed_tasks_of_a_deleted_project_are_not_retried() {
    let fixture = Fixture::new().await;
    fixture.project("one").await;
    let task = fail_one(&fixture, "one").await;
    assert_eq!(fixture.delete("/projects/one").await.status, 204);
    let done = fixture.post("/work/dead/redrive", json!({})).await.json();
    assert_eq!((&done["left"], &done["retried"]), (&json!(1), &json!([])), "{done}");
    assert_eq!(fixture.get(&format!("/work/{task}")).await.json()["state"], "failed");
}

#[tokio::test]
async fn a_redrive_handles_at_most_1000_dead_letters_and_says_that_there_are_more() {
    let fixture = Fixture::new().await;
    fixture.project("one").await;
    let ids = join_all((0..1001).map(|_| letter(&fixture, Some("one")))).await;
    let redrive = async |body: Value| fixture.post("/work/dead/redrive", body).await;
    redrive(json!({ "dead_letter_ids": ids })).await.assert_fields(&["dead_letter_ids"]);
    let first = redrive(json!({})).await.json();
    assert_eq!((&first["woken"], &first["more"]), (&json!(1000), &json!(true)), "{first}");
    let rest = redrive(json!({})).await.json();
    assert_eq!((&rest["woken"], &rest["more"]), (&json!(1), &json!(false)), "{rest}");
    let named = redrive(json!({ "dead_letter_ids": ids[..1000] })).await;
    assert_eq!((named.status.as_u16(), &named.json()["woken"]), (200, &json!(0)));
}

#[tokio::test]
async fn a_redrive_retries_at_most_1000_failed_tasks_and_says_that_there_are_more() {
    let fixture = Fixture::new().await;
    let project = fixture.project("one").await;
    fixture.patch("/projects/one", json!({ "build_limit": 100 })).await;
    let mut tasks = BTreeSet::new();
    while tasks.len() < 1001 {
        let count = 91;
        let queued: Vec<TaskId> = join_all((0..count).map(|_| fixture.build(&project))).await;
        let claimed = join_all((0..count).map(|_| fixture.claim(&project))).await;
        join_all(claimed.into_iter().map(|(claimed, holder)| {
            fixture.advance(claimed.task.id, failed(holder), Record::default())
        }))
        .await;
        tasks.extend(queued);
    }
    assert_eq!(tasks.len(), 1001);
    let redrive = async |body: Value| fixture.post("/work/dead/redrive", body).await;
    redrive(json!({ "task_ids": tasks })).await.assert_fields(&["task_ids"]);
    let retried = |reply: &Value| reply["retried"].as_array().expect("ids").len();
    let first = redrive(json!({})).await.json();
    assert_eq!((retried(&first), &first["more"]), (1000, &json!(true)));
    let rest = redrive(json!({})).await.json();
    assert_eq!((retried(&rest), &rest["more"]), (1, &json!(false)));
    assert_eq!(retried(&redrive(json!({})).await.json()), 0);
}

#[tokio::test]
async fn a_sweep_goes_on_until_every_forgotten_wake_up_is_sent() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let project_nonce = fixture.store().project(&project).await.expect("it is there").nonce;
    // One more than a page of them.
    let long_ago = Timestamp::from_millis(now().as_millis() - 3_600_000);
    let by = Actor::maintenance();
    for number in 0..501 {
        let id = TaskId(Ulid::from_parts(1, number));
        let task = Task::new(id, project.clone(), Work::Check(CheckSpec::of(vec![])), long_ago);
        let task = Task { project_nonce, ..task };
        fixture.store().enqueue(&task, &by, long_ago).await.expect("a ready project");
    }
    maintenance::sweep(&fixture.context, now).await.expect("a sweep");
    let stats = fixture.get("/work/stats").await.json();
    assert!(stats["wake_ups"]["visible"].as_u64() >= Some(501), "{stats}");
    let swept = fixture.store().sweep(now()).await.expect("a sweep");
    assert_eq!((swept.outbox, swept.more), (vec![], false));
}

#[tokio::test]
async fn a_wake_up_that_is_due_in_exactly_the_longest_delay_is_sent_and_a_later_one_waits() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let project_nonce = fixture.store().project(&project).await.expect("it is there").nonce;
    let (by, now) = (Actor::maintenance(), now());
    let mut outbox = Vec::new();
    for (number, later) in [(1, MAX_DELAY), (2, MAX_DELAY + Duration::from_millis(1))] {
        let id = TaskId(Ulid::from_parts(1, number));
        let task = Task::new(id, project.clone(), Work::Check(CheckSpec::of(vec![])), now);
        let task = Task { project_nonce, available_at: now.plus(later), ..task };
        let enqueued = fixture.store().enqueue(&task, &by, now).await.expect("a ready project");
        outbox.extend(enqueued.outbox);
    }
    let queue = &*fixture.embedded.queue;
    outbox::send(fixture.store(), queue, &outbox, now).await.expect("they are sent");
    let stats = fixture.get("/work/stats").await.json();
    assert_eq!(stats["wake_ups"]["delayed"], json!(1), "{stats}");
}
