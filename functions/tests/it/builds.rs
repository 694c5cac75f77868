//! Builds: start, show, cancel, retry, continue, diff.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{CommitId, LeftRef, OwnRef, RecordedRef, Tip};
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::lease::{Holder, Progress};
use rdev_domain::ports::Record;
use rdev_domain::result::{AgentRun, BuildResult, Outcome, TaskResult, Usage};
use rdev_domain::spec::AgentName;
use rdev_domain::step::Event;
use rdev_domain::task::{Prepared, WipRef};
use serde_json::{Value, json};

use crate::support::{Fixture, now};

pub(crate) fn result(outcome: Outcome, session: Option<&str>) -> BuildResult {
    BuildResult {
        outcome,
        commit_sha: Some("a".repeat(40).parse().expect("a commit")),
        branch: "main".parse().expect("a branch"),
        kept_ref: None,
        pull_request_url: None,
        files_changed: vec![],
        files_changed_total: 0,
        agent: Some(AgentRun {
            provider: AgentName::Codex,
            version: Some("1.2.3".to_owned()),
            model: None,
            session_id: session.map(str::to_owned),
        }),
        usage: Usage::default(),
        durations_ms: BTreeMap::new(),
        summary: "done".to_owned(),
        verify: vec![],
        warnings: vec![],
    }
}

pub(crate) fn failed(holder: Holder) -> Event {
    let failure = Failure::new(FailureClass::Auth, "the model refused the key");
    Event::Fail { holder, failure, usage: None, revoked: false, left: None }
}

fn prepared(task: TaskId, holder: Holder) -> Event {
    let commit = "a".repeat(40).parse().expect("a commit");
    let wip = WipRef { task, fence: holder.fence };
    let branch = "main".parse().expect("a branch");
    let prepared = Prepared { commit, base: Tip::Absent, branch, wip, atomic: true, at: now() };
    let result = result(Outcome::Delivered, None);
    Event::Prepare { holder, prepared, result, usage: Usage::default() }
}

#[tokio::test]
async fn a_build_is_queued_with_the_requested_values_and_the_defaults() {
    let fixture =
        Fixture::with(|context| context.settings.default_agent = AgentName::Opencode).await;
    let project = fixture.project("site").await;
    let body = json!({
        "prompt": "make it blue", "branch": "feature/x", "timeout_s": 60, "verify": ["true"],
        "max_cost_usd": 0.5, "max_turns": 3, "priority": 9, "max_attempts": 1,
    });
    let reply = fixture.post("/projects/site/builds", body).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let task = reply.json();
    let id = reply.task_id();
    assert_eq!(reply.header("location"), format!("/projects/site/builds/{id}"));
    assert_eq!(task["spec"]["agent"], "opencode");
    assert_eq!(task["spec"]["branch"], "feature/x");
    assert_eq!(task["spec"]["auto_commit"], true);
    assert_eq!(task["spec"]["auto_push"], true);
    assert_eq!(task["spec"]["stall_timeout_s"], 600);
    assert_eq!((&task["priority"], &task["max_attempts"]), (&json!(9), &json!(1)));
    assert_eq!(task["lineage"], task["id"]);
    assert_eq!(task["cancel_requested"], false);
    assert_eq!(fixture.get(reply.header("location")).await.json(), task);
    assert_eq!(fixture.get(&format!("/work/{id}")).await.json(), task);
    let list = fixture.get("/projects/site/builds").await.json();
    assert_eq!(list, json!({ "items": [task], "next_cursor": null }));

    // The wake-up was sent, and its entry is gone.
    let stats = fixture.get("/work/stats").await.json();
    assert_eq!((&stats["due"], &stats["wake_ups"]["visible"]), (&json!(1), &json!(1)), "{stats}");
    let (claimed, _) = fixture.claim(&project).await;
    assert_eq!(claimed.task.id, id);
}

#[tokio::test]
async fn a_request_succeeds_although_its_wake_up_cannot_be_sent() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    fixture.sql("queue.db", "ALTER TABLE messages RENAME TO gone");
    let task = fixture.build(&project).await;
    fixture.sql("queue.db", "ALTER TABLE gone RENAME TO messages");
    let later = now().plus(std::time::Duration::from_secs(60));
    let swept = fixture.store().sweep(later).await.expect("a sweep");
    assert!(swept.outbox.iter().any(|entry| entry.project_id == project), "{swept:?}");
    assert_eq!(fixture.claim(&project).await.0.task.id, task);
}

#[tokio::test]
async fn tasks_that_come_within_a_millisecond_keep_their_order() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.push(fixture.build(&project).await);
    }
    assert!(ids.is_sorted());
}

#[tokio::test]
async fn a_queued_build_is_cancelled_at_once_and_only_once() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let task = fixture.build(&project).await;
    let path = format!("/projects/site/builds/{task}/cancel");
    let reply = fixture.post(&path, json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["state"], "cancelled");
    assert_eq!(reply.json()["cancel_requested"], false);
    fixture.post(&path, json!({})).await.assert_problem(409, "task_ended");
    let path = format!("/work/{task}/cancel");
    fixture.post(&path, json!({})).await.assert_problem(409, "task_ended");
}

#[tokio::test]
async fn a_running_build_is_stopped_by_its_worker_and_a_pushing_one_is_not() {
    let notified = Arc::new(Mutex::new(Vec::new()));
    let fixture = Fixture::with(|context| {
        let notified = Arc::clone(&notified);
        context.on_cancel = Some(Arc::new(move |task| notified.lock().expect("fine").push(task)));
    })
    .await;
    let project = fixture.project("site").await;
    let task = fixture.build(&project).await;
    let (_, holder) = fixture.claim(&project).await;
    let reply = fixture.post(&format!("/projects/site/builds/{task}/cancel"), json!({})).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    assert_eq!(
        (&reply.json()["state"], &reply.json()["cancel_requested"]),
        (&json!("running"), &json!(true))
    );
    assert_eq!(*notified.lock().expect("fine"), [task]);
    let status = fixture.get(&format!("/work/{task}/status")).await.json();
    assert_eq!(status["cancel_requested"], true);
    fixture.advance(task, Event::Release { holder }, Record::default()).await;
    let shown = fixture.get(&format!("/work/{task}")).await.json();
    assert_eq!(shown["state"], "cancelled");

    let task = fixture.build(&project).await;
    let (_, holder) = fixture.claim(&project).await;
    fixture.advance(task, prepared(task, holder), Record::default()).await;
    let reply = fixture.post(&format!("/work/{task}/cancel"), json!({})).await;
    reply.assert_problem(409, "push_under_way");
    assert_eq!(notified.lock().expect("fine").len(), 1);
}

#[tokio::test]
async fn a_build_that_is_being_pushed_has_no_result_yet_and_names_the_intended_one() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let task = fixture.build(&project).await;
    let (_, holder) = fixture.claim(&project).await;
    let path = format!("/projects/site/builds/{task}");
    assert!(fixture.get(&path).await.json().get("intended_result").is_none());
    fixture.advance(task, prepared(task, holder.clone()), Record::default()).await;
    let list = fixture.get("/projects/site/builds").await.json();
    let work = fixture.get(&format!("/work/{task}")).await.json();
    for shown in [fixture.get(&path).await.json(), work, list["items"][0].clone()] {
        assert_eq!((&shown["state"], &shown["result"]), (&json!("pushing"), &json!(null)));
        assert_eq!(shown["intended_result"]["outcome"], "delivered", "{shown}");
    }
    assert_eq!(fixture.get(&format!("/work/{task}/status")).await.json()["outcome"], json!(null));

    let record = fixture.store().task(task).await.expect("its record").task;
    let Some(TaskResult::Build(result)) = record.result else { panic!("it has what is pushed") };
    fixture.advance(task, Event::Complete { holder, result }, Record::default()).await;
    let shown = fixture.get(&path).await.json();
    assert_eq!(shown["result"]["outcome"], "delivered");
    assert!(shown.get("intended_result").is_none(), "{shown}");
}

#[tokio::test]
async fn a_failed_build_is_retried_as_a_new_task_of_its_lineage() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let task = fixture.build(&project).await;
    let path = format!("/projects/site/builds/{task}/retry");
    fixture.post(&path, json!({})).await.assert_problem(409, "not_retryable");
    let (_, holder) = fixture.claim(&project).await;
    fixture.post(&path, json!({})).await.assert_problem(409, "not_retryable");
    fixture.advance(task, failed(holder), Record::default()).await;
    let reply = fixture.post(&path, json!({})).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let new = reply.json();
    assert_eq!(new["retry_of"], task.to_string());
    assert_eq!(new["lineage"], task.to_string());
    assert_eq!(new["state"], "queued");
    assert_eq!(reply.header("location"), format!("/projects/site/builds/{}", reply.task_id()));
    let old = fixture.get(&format!("/work/{task}")).await.json();
    assert_eq!(old["retried_as"], new["id"]);

    // From now on only the newest task of the chain is retried.
    let second = reply.task_id();
    fixture.post(&path, json!({})).await.assert_problem(409, "retried_already");
    fixture.post(&format!("/work/{second}/cancel"), json!({})).await;
    let next = fixture.post(&format!("/projects/site/builds/{second}/retry"), json!({})).await;
    assert_eq!(next.status, 202, "{}", next.text());
    let newest = next.task_id().to_string();
    for older in [task, second] {
        let path = format!("/projects/site/builds/{older}/retry");
        let refused = fixture.post(&path, json!({})).await;
        refused.assert_problem(409, "retried_already");
        let detail = refused.json()["detail"].as_str().expect("a detail").to_owned();
        assert!(detail.contains(&newest), "{detail}");
    }
    assert_eq!(old["state"], "failed");
    let status = fixture.get(&format!("/work/{task}/status")).await.json();
    assert_eq!(status["failure_class"], "auth");
}

#[tokio::test]
async fn a_retry_keeps_priority_attempts_and_notification() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let webhook = json!({
        "webhook_url": "https://hooks.example.com/rdev",
        "webhook_secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz",
    });
    let changed = fixture.patch("/projects/site", webhook).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    let body = json!({ "prompt": "x", "priority": 8, "max_attempts": 7 });
    let first = fixture.post("/projects/site/builds", body).await.task_id();
    let (_, holder) = fixture.claim(&project).await;
    fixture.advance(first, failed(holder), Record::default()).await;
    // The retry keeps what the task had, whatever the project says now.
    let removed = fixture.patch("/projects/site", json!({ "webhook_url": "" })).await;
    assert_eq!(removed.json()["webhook_url"], Value::Null, "{}", removed.text());

    let retry = fixture.post(&format!("/projects/site/builds/{first}/retry"), json!({})).await;
    assert_eq!(retry.status, 202, "{}", retry.text());
    assert_eq!(retry.json()["spec"], fixture.get(&format!("/work/{first}")).await.json()["spec"]);
    let stored = fixture.store().task(retry.task_id()).await.expect("a task").task;
    let kept = (u8::from(stored.priority), stored.max_attempts, stored.notify);
    assert_eq!(kept, (8, 7, true), "priority, max_attempts, notify");
}

#[tokio::test]
async fn a_session_is_continued_by_its_own_agent_in_its_own_project_only() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let first = fixture.build(&project).await;
    let follow_up = |project: &str, body: Value| {
        let path = format!("/projects/{project}/builds");
        let fixture = &fixture;
        async move { fixture.post(&path, body).await }
    };
    let body = json!({ "prompt": "more", "continue_from": first });
    follow_up("site", body.clone()).await.assert_fields(&["continue_from"]);
    let (_, holder) = fixture.claim(&project).await;
    let result = result(Outcome::NoChange, Some("session-1"));
    let event =
        Event::Finish { holder, result: TaskResult::Build(result), usage: Usage::default() };
    fixture.advance(first, event, Record::default()).await;

    let reply = follow_up("site", body.clone()).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    assert_eq!(reply.json()["spec"]["agent"], "codex", "the agent that began the session");
    let same = json!({ "prompt": "more", "continue_from": first, "agent": "codex" });
    assert_eq!(follow_up("site", same).await.status, 202);
    let other = json!({ "prompt": "more", "continue_from": first, "agent": "opencode" });
    follow_up("site", other).await.assert_fields(&["continue_from"]);
    let raw = json!({ "project_id": "site", "type": "build", "spec": body });
    let reply = fixture.post("/work/enqueue", raw).await;
    assert_eq!(reply.json()["spec"]["agent"], "codex", "{}", reply.text());
    fixture.project("other").await;
    follow_up("other", body).await.assert_fields(&["continue_from"]);
}

#[tokio::test]
async fn a_build_without_a_session_cannot_be_continued() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let task = fixture.build(&project).await;
    let (_, holder) = fixture.claim(&project).await;
    let result = result(Outcome::NoChange, None);
    let event =
        Event::Finish { holder, result: TaskResult::Build(result), usage: Usage::default() };
    fixture.advance(task, event, Record::default()).await;
    let body = json!({ "prompt": "more", "continue_from": task });
    fixture.post("/projects/site/builds", body).await.assert_fields(&["continue_from"]);
}

#[tokio::test]
async fn a_diff_is_shown_as_it_was_recorded() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let task = fixture.build(&project).await;
    let path = format!("/projects/site/builds/{task}/diff");
    fixture.get(&path).await.assert_problem(404, "no_diff");
    let (_, holder) = fixture.claim(&project).await;
    let event = Event::Finish {
        holder,
        result: TaskResult::Build(result(Outcome::DiffOnly, None)),
        usage: Usage::default(),
    };
    let diff = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-ä\n+ö\n";
    let record = Record { events: vec![], diff: Some(diff.to_owned()), ..Record::default() };
    fixture.advance(task, event, record).await;
    let reply = fixture.get(&path).await;
    assert_eq!(reply.header("content-type"), "text/x-diff; charset=utf-8");
    assert_eq!(reply.body, diff.as_bytes());
    let status = fixture.get(&format!("/work/{task}/status")).await.json();
    assert_eq!((&status["state"], &status["outcome"]), (&json!("succeeded"), &json!("diff_only")));
    let shown = fixture.get(&format!("/projects/site/builds/{task}")).await.json();
    assert_eq!(shown["attempts"][0]["worker_id"], "test-worker");
    assert_eq!(shown["result"]["agent"]["version"], "1.2.3");
}

#[tokio::test]
async fn a_build_without_push_names_the_ref_that_has_its_commit() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    for kept_ref in [None, Some("refs/heads/rdev/kept/somewhere")] {
        let task = fixture.build(&project).await;
        let path = format!("/projects/site/builds/{task}");
        let (_, holder) = fixture.claim(&project).await;
        assert_eq!(fixture.get(&path).await.json().get("refs"), None, "it runs");
        let result = BuildResult {
            kept_ref: kept_ref.map(str::to_owned),
            ..result(Outcome::CommittedNotPushed, None)
        };
        let result = TaskResult::Build(result);
        let event = Event::Finish { holder, result, usage: Usage::default() };
        fixture.advance(task, event, Record::default()).await;
        // Results of earlier versions do not name it.
        let usual = format!("refs/rdev/kept/{task}");
        let name = kept_ref.unwrap_or(&usual);
        let expected = json!([{ "name": name, "commit": "a".repeat(40), "kind": "kept" }]);
        assert_eq!(fixture.get(&path).await.json()["refs"], expected);
        let list = fixture.get("/projects/site/builds").await.json();
        assert_eq!(list["items"][0]["refs"], expected);
    }
}

#[tokio::test]
async fn a_failed_build_names_what_it_has_left_and_one_that_ended_well_names_nothing() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let ends = [true, false].map(|well| (well, Fence(1)));
    for (well, fence) in ends {
        let task = fixture.build(&project).await;
        let path = format!("/projects/site/builds/{task}");
        let (_, holder) = fixture.claim(&project).await;
        let commit: CommitId = "b".repeat(40).parse().expect("a commit");
        let left = |own, branch| LeftRef { own, commit: commit.clone(), branch };
        let class = if well { FailureClass::Cancelled } else { FailureClass::Auth };
        let event = Event::Fail {
            holder,
            failure: Failure::new(class, "as the test wants it"),
            usage: None,
            revoked: false,
            left: Some(vec![
                left(OwnRef::Part(task, fence), false),
                left(OwnRef::Revoked(task, fence), true),
            ]),
        };
        fixture.advance(task, event, Record::default()).await;
        let shown = fixture.get(&path).await.json();
        assert_eq!(shown.get("left_refs"), None, "once is enough");
        let expected = json!([
            { "name": format!("refs/rdev/part/{task}/1"), "commit": commit, "kind": "part" },
            {
                "name": format!("refs/heads/rdev/revoked/{task}/1"),
                "commit": commit, "kind": "revoked",
            },
        ]);
        assert_eq!(shown.get("refs"), (!well).then_some(&expected), "{shown}");
    }
}

#[tokio::test]
async fn a_build_whose_worker_was_lost_names_what_that_one_was_about_to_write() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let body = json!({ "prompt": "x", "max_attempts": 1 });
    let task = fixture.post("/projects/site/builds", body).await.task_id();
    let (_, holder) = fixture.claim(&project).await;
    let commit: CommitId = "b".repeat(40).parse().expect("a commit");
    let refs = [RecordedRef::of(OwnRef::Wip(task, holder.fence), commit.clone())];
    let progress = Progress { own_refs: Some(&refs), ..Progress::default() };
    let store = fixture.store();
    store.renew(task, &holder, progress, now()).await.expect("it is held");
    let long_after = now().plus(std::time::Duration::from_secs(600));
    store.recover_expired(long_after).await.expect("recovered");
    let shown = fixture.get(&format!("/projects/site/builds/{task}")).await.json();
    assert_eq!(shown["state"], "failed", "{shown}");
    let name = format!("refs/rdev/wip/{task}/{}", holder.fence);
    let expected = json!([{ "name": name, "commit": commit, "kind": "wip" }]);
    assert_eq!(shown["refs"], expected);
}
