//! API keys: create, list, revoke.

use http::Method;
use rdev_domain::key::Scope;
use serde_json::json;

use crate::support::{Fixture, request};

#[tokio::test]
async fn a_key_is_shown_once_works_and_is_revoked() {
    let fixture = Fixture::new().await;
    let body =
        json!({ "name": "ci", "scopes": ["projects:read", "builds:write", "projects:read"] });
    let reply = fixture.post("/keys", body).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(reply.header("cache-control"), "no-store");
    let key = reply.json();
    let text = key["key"].as_str().expect("its text");
    let id = key["id"].as_str().expect("its id");
    assert!(text.starts_with(&format!("rdev_{id}")), "{text}");
    assert_eq!(text.len(), 77);
    assert_eq!(key["scopes"], json!(["projects:read", "builds:write"]));
    let call = |path: &'static str| fixture.send(request(Method::GET, path, Some(text), None));
    assert_eq!(call("/projects").await.status, 200);
    call("/keys").await.assert_problem(403, "missing_scope");

    let list = fixture.get("/keys").await;
    assert!(!String::from_utf8_lossy(&list.body).contains(text));
    let listed = &list.json()["items"][0];
    assert_eq!((&listed["id"], &listed["revoked_at"]), (&key["id"], &json!(null)));
    assert!(listed.get("secret_sha256").is_none(), "{listed}");

    assert_eq!(fixture.delete(&format!("/keys/{id}")).await.status, 204);
    call("/projects").await.assert_problem(401, "unauthorized");
    assert_eq!(fixture.delete(&format!("/keys/{id}")).await.status, 204);
    let list = fixture.get("/keys").await.json();
    assert!(list["items"][0]["revoked_at"].is_string(), "{list}");
}

#[tokio::test]
async fn a_key_with_a_bad_field_is_refused() {
    let fixture = Fixture::new().await;
    for (body, field) in [
        (json!({ "name": "", "scopes": ["admin"] }), "name"),
        (json!({ "name": "a\u{0}", "scopes": ["admin"] }), "name"),
        (json!({ "name": "a\nb", "scopes": ["admin"] }), "name"),
        (json!({ "name": "a".repeat(101), "scopes": ["admin"] }), "name"),
        (json!({ "name": "a", "scopes": [] }), "scopes"),
        (json!({ "name": "a", "scopes": ["root"] }), "scopes[0]"),
        (json!({ "name": "a" }), "scopes"),
        (json!({ "name": "a", "scopes": ["admin"], "id": "x" }), "id"),
    ] {
        fixture.post("/keys", body).await.assert_fields(&[field]);
    }
    assert_eq!(fixture.store().keys().await.expect("keys").len(), 1);
}

#[tokio::test]
async fn a_repeated_request_for_a_key_does_not_show_it_again() {
    let fixture = Fixture::new().await;
    let body = json!({ "name": "ci", "scopes": ["admin"] });
    let first = fixture.post_once("/keys", "k", body.clone()).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let text = first.json()["key"].as_str().expect("its text").to_owned();
    let again = fixture.post_once("/keys", "k", body.clone()).await;
    again.assert_problem(409, "key_already_shown");
    // Also when the first try died before its answer was recorded.
    fixture.sql("rdev.db", "UPDATE requests SET answer = NULL, in_flight_until = 0");
    let again = fixture.post_once("/keys", "k", body).await;
    again.assert_problem(409, "key_already_shown");
    assert_eq!(fixture.store().keys().await.expect("keys").len(), 2);

    // Neither the text nor the secret in it is anywhere in the data folder.
    let secret = &text[17..69];
    for file in std::fs::read_dir(fixture.folder.path()).expect("the folder") {
        let file = file.expect("a file").path();
        if file.is_file() {
            let bytes = std::fs::read(&file).expect("its content");
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "{}", file.display());
        }
    }
}

#[tokio::test]
async fn what_a_key_did_is_in_the_audit_with_the_request_s_id() {
    let fixture = Fixture::new().await;
    let key = fixture.key(&[Scope::ProjectsWrite]).await;
    let body = json!({ "name": "site" });
    let reply = fixture.send(request(Method::POST, "/projects", Some(&key), Some(body))).await;
    let audit = fixture.get("/audit?project_id=site").await.json();
    let events = audit["items"].as_array().expect("items");
    assert!(!events.is_empty());
    for event in events {
        assert_eq!(event["actor"], format!("key:{}", &key[5..17]));
        assert_eq!(event["request_id"], reply.header("x-request-id"));
        assert_eq!(event["project_id"], "site");
    }
    assert_eq!(fixture.get("/audit?project_id=other").await.json()["items"], json!([]));
}
