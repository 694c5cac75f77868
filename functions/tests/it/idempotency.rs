//! `Idempotency-Key`: a repeated POST is answered once.

use std::time::Duration;

use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::auth::{OPERATIONS, path};
use crate::support::{Fixture, ForgeBehaviour, keyed, request, until, with_forge};

async fn builds(fixture: &Fixture) -> usize {
    let list = fixture.get("/projects/site/builds?limit=100").await.json();
    list["items"].as_array().expect("items").len()
}

#[tokio::test]
async fn the_same_request_again_gets_the_first_answer_again() {
    let fixture = Fixture::new().await;
    let first = fixture.post_once("/projects", "k1", json!({ "name": "site" })).await;
    assert_eq!(first.status, 201, "{}", first.text());
    assert_eq!(first.header("idempotency-replayed"), "");
    let again = fixture.post_once("/projects", "k1", json!({ "name": "site" })).await;
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.header("location"), "/projects/site");
    assert_eq!(again.header("content-type"), "application/json");
    assert_eq!(again.header("idempotency-replayed"), "true");

    let body = json!({ "prompt": "x" });
    let first = fixture.post_once("/projects/site/builds", "k1", body.clone()).await;
    assert_eq!(first.status, 202, "another path is another request: {}", first.text());
    let again = fixture.post_once("/projects/site/builds", "k1", body.clone()).await;
    assert_eq!((again.status, again.body), (first.status, first.body));
    assert_eq!(again.headers["location"], first.headers["location"]);
    assert_eq!(builds(&fixture).await, 1);

    let other = fixture.post_once("/projects/site/builds", "k1", json!({ "prompt": "y" })).await;
    other.assert_problem(422, "idempotency_key_reused");
    let query = fixture.post_once("/projects/site/builds?x=1", "k1", body.clone()).await;
    query.assert_problem(422, "idempotency_key_reused");
    assert_eq!(builds(&fixture).await, 1);

    let other_key = fixture.key(&[rdev_domain::key::Scope::BuildsWrite]).await;
    let reply = fixture.send(keyed("/projects/site/builds", &other_key, "k1", body)).await;
    assert_eq!(reply.header("idempotency-replayed"), "", "keys of others are others");
    assert_eq!(builds(&fixture).await, 2);
}

#[tokio::test]
async fn a_refusal_is_replayed_too() {
    let fixture = Fixture::new().await;
    let first = fixture.post_once("/projects/site/builds", "k", json!({ "prompt": "x" })).await;
    let first = first.assert_problem(404, "not_found");
    fixture.project("site").await;
    let again = fixture.post_once("/projects/site/builds", "k", json!({ "prompt": "x" })).await;
    assert_eq!(again.assert_problem(404, "not_found"), first);
}

#[tokio::test]
async fn every_post_accepts_an_idempotency_key() {
    let fixture = Fixture::new().await;
    let long = "a".repeat(256);
    for (method, route, _) in OPERATIONS {
        if *method != "POST" {
            continue;
        }
        for bad in ["", "a b", "ä", "a\tb", &long] {
            let mut request =
                request(Method::POST, &path(route), Some(&fixture.admin), Some(json!({})));
            let value = http::HeaderValue::from_bytes(bad.as_bytes()).expect("a value");
            request.headers_mut().insert("idempotency-key", value);
            let reply = fixture.send(request).await;
            reply.assert_problem(400, "invalid_idempotency_key");
        }
        let mut twice = keyed(&path(route), &fixture.admin, "a", json!({}));
        twice.headers_mut().append("idempotency-key", "b".parse().expect("a value"));
        fixture.send(twice).await.assert_problem(400, "invalid_idempotency_key");

        let first = fixture.post_once(&path(route), "good", json!({ "x": 1 })).await;
        let again = fixture.post_once(&path(route), "good", json!({ "x": 1 })).await;
        assert_eq!(again.header("idempotency-replayed"), "true", "{route}");
        assert_eq!((first.status, first.body), (again.status, again.body), "{route}");
        let other = fixture.post_once(&path(route), "good", json!({ "x": 2 })).await;
        other.assert_problem(422, "idempotency_key_reused");
    }
    let longest = "a".repeat(255);
    let reply = fixture.post_once("/projects", &longest, json!({ "name": "site" })).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_requests_at_once_start_one_build() {
    let fixture = Fixture::new().await;
    fixture.project("site").await;
    let body = json!({ "prompt": "x" });
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let (app, key, body) = (fixture.app.clone(), fixture.admin.clone(), body.clone());
        running.spawn(async move {
            crate::support::send(&app, keyed("/projects/site/builds", &key, "one", body)).await
        });
    }
    let mut ids = std::collections::BTreeSet::new();
    for reply in running.join_all().await {
        if reply.status == 202 {
            ids.insert(reply.task_id());
        } else {
            reply.assert_problem(409, "request_in_flight");
            assert_eq!(reply.header("retry-after"), "1");
        }
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(builds(&fixture).await, 1);
    let reply = fixture.post_once("/projects/site/builds", "one", body).await;
    assert_eq!(Some(reply.task_id()), ids.pop_first());
}

#[tokio::test]
async fn a_request_in_flight_is_not_begun_again_and_ends_also_without_its_client() {
    let (fixture, forge) = with_forge(ForgeBehaviour::Waits).await;
    let body = json!({ "name": "site" });
    let first: Request<Body> = keyed("/projects", &fixture.admin, "k", body.clone());
    let app = fixture.app.clone();
    let client = tokio::spawn(async move { crate::support::send(&app, first).await });
    forge.entered.notified().await;
    let again = fixture.post_once("/projects", "k", body.clone()).await;
    again.assert_problem(409, "request_in_flight");
    // The client goes away.
    client.abort();
    assert!(client.await.is_err_and(|gone| gone.is_cancelled()));
    assert_eq!(fixture.get("/projects/site").await.json()["state"], "provisioning");
    forge.resume.notify_one();
    until("the project is ready", async || {
        fixture.get("/projects/site").await.json()["state"] == "ready"
    })
    .await;
    forge.set(ForgeBehaviour::Works);
    until("its answer is there", async || {
        let reply = fixture.post_once("/projects", "k", body.clone()).await;
        reply.status == 201 && reply.header("idempotency-replayed") == "true"
    })
    .await;
}

#[tokio::test]
async fn a_request_without_an_idempotency_key_also_ends_without_its_client() {
    let (fixture, forge) = with_forge(ForgeBehaviour::Waits).await;
    let request =
        request(Method::POST, "/projects", Some(&fixture.admin), Some(json!({ "name": "site" })));
    let sent = fixture.send(request);
    tokio::select! {
        _ = sent => panic!("the forge waits"),
        () = forge.entered.notified() => {}
    }
    forge.resume.notify_one();
    until("the project is ready", async || {
        fixture.get("/projects/site").await.json()["state"] == "ready"
    })
    .await;
}

/// As if the process had died after the work and before its answer was recorded.
fn forget_answers(fixture: &Fixture) {
    let changed = fixture.sql("rdev.db", "UPDATE requests SET answer = NULL, in_flight_until = 0");
    assert!(changed > 0);
}

#[tokio::test]
async fn a_repeat_after_a_crash_finds_what_the_first_try_did() {
    let fixture = Fixture::new().await;
    let twice = async |path: &str, body: Value| {
        let first = fixture.post_once(path, "k", body.clone()).await;
        assert!(first.status.is_success(), "{path}: {}", first.text());
        forget_answers(&fixture);
        let again = fixture.post_once(path, "k", body).await;
        assert_eq!(again.header("idempotency-replayed"), "", "{path}");
        (first, again)
    };
    let (first, again) = twice("/projects", json!({ "name": "site" })).await;
    assert_eq!((again.status, again.json()), (first.status, first.json()));

    let body = json!({ "name": "landing", "prompt": "x" });
    let (first, again) = twice("/project/create-and-build", body).await;
    assert_eq!((again.status, again.json()), (first.status, first.json()));

    let (first, again) = twice("/projects/site/builds", json!({ "prompt": "x" })).await;
    assert_eq!((again.status, again.json()), (first.status, first.json()));
    assert_eq!(builds(&fixture).await, 1);
    let task = first.task_id();

    let (_, again) = twice(&format!("/projects/site/builds/{task}/cancel"), json!({})).await;
    assert_eq!((again.status.as_u16(), &again.json()["state"]), (200, &json!("cancelled")));

    let path = format!("/projects/site/builds/{task}/retry");
    let (first, again) = twice(&path, json!({})).await;
    assert_eq!((again.status, again.task_id()), (first.status, first.task_id()));
    assert_eq!(builds(&fixture).await, 2);
    assert_eq!(fixture.get("/keys").await.json()["items"].as_array().expect("items").len(), 1);
}

#[tokio::test]
async fn a_record_of_an_interrupted_request_is_taken_over_after_a_minute() {
    let fixture = Fixture::new().await;
    fixture.project("site").await;
    let body = json!({ "prompt": "x" });
    let first = fixture.post_once("/projects/site/builds", "k", body.clone()).await;
    let soon = crate::support::now().plus(Duration::from_secs(30)).as_millis();
    let sql = format!("UPDATE requests SET answer = NULL, in_flight_until = {soon}");
    fixture.sql("rdev.db", &sql);
    let again = fixture.post_once("/projects/site/builds", "k", body.clone()).await;
    again.assert_problem(409, "request_in_flight");
    forget_answers(&fixture);
    let again = fixture.post_once("/projects/site/builds", "k", body).await;
    assert_eq!(again.task_id(), first.task_id());
}

#[tokio::test]
async fn after_a_day_a_key_may_be_used_for_something_else() {
    let fixture = Fixture::new().await;
    fixture.project("site").await;
    let first = fixture.post_once("/projects/site/builds", "k", json!({ "prompt": "x" })).await;
    fixture.sql("rdev.db", "UPDATE requests SET expires_at = 1");
    let other = fixture.post_once("/projects/site/builds", "k", json!({ "prompt": "y" })).await;
    assert_eq!(other.status, 202, "{}", other.text());
    assert_ne!(other.task_id(), first.task_id());
}

#[tokio::test]
async fn a_panic_frees_the_key_for_another_try() {
    let (fixture, forge) = with_forge(ForgeBehaviour::Panics).await;
    let reply = fixture.post_once("/projects", "k", json!({ "name": "site" })).await;
    reply.assert_problem(500, "internal_error");
    forge.set(ForgeBehaviour::Works);
    let reply = fixture.post_once("/projects", "k", json!({ "name": "site" })).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
}
