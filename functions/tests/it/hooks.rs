//! Messages of other systems: their sizes and signatures.

use std::io::Error;

use axum::body::Body;
use futures_util::{StreamExt, stream};
use hmac::{Hmac, KeyInit, Mac};
use http::Request;
use rdev_domain::audit::Actor;
use rdev_domain::project::ProjectPatch;
use rdev_domain::secret::Secret;
use rdev_domain::token::Token;
use rdev_functions::HookSecrets;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::{oneshot, watch};

use crate::support::{self, Fixture, Reply, now};

const SECRET: &str = "a-secret-between-systems";

const FORGE_ID: u64 = 15;

/// An API with the project `site`, of whose repository the forge tells.
async fn told() -> Fixture {
    let fixture = Fixture::with(|context| {
        let key = Token::known(Secret::new(SECRET));
        context.settings.hooks = HookSecrets { gitea: Some(key.clone()), ci: Some(key) };
    })
    .await;
    let id = fixture.project("site").await;
    let patch = ProjectPatch { forge_id: Some(FORGE_ID), ..ProjectPatch::default() };
    let by = Actor::maintenance();
    fixture.store().update_project(&id, &patch, &by, now()).await.expect("a change");
    fixture
}

/// The message of a push whose one commit adds so many files, as Gitea writes it: indented, with
/// every name, and the last commit twice.
fn push(files: usize, commit: &str) -> String {
    let added: Vec<String> =
        (0..files).map(|n| format!("src/pages/articles/2026/page-{n:06}.md")).collect();
    let commits = json!({
        "id": commit, "message": "Add all pages\n", "timestamp": "2026-11-28T19:14:16Z",
        "added": added, "removed": [], "modified": ["index.html"],
    });
    let message = json!({
        "ref": "refs/heads/main", "before": "0".repeat(40), "after": commit,
        "commits": [commits], "total_commits": 1, "head_commit": commits,
        "repository": { "id": FORGE_ID, "name": "site", "full_name": "acme/site" },
        "pusher": { "login": "rdevbot" },
    });
    format!("{message:#}")
}

fn signature(body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("a key");
    mac.update(body.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn message(signature: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post("/hooks/gitea")
        .header("content-type", "application/json")
        .header("x-gitea-event", "push")
        .header("x-gitea-signature", signature)
        .body(body.into())
        .expect("a request")
}

async fn send(fixture: &Fixture, body: &str) -> Reply {
    fixture.send(message(&signature(body), body.to_owned())).await
}

async fn pushed(fixture: &Fixture) -> Value {
    fixture.get("/projects/site").await.json()["pushed"]["commit"].clone()
}

#[tokio::test]
async fn a_push_of_eight_thousand_files_is_recorded() {
    let fixture = told().await;
    let commit = "1".repeat(40);
    let body = push(8000, &commit);
    assert!(body.len() > 512 * 1024, "{}", body.len());
    let reply = send(&fixture, &body).await;
    assert_eq!(reply.status, 204, "{}", reply.text());
    assert_eq!(pushed(&fixture).await, commit);

    // More than the 2 MiB that the HTTP framework itself allows by default, and announced.
    let commit = "2".repeat(40);
    let body = push(50_000, &commit);
    assert!(body.len() > 4 << 20, "{}", body.len());
    let mut request = message(&signature(&body), body.clone());
    request.headers_mut().insert("content-length", body.len().into());
    let reply = fixture.send(request).await;
    assert_eq!(reply.status, 204, "{}", reply.text());
    assert_eq!(pushed(&fixture).await, commit);
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_with_the_setting_that_raises_it() {
    let fixture = told().await;
    let body = push(100_000, &"1".repeat(40));
    assert!(body.len() > 8 << 20, "{}", body.len());
    let mut announced = message("", "{}");
    announced.headers_mut().insert("content-length", body.len().into());
    for reply in [send(&fixture, &body).await, fixture.send(announced).await] {
        let problem = reply.assert_problem(413, "body_too_large");
        let detail = problem["detail"].as_str().expect("a text");
        assert!(detail.contains("8388608") && detail.contains("api.hook_limit_bytes"), "{detail}");
    }
    assert_eq!(pushed(&fixture).await, Value::Null);

    // To the byte; and a request with a key keeps its own limit.
    let exact = |more: usize| " ".repeat((8 << 20) + more);
    send(&fixture, &exact(0)).await.assert_problem(400, "malformed_json");
    send(&fixture, &exact(1)).await.assert_problem(413, "body_too_large");
    let large = json!({ "name": "other", "description": "x".repeat(300 * 1024) });
    fixture.post("/projects", large).await.assert_problem(413, "body_too_large");
}

#[tokio::test]
async fn a_large_message_is_parsed_only_when_its_signature_is_right() {
    let fixture = told().await;
    let body = push(8000, &"1".repeat(40));
    for (signed, body) in [(signature("another"), body), (signature("{"), "{".repeat(1 << 20))] {
        let reply = fixture.send(message(&signed, body)).await;
        reply.assert_problem(401, "invalid_signature");
    }
    assert_eq!(pushed(&fixture).await, Value::Null);
}

#[tokio::test]
async fn only_four_large_messages_are_read_at_once_and_small_ones_do_not_wait() {
    let fixture = told().await;
    let (go, going) = watch::channel(false);
    let mut slow = Vec::new();
    for _ in 0..4 {
        // Half a megabyte, and then nothing for now.
        let (begun, has_begun) = oneshot::channel();
        let mut end = going.clone();
        let first = stream::iter([Ok::<_, Error>("x".repeat(512 * 1024))]);
        let rest = stream::once(async move {
            let _ = begun.send(());
            end.wait_for(|go| *go).await.expect("the test goes on");
            Ok("x".to_owned())
        });
        let body = Body::from_stream(first.chain(rest));
        let app = fixture.app.clone();
        slow.push(tokio::spawn(async move { support::send(&app, message("", body)).await }));
        has_begun.await.expect("it is read");
    }
    let commit = "1".repeat(40);
    let large = push(8000, &commit);
    let (app, request) = (fixture.app.clone(), message(&signature(&large), large));
    let large = tokio::spawn(async move { support::send(&app, request).await });

    let small = "2".repeat(40);
    assert_eq!(send(&fixture, &push(1, &small)).await.status, 204);
    assert_eq!(pushed(&fixture).await, small);
    assert!(!large.is_finished());
    go.send_replace(true);
    for one in slow {
        one.await.expect("an answer").assert_problem(401, "invalid_signature");
    }
    assert_eq!(large.await.expect("an answer").status, 204);
    assert_eq!(pushed(&fixture).await, commit);
}

#[tokio::test]
async fn messages_of_pushes_are_counted_and_a_test_message_moves_nothing() {
    let fixture = told().await;
    let shown = async || {
        let project = fixture.get("/projects/site").await.json();
        (project["messages"]["count"].clone(), project["pushed"]["commit"].clone())
    };
    assert_eq!(shown().await, (Value::Null, Value::Null));
    let (first, zero) = ("1".repeat(40), "0".repeat(40));
    assert_eq!(send(&fixture, &push(1, &first)).await.status, 204);
    assert_eq!(shown().await, (json!(1), json!(first)));
    let at = fixture.get("/projects/site").await.json()["messages"]["last_at"].clone();
    assert!(at.is_string(), "{at}");

    let told = |name: &str, before: &str, after: &str| {
        let repository = json!({ "id": FORGE_ID, "name": "site" });
        json!({ "ref": name, "before": before, "after": after, "repository": repository })
            .to_string()
    };
    let second = "2".repeat(40);
    for (n, message) in [
        told("refs/heads/main", &second, &second),
        told("refs/tags/v1", &zero, &second),
        told("refs/heads/old", &second, &zero),
    ]
    .iter()
    .enumerate()
    {
        assert_eq!(send(&fixture, message).await.status, 204);
        assert_eq!(shown().await, (json!(n + 2), json!(first)), "{message}");
    }
    // Again: it was counted.
    assert_eq!(send(&fixture, &told("refs/tags/v1", &zero, &second)).await.status, 204);
    assert_eq!(shown().await.0, 4);
    // Of another repository.
    let other = told("refs/heads/main", &first, &second).replace("15", "16");
    assert_eq!(send(&fixture, &other).await.status, 204);
    assert_eq!(shown().await, (json!(4), json!(first)));
}
