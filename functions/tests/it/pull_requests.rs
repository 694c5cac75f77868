//! How builds deliver, and what is set on their pull requests: by the build, or by its project.

use rdev_domain::ports::Record;
use serde_json::{Value, json};

use crate::builds::failed;
use crate::support::{Fixture, Reply};

async fn build(fixture: &Fixture, body: Value) -> Reply {
    let mut body = body;
    body["prompt"] = json!("make it blue");
    fixture.post("/projects/site/builds", body).await
}

/// The parts of an accepted build's spec that say how it delivers.
async fn settled(fixture: &Fixture, body: Value) -> (Value, Value) {
    let reply = build(fixture, body).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let spec = &reply.json()["spec"];
    (spec["pull_request"].clone(), spec["pull_request_options"].clone())
}

#[tokio::test]
async fn a_build_delivers_as_its_project_says_unless_it_says_so_itself() {
    let fixture = Fixture::new().await;
    fixture.project("site").await;
    assert_eq!(fixture.get("/projects/site").await.json()["deliver"], "branch");
    assert_eq!(settled(&fixture, json!({})).await, (json!(false), Value::Null));

    let options = json!({ "labels": ["by rdev"], "reviewers": ["ann", "acme/team"] });
    let change = json!({ "deliver": "pull_request", "pull_request_options": options });
    let changed = fixture.patch("/projects/site", change).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_eq!(changed.json()["deliver"], "pull_request");
    assert_eq!(changed.json()["pull_request_options"], options);
    let all = json!({ "labels": ["by rdev"], "draft": false, "reviewers": ["ann", "acme/team"] });
    assert_eq!(settled(&fixture, json!({})).await, (json!(true), all.clone()));
    let own = json!({ "pull_request_options": { "labels": [], "draft": true } });
    let expected = json!({ "labels": [], "draft": true, "reviewers": ["ann", "acme/team"] });
    assert_eq!(settled(&fixture, own).await, (json!(true), expected));
    for other in [json!({ "pull_request": false }), json!({ "auto_push": false })] {
        assert_eq!(settled(&fixture, other).await, (json!(false), Value::Null));
    }

    // A change of one option leaves the others.
    let change = json!({ "pull_request_options": { "draft": true } });
    let changed = fixture.patch("/projects/site", change).await.json();
    let both = json!({ "labels": ["by rdev"], "draft": true, "reviewers": ["ann", "acme/team"] });
    assert_eq!(changed["pull_request_options"], both);
    let changed = fixture.patch("/projects/site", json!({ "description": "x" })).await.json();
    assert_eq!(changed["pull_request_options"], both);

    // The raw queue asks the project, too.
    let spec = json!({ "prompt": "x" });
    let raw = json!({ "project_id": "site", "type": "build", "spec": spec });
    let reply = fixture.post("/work/enqueue", raw).await.json();
    assert_eq!(reply["spec"]["pull_request_options"], both, "{reply:#}");
}

#[tokio::test]
async fn a_queued_build_and_its_retry_keep_what_was_settled() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let change = json!({ "deliver": "pull_request", "pull_request_options": { "draft": true } });
    fixture.patch("/projects/site", change).await;
    let queued = build(&fixture, json!({})).await;
    let (id, spec) = (queued.task_id(), queued.json()["spec"].clone());
    assert_eq!(spec["pull_request_options"]["draft"], true, "{spec:#}");
    let change = json!({ "deliver": "branch", "pull_request_options": { "draft": false } });
    fixture.patch("/projects/site", change).await;
    let shown = fixture.get(&format!("/projects/site/builds/{id}")).await.json();
    assert_eq!(shown["spec"], spec);
    let (_, holder) = fixture.claim(&project).await;
    fixture.advance(id, failed(holder), Record::default()).await;
    let retry = fixture.post(&format!("/projects/site/builds/{id}/retry"), json!({})).await;
    assert_eq!(retry.json()["spec"], spec, "{}", retry.text());
}

#[tokio::test]
async fn a_project_is_created_with_the_way_it_delivers() {
    let fixture = Fixture::new().await;
    let options = json!({ "draft": true });
    let body = json!({ "name": "one", "deliver": "pull_request", "pull_request_options": options });
    let made = fixture.post("/project", body).await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.json()["pull_request_options"], options);
    let body = json!({
        "name": "two", "prompt": "x", "deliver": "pull_request", "pull_request_options": options,
    });
    let made = fixture.post("/project/create-and-build", body).await;
    assert_eq!(made.status, 202, "{}", made.text());
    let task = &made.json()["task"];
    assert_eq!(task["spec"]["pull_request"], true, "{task:#}");
    assert_eq!(task["spec"]["pull_request_options"]["draft"], true, "{task:#}");
}

#[tokio::test]
async fn what_is_no_option_is_refused_with_the_rule() {
    let fixture = Fixture::new().await;
    fixture.project("site").await;
    let many = vec!["x"; 21];
    let long = "x".repeat(51);
    for (options, field, rule) in [
        (json!({ "labels": [""] }), "labels[0]", "1 to 50 characters"),
        (json!({ "labels": ["a", "b\n"] }), "labels[1]", "no control characters"),
        (json!({ "labels": [long] }), "labels[0]", "1 to 50 characters"),
        (json!({ "labels": many }), "labels", "at most 20"),
        (json!({ "labels": "a" }), "labels", "expected a sequence"),
        (json!({ "draft": "yes" }), "draft", "expected a boolean"),
        (json!({ "reviewers": ["@ann"] }), "reviewers[0]", "organisation/team"),
        (json!({ "reviewers": ["a/b/c"] }), "reviewers[0]", "organisation/team"),
        (json!({ "reviewers": many }), "reviewers", "at most 20"),
        (json!({ "assignees": [] }), "assignees", "unknown field"),
    ] {
        let field = format!("pull_request_options.{field}");
        let start = json!({ "pull_request": true, "pull_request_options": options });
        let named = json!({ "name": "other", "pull_request_options": options });
        let mut spec = start.clone();
        spec["prompt"] = json!("x");
        let raw = json!({ "project_id": "site", "type": "build", "spec": spec });
        for (reply, field) in [
            (build(&fixture, start).await, field.clone()),
            (fixture.post("/work/enqueue", raw).await, format!("spec.{field}")),
            (fixture.post("/projects", named).await, field.clone()),
            (
                fixture.patch("/projects/site", json!({ "pull_request_options": options })).await,
                field,
            ),
        ] {
            let problem = reply.assert_problem(422, "invalid_request");
            let error = &problem["errors"][0];
            let is_named = error["field"] == *field || options["assignees"].is_array();
            assert!(is_named, "{options}: {problem:#}");
            assert!(error["message"].to_string().contains(rule), "{options}: {problem:#}");
        }
    }
    let without = json!({ "pull_request_options": { "draft": true } });
    let problem = build(&fixture, without).await.assert_problem(422, "invalid_request");
    assert_eq!(problem["errors"][0]["field"], "pull_request_options", "{problem:#}");
    let message = problem["errors"][0]["message"].to_string();
    assert!(
        message.contains("set pull_request to true") && message.contains("deliver"),
        "{message}"
    );
    let reply = fixture.patch("/projects/site", json!({ "deliver": "mail" })).await;
    reply.assert_fields(&["deliver"]);
    assert_eq!(fixture.get("/projects/other").await.status, 404);
}
