//! What must be refused, in which words, and that it changes nothing.

use axum::body::Body;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request};
use rdev_domain::audit::AuditEvent;
use rdev_domain::page::Page;
use rdev_domain::ports::AuditFilter;
use serde_json::{Value, json};

use crate::support::{Fixture, ForgeBehaviour, request, with_forge};

/// Everything that was ever changed.
async fn changes(fixture: &Fixture) -> Vec<AuditEvent> {
    let page = Page { limit: 100, before: None };
    fixture.store().audit(&AuditFilter::default(), &page).await.expect("the audit").items
}

fn raw(fixture: &Fixture, path: &str, kind: Option<&str>, body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(AUTHORIZATION, format!("Bearer {}", fixture.admin));
    if let Some(kind) = kind {
        request = request.header(CONTENT_TYPE, kind);
    }
    request.body(body.into()).expect("a request")
}

#[tokio::test]
async fn a_body_must_be_json_with_its_content_type() {
    let fixture = Fixture::new().await;
    let before = changes(&fixture).await;
    for malformed in
        ["", "{", "{'name':1}", "{\"name\":\"a\"} x", "nul", "\u{feff}{}", "{\"a\":1e999}"]
    {
        let reply =
            fixture.send(raw(&fixture, "/projects", Some("application/json"), malformed)).await;
        reply.assert_problem(400, "malformed_json");
    }
    let not_utf8 = b"{\"name\":\"\xff\"}".to_vec();
    let reply = fixture.send(raw(&fixture, "/projects", Some("application/json"), not_utf8)).await;
    reply.assert_problem(400, "malformed_json");
    let deep = "[".repeat(100_000);
    let reply = fixture.send(raw(&fixture, "/projects", Some("application/json"), deep)).await;
    reply.assert_problem(400, "malformed_json");
    for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("json")]
    {
        let reply = fixture.send(raw(&fixture, "/projects", kind, r#"{"name":"a"}"#)).await;
        reply.assert_problem(415, "unsupported_media_type");
    }
    for not_an_object in ["[]", "[\"site\"]", "1", "null", "\"x\""] {
        let reply =
            fixture.send(raw(&fixture, "/projects", Some("application/json"), not_an_object)).await;
        reply.assert_fields(&["body"]);
    }
    assert_eq!(changes(&fixture).await, before);
    let kind = Some("Application/JSON; charset=utf-8");
    let reply = fixture.send(raw(&fixture, "/projects", kind, r#"{"name":"site"}"#)).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
}

#[tokio::test]
async fn a_body_over_256_kib_is_refused_with_or_without_a_content_length() {
    let fixture = Fixture::new().await;
    let before = changes(&fixture).await;
    let body = |bytes: usize| {
        let empty = json!({ "name": "site", "description": "" }).to_string().len();
        json!({ "name": "site", "description": "a".repeat(bytes - empty) }).to_string()
    };
    let (limit, kind) = (256 * 1024, Some("application/json"));
    let at_limit = fixture.send(raw(&fixture, "/projects", kind, body(limit))).await;
    at_limit.assert_fields(&["description"]);
    let over = fixture.send(raw(&fixture, "/projects", kind, body(limit + 1))).await;
    over.assert_problem(413, "body_too_large");
    let mut announced = raw(&fixture, "/projects", kind, "{}");
    announced.headers_mut().insert("content-length", "999999999".parse().expect("a number"));
    fixture.send(announced).await.assert_problem(413, "body_too_large");
    let pieces = (0..300).map(|_| Ok::<_, std::io::Error>("x".repeat(1024)));
    let stream = Body::from_stream(futures_util::stream::iter(pieces));
    let chunked = fixture.send(raw(&fixture, "/projects", kind, stream)).await;
    chunked.assert_problem(413, "body_too_large");
    let cut = [Ok("{".to_owned()), Err(std::io::Error::other("gone"))];
    let cut = Body::from_stream(futures_util::stream::iter(cut));
    let cut = fixture.send(raw(&fixture, "/projects", kind, cut)).await;
    cut.assert_problem(400, "malformed_request");
    let mut nobody = raw(&fixture, "/projects", kind, body(limit + 1));
    nobody.headers_mut().remove(AUTHORIZATION);
    fixture.send(nobody).await.assert_problem(401, "unauthorized");
    assert_eq!(changes(&fixture).await, before);
}

#[tokio::test]
async fn what_is_not_there_is_404_and_a_wrong_method_405() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let other = fixture.project("other").await;
    let task = fixture.build(&project).await;
    let missing = "01JDGZ2V9QK8M3T5X7Y9ABCDEF";
    for path in [
        "/".to_owned(),
        "/nothing".to_owned(),
        "/projects/".to_owned(),
        "/projects/missing".to_owned(),
        "/projects/..%2fx".to_owned(),
        "/projects/.git".to_owned(),
        "/projects/con".to_owned(),
        "/projects/%00".to_owned(),
        "/projects/%ff".to_owned(),
        "/projects/SITE".to_owned(),
        "/projects/missing/builds".to_owned(),
        format!("/projects/site/builds/{missing}"),
        format!("/projects/site/builds/{}", missing.to_lowercase()),
        "/projects/site/builds/x".to_owned(),
        format!("/projects/{other}/builds/{task}"),
        format!("/projects/{other}/builds/{task}/events"),
        format!("/projects/{other}/builds/{task}/diff"),
        "/projects/missing/domains".to_owned(),
        "/projects/missing/ci/pipelines".to_owned(),
        "/projects/site/ci/pipelines/x".to_owned(),
        format!("/work/{missing}"),
        format!("/work/{missing}/status"),
        "/work/x".to_owned(),
        "/workers/missing".to_owned(),
        "/workers/a%20b".to_owned(),
    ] {
        fixture.get(&path).await.assert_problem(404, "not_found");
    }
    for path in [
        format!("/projects/{other}/builds/{task}/cancel"),
        format!("/projects/{other}/builds/{task}/retry"),
        format!("/work/{missing}/cancel"),
        "/workers/missing/drain".to_owned(),
        "/workers/missing/resume".to_owned(),
        "/projects/missing/domains".to_owned(),
    ] {
        fixture.post(&path, json!({})).await.assert_problem(404, "not_found");
    }
    let reply = fixture.post("/projects/missing/builds", json!({ "prompt": "x" })).await;
    reply.assert_problem(404, "not_found");
    let body =
        json!({ "project_id": "missing", "type": "check", "spec": { "commands": ["true"] } });
    fixture.post("/work/enqueue", body).await.assert_problem(404, "not_found");
    fixture.patch("/projects/missing", json!({})).await.assert_problem(404, "not_found");
    for path in
        ["/projects/missing", "/keys/abcdefghij01", "/keys/x", "/projects/missing/domains/a.b"]
    {
        fixture.delete(path).await.assert_problem(404, "not_found");
    }
    for (method, path, allow) in [
        (Method::PUT, "/projects", "GET,HEAD,POST"),
        (Method::DELETE, "/projects", "GET,HEAD,POST"),
        (Method::POST, "/projects/site", "GET,HEAD,PATCH,DELETE"),
        (Method::OPTIONS, "/health", "GET,HEAD"),
        (Method::GET, "/work/enqueue", "POST"),
        (Method::TRACE, "/keys", "GET,HEAD,POST"),
    ] {
        let reply = fixture.send(request(method, path, Some(&fixture.admin), None)).await;
        reply.assert_problem(405, "method_not_allowed");
        assert_eq!(reply.header("allow"), allow, "{path}");
    }
}

#[tokio::test]
async fn a_project_with_a_bad_field_is_refused_and_nothing_is_created() {
    let fixture = Fixture::new().await;
    let before = changes(&fixture).await;
    let long = "a".repeat(41);
    for name in [
        "",
        "../x",
        ".git",
        "con",
        "a/b",
        "A",
        "1a",
        "-a",
        "a-",
        "a_b",
        "nul",
        "com1",
        "xn--a",
        "create-and-build",
        "a\u{0}",
        "a\n",
        " a",
        "ä",
        &long,
    ] {
        for path in ["/project", "/projects"] {
            fixture.post(path, json!({ "name": name })).await.assert_fields(&["name"]);
        }
        let body = json!({ "name": name, "prompt": "x" });
        fixture.post("/project/create-and-build", body).await.assert_fields(&["name"]);
    }
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({}), &["name"]),
        (json!({ "name": 1 }), &["name"]),
        (json!({ "name": null }), &["name"]),
        (json!({ "name": "a", "nonsense": 1 }), &["nonsense"]),
        (json!({ "name": "a", "state": "ready" }), &["state"]),
        (json!({ "name": "a", "template": "../static" }), &["template"]),
        (json!({ "name": "a", "template": "no-such" }), &["template"]),
        (json!({ "name": "a", "build_limit": 0 }), &["build_limit"]),
        (json!({ "name": "a", "build_limit": 101 }), &["build_limit"]),
        (json!({ "name": "a", "build_limit": -1 }), &["build_limit"]),
        (json!({ "name": "a", "build_limit": 1.5 }), &["build_limit"]),
        (json!({ "name": "a", "description": "a\u{0}b" }), &["description"]),
        (json!({ "name": "a", "description": "a\u{1b}[0m" }), &["description"]),
        (json!({ "name": "a", "description": "a".repeat(1001) }), &["description"]),
        (json!({ "name": "a", "default_branch": "a b" }), &["default_branch"]),
        (json!({ "name": "a", "default_branch": "-x" }), &["default_branch"]),
        (json!({ "name": "a", "default_branch": "a..b" }), &["default_branch"]),
        (json!({ "name": "a", "default_branch": "x.lock" }), &["default_branch"]),
        (json!({ "name": "a", "default_branch": "rdev/wip/x" }), &["default_branch"]),
        (json!({ "name": "a", "repository": "no" }), &["repository"]),
        (json!({ "name": "a", "repository": false, "template": "static" }), &["template"]),
        (json!({ "name": "a", "repository": false, "git_url": "https://h/a.git" }), &["git_url"]),
        (json!({ "name": "a", "template": "static", "git_url": "https://h/a.git" }), &["template"]),
        (
            json!({ "name": "a", "build_limit": 0, "description": "\u{7}", "template": "x" }),
            &["description", "build_limit", "template"],
        ),
    ];
    for (body, fields) in cases {
        fixture.post("/project", body).await.assert_fields(fields);
    }
    for url in BAD_URLS {
        let body = json!({ "name": "a", "git_url": url });
        fixture.post("/project", body).await.assert_fields(&["git_url"]);
    }
    assert_eq!(changes(&fixture).await, before);
    fixture.project("a").await;
    for (body, fields) in [
        (json!({ "build_limit": 0 }), ["build_limit"]),
        (json!({ "build_limit": 101 }), ["build_limit"]),
        (json!({ "description": "\u{0}" }), ["description"]),
        (json!({ "default_branch": "HEAD" }), ["default_branch"]),
        (json!({ "git_url": "https://h/a.git" }), ["git_url"]),
        (json!({ "name": "b" }), ["name"]),
    ] {
        fixture.patch("/projects/a", body).await.assert_fields(&fields);
    }
}

/// Clone URLs that no installation takes as it is configured by default.
const BAD_URLS: &[&str] = &[
    "",
    "file:///etc",
    "file:///srv/a.git",
    "ext::sh -c x",
    "ssh://-oProxyCommand=x/y",
    "ssh://git@h/a",
    "git@h:a.git",
    "https://u@h/a",
    "https://u:p@h/a",
    "http://169.254.169.254/latest",
    "http://[fe80::1]/a",
    "http://127.0.0.1/a",
    "http://localhost/a",
    "http://10.0.0.1/a",
    "http://192.168.0.1/a",
    "http://[::1]/a",
    "http://2130706433/a",
    "http://[::ffff:127.0.0.1]/a",
    "https://h/a\u{0}",
    "https://h/a\nb",
    "https://h/a%00",
    "javascript:alert(1)",
    "--upload-pack=x",
];

#[tokio::test]
async fn a_build_with_a_bad_field_is_refused_and_nothing_is_queued() {
    let fixture = Fixture::new().await;
    fixture.project("site").await;
    let open = json!({ "name": "open", "repository": false });
    assert_eq!(fixture.post("/projects", open).await.status, 201);
    let before = changes(&fixture).await;
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({}), &["prompt"]),
        (json!({ "prompt": "" }), &["prompt"]),
        (json!({ "prompt": " \n\t" }), &["prompt"]),
        (json!({ "prompt": "a\u{0}b" }), &["prompt"]),
        (json!({ "prompt": "\u{1b}[2J" }), &["prompt"]),
        (json!({ "prompt": ["x"] }), &["prompt"]),
        (json!({ "prompt": "x", "promt": "x" }), &["promt"]),
        (json!({ "prompt": "x", "timeout_s": 0 }), &["timeout_s"]),
        (json!({ "prompt": "x", "timeout_s": 7201 }), &["timeout_s"]),
        (json!({ "prompt": "x", "timeout_s": -1 }), &["timeout_s"]),
        (json!({ "prompt": "x", "timeout_s": 1e10 }), &["timeout_s"]),
        (json!({ "prompt": "x", "timeout_s": "60" }), &["timeout_s"]),
        (json!({ "prompt": "x", "stall_timeout_s": 0 }), &["stall_timeout_s"]),
        (json!({ "prompt": "x", "max_turns": 0 }), &["max_turns"]),
        (json!({ "prompt": "x", "max_turns": -1 }), &["max_turns"]),
        (json!({ "prompt": "x", "max_cost_usd": 0 }), &["max_cost_usd"]),
        (json!({ "prompt": "x", "max_cost_usd": -0.5 }), &["max_cost_usd"]),
        (json!({ "prompt": "x", "priority": 10 }), &["priority"]),
        (json!({ "prompt": "x", "priority": -1 }), &["priority"]),
        (json!({ "prompt": "x", "max_attempts": 0 }), &["max_attempts"]),
        (json!({ "prompt": "x", "max_attempts": 11 }), &["max_attempts"]),
        (json!({ "prompt": "x", "agent": "gpt" }), &["agent"]),
        (json!({ "prompt": "x", "model": "" }), &["model"]),
        (json!({ "prompt": "x", "model": "--dangerous" }), &["model"]),
        (json!({ "prompt": "x", "branch": "a..b" }), &["branch"]),
        (json!({ "prompt": "x", "branch": "refs/heads/" }), &["branch"]),
        (json!({ "prompt": "x", "branch": "a\u{0}" }), &["branch"]),
        (json!({ "prompt": "x", "verify": [""] }), &["verify"]),
        (json!({ "prompt": "x", "verify": ["a\u{0}"] }), &["verify"]),
        (json!({ "prompt": "x", "verify": vec!["true"; 21] }), &["verify"]),
        (json!({ "prompt": "x", "verify": ["true", 1] }), &["verify[1]"]),
        (json!({ "prompt": "x", "commit_message": "" }), &["commit_message"]),
        (json!({ "prompt": "x", "commit_message": "a\u{8}" }), &["commit_message"]),
        (json!({ "prompt": "x", "pull_request": true, "auto_push": false }), &["pull_request"]),
        (json!({ "prompt": "x", "git_url": "https://h/a.git" }), &["git_url"]),
        (json!({ "prompt": "x", "continue_from": "x" }), &["continue_from"]),
        (
            json!({ "prompt": "x", "continue_from": "01JDGZ2V9QK8M3T5X7Y9ABCDEF" }),
            &["continue_from"],
        ),
        (
            json!({ "prompt": "", "timeout_s": 0, "max_attempts": 0 }),
            &["prompt", "timeout_s", "max_attempts"],
        ),
    ];
    for (body, fields) in cases {
        fixture.post("/projects/site/builds", body.clone()).await.assert_fields(fields);
        let outer = ["priority", "max_attempts"];
        if fields.iter().any(|field| outer.contains(field)) {
            continue;
        }
        let prefixed: Vec<_> = fields.iter().map(|field| format!("spec.{field}")).collect();
        let prefixed: Vec<_> = prefixed.iter().map(String::as_str).collect();
        let body = json!({ "project_id": "site", "type": "build", "spec": body });
        fixture.post("/work/enqueue", body).await.assert_fields(&prefixed);
    }
    let no_url = fixture.post("/projects/open/builds", json!({ "prompt": "x" })).await;
    no_url.assert_fields(&["git_url"]);
    for url in BAD_URLS {
        let body = json!({ "prompt": "x", "git_url": url });
        fixture.post("/projects/open/builds", body).await.assert_fields(&["git_url"]);
    }
    let enqueue: Vec<(Value, &[&str])> = vec![
        (json!({}), &["project_id"]),
        (json!({ "project_id": "../x", "type": "check", "spec": {} }), &["project_id"]),
        (json!({ "project_id": "site", "spec": {} }), &["type"]),
        (json!({ "project_id": "site", "type": "check" }), &["spec"]),
        (json!({ "project_id": "site", "type": "deploy", "spec": {} }), &["type"]),
        (json!({ "project_id": "site", "type": "check", "spec": [] }), &["spec"]),
        (json!({ "project_id": "site", "type": "check", "spec": null }), &["spec"]),
        (json!({ "project_id": "site", "type": "build", "spec": "x" }), &["spec"]),
        (json!({ "project_id": "site", "type": "check", "spec": {} }), &["spec.commands"]),
        (
            json!({ "project_id": "site", "type": "check", "spec": { "commands": ["a"], "x": 1 } }),
            &["spec.x"],
        ),
        (
            json!({ "project_id": "open", "type": "check", "spec": { "commands": ["a"] } }),
            &["spec.commands"],
        ),
        (
            json!({ "project_id": "site", "type": "check", "priority": 10,
            "spec": { "commands": ["a"] } }),
            &["priority"],
        ),
        (
            json!({ "project_id": "site", "type": "check", "max_attempts": 99,
            "spec": { "commands": ["a"] } }),
            &["max_attempts"],
        ),
    ];
    for (body, fields) in enqueue {
        fixture.post("/work/enqueue", body).await.assert_fields(fields);
    }
    let body = json!({ "name": "b", "prompt": "" });
    fixture.post("/project/create-and-build", body).await.assert_fields(&["prompt"]);
    fixture.get("/projects/b").await.assert_problem(404, "not_found");
    assert_eq!(changes(&fixture).await, before);
}

#[tokio::test]
async fn an_operation_without_a_body_accepts_none_or_an_empty_object() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let task = fixture.build(&project).await;
    let path = format!("/work/{task}/cancel");
    fixture.post(&path, json!({ "force": true })).await.assert_fields(&["force"]);
    fixture.post("/work/dead/redrive", json!({ "all": true })).await.assert_fields(&["all"]);
    assert_eq!(fixture.send(raw(&fixture, &path, None, "")).await.status, 200);
    let reply = fixture.send(raw(&fixture, "/work/dead/redrive", None, "")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let reply = fixture.post("/work/dead/redrive", json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn a_query_with_a_bad_or_unknown_name_is_refused() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let task = fixture.build(&project).await;
    let events = format!("/projects/site/builds/{task}/events");
    for (path, field) in [
        ("/projects?limit=0".to_owned(), "limit"),
        ("/projects?limit=101".to_owned(), "limit"),
        ("/projects?limit=-1".to_owned(), "limit"),
        ("/projects?limit=x".to_owned(), "limit"),
        ("/projects?limit=".to_owned(), "limit"),
        ("/projects?limits=1".to_owned(), "limits"),
        ("/work?state=done".to_owned(), "state"),
        ("/work?project_id=../x".to_owned(), "project_id"),
        ("/audit?project_id=A".to_owned(), "project_id"),
        (format!("{events}?after=-1"), "after"),
        (format!("{events}?wait=21"), "wait"),
        (format!("{events}?limit=1001"), "limit"),
    ] {
        fixture.get(&path).await.assert_fields(&[field]);
    }
    let mut late = request(Method::GET, &events, Some(&fixture.admin), None);
    late.headers_mut().insert("last-event-id", "x".parse().expect("a value"));
    fixture.send(late).await.assert_fields(&["last-event-id"]);
    let far = format!("{events}?after={}", u64::MAX);
    assert_eq!(fixture.get(&far).await.status, 200);
}

#[tokio::test]
async fn a_panic_is_a_problem_like_any_other_and_reveals_nothing() {
    let (fixture, _) = with_forge(ForgeBehaviour::Panics).await;
    let reply = fixture.post("/projects", json!({ "name": "site" })).await;
    let problem = reply.assert_problem(500, "internal_error");
    assert!(!problem.to_string().contains("on purpose"), "{problem}");
    fixture.sql("rdev.db", "ALTER TABLE projects RENAME TO gone");
    let problem = fixture.get("/projects").await.assert_problem(500, "internal_error");
    assert!(!problem.to_string().contains("gone"), "{problem}");
}
