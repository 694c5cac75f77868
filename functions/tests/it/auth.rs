//! Keys, scopes and the rate limit.

use http::header::AUTHORIZATION;
use http::{Method, Request};
use rdev_domain::audit::Actor;
use rdev_domain::key::Scope;
use rdev_functions::endpoints;
use rdev_functions::http::key_text;
use rdev_functions::{Settings, serve};
use serde_json::{Value, json};

use crate::support::{Fixture, now, request, send};

use Scope::{
    Admin, BuildsRead, BuildsWrite, CiRead, CiWrite, DomainsRead, DomainsWrite, ProjectsRead,
    ProjectsWrite, WorkRead, WorkWrite, WorkersRead, WorkersWrite,
};

/// Every operation that needs a key, with the scopes it needs.
pub(crate) const OPERATIONS: &[(&str, &str, &[Scope])] = &[
    ("POST", "/project", &[ProjectsWrite]),
    ("POST", "/projects", &[ProjectsWrite]),
    ("POST", "/project/create-and-build", &[ProjectsWrite, BuildsWrite]),
    ("GET", "/projects", &[ProjectsRead]),
    ("GET", "/projects/{id}", &[ProjectsRead]),
    ("PATCH", "/projects/{id}", &[ProjectsWrite]),
    ("DELETE", "/projects/{id}", &[ProjectsWrite]),
    ("POST", "/projects/{id}/builds", &[BuildsWrite]),
    ("GET", "/projects/{id}/builds", &[BuildsRead]),
    ("GET", "/projects/{id}/builds/{task_id}", &[BuildsRead]),
    ("POST", "/projects/{id}/builds/{task_id}/cancel", &[BuildsWrite]),
    ("POST", "/projects/{id}/builds/{task_id}/retry", &[BuildsWrite]),
    ("GET", "/projects/{id}/builds/{task_id}/events", &[BuildsRead]),
    ("GET", "/projects/{id}/builds/{task_id}/diff", &[BuildsRead]),
    ("GET", "/projects/{id}/domains", &[DomainsRead]),
    ("POST", "/projects/{id}/domains", &[DomainsWrite]),
    ("DELETE", "/projects/{id}/domains/{domain}", &[DomainsWrite]),
    ("GET", "/projects/{id}/ci/pipelines", &[CiRead]),
    ("GET", "/projects/{id}/ci/pipelines/{number}", &[CiRead]),
    ("POST", "/work/enqueue", &[WorkWrite]),
    ("GET", "/work", &[WorkRead]),
    ("GET", "/work/{task_id}", &[WorkRead]),
    ("GET", "/work/{task_id}/status", &[WorkRead]),
    ("POST", "/work/{task_id}/cancel", &[WorkWrite]),
    ("GET", "/work/stats", &[WorkRead]),
    ("GET", "/work/dead", &[WorkRead]),
    ("POST", "/work/dead/redrive", &[WorkWrite]),
    ("GET", "/workers", &[WorkersRead]),
    ("GET", "/workers/{id}", &[WorkersRead]),
    ("POST", "/workers/{id}/drain", &[WorkersWrite]),
    ("POST", "/workers/{id}/resume", &[WorkersWrite]),
    ("GET", "/agents", &[BuildsRead]),
    ("POST", "/projects/{id}/provision", &[ProjectsWrite]),
    ("GET", "/projects/{id}/deliveries", &[ProjectsRead]),
    ("GET", "/templates", &[ProjectsRead]),
    ("GET", "/projects/{id}/ci/pipelines/{number}/log", &[CiRead]),
    ("POST", "/projects/{id}/ci/pipelines/{number}/restart", &[CiWrite]),
    ("POST", "/projects/{id}/ci/pipelines/{number}/cancel", &[CiWrite]),
    ("POST", "/keys", &[Admin]),
    ("GET", "/keys", &[Admin]),
    ("DELETE", "/keys/{id}", &[Admin]),
    ("GET", "/audit", &[Admin]),
    ("GET", "/metrics", &[WorkersRead]),
];

/// A path that fits the route, of things that are not there.
pub(crate) fn path(route: &str) -> String {
    let id = match route.split('/').nth(1) {
        Some("keys") => "abcdefghij01",
        _ => "nowhere",
    };
    route
        .replace("{id}", id)
        .replace("{task_id}", "01JDGZ2V9QK8M3T5X7Y9ABCDEF")
        .replace("{domain}", "site.example.com")
        .replace("{number}", "1")
}

#[tokio::test]
async fn every_operation_needs_a_key_with_its_scopes() {
    let fixture = Fixture::new().await;
    for (method, route, scopes) in OPERATIONS {
        let method: Method = method.parse().expect("a method");
        let body = (method == Method::POST || method == Method::PATCH).then(|| json!({}));
        let call = |key: Option<String>| {
            let request = request(method.clone(), &path(route), key.as_deref(), body.clone());
            fixture.send(request)
        };
        call(None).await.assert_problem(401, "unauthorized");
        for missing in *scopes {
            let others: Vec<_> =
                Scope::ALL.into_iter().filter(|one| one != missing && *one != Admin).collect();
            let refused = call(Some(fixture.key(&others).await)).await;
            let problem = refused.assert_problem(403, "missing_scope");
            assert!(problem["detail"].as_str().expect("text").contains(missing.as_str()));
        }
        let allowed = call(Some(fixture.key(scopes).await)).await;
        assert!(![401, 403].contains(&allowed.status.as_u16()), "{route}: {}", allowed.text());
        let admin = call(Some(fixture.admin.clone())).await;
        assert_eq!(admin.status, allowed.status, "{route}");
    }
}

#[tokio::test]
async fn every_documented_operation_is_in_the_table_of_scopes_or_open_to_all() {
    let document: Value =
        serde_json::from_str(endpoints::openapi_json()).expect("the document is JSON");
    let mut open = Vec::new();
    let mut keyed = 0;
    for (route, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let security = operation["security"].as_array().expect("security");
            let Some(documented) = security.iter().find_map(|one| one.get("key")) else {
                open.push(route.as_str());
                continue;
            };
            let known = OPERATIONS
                .iter()
                .find(|(m, r, _)| m.eq_ignore_ascii_case(method) && r == route)
                .unwrap_or_else(|| panic!("{method} {route} is not in the table"));
            assert_eq!(*documented, serde_json::to_value(known.2).expect("names"), "{route}");
            keyed += 1;
        }
    }
    open.sort_unstable();
    let hooks = ["/hooks/gitea", "/hooks/woodpecker"];
    assert_eq!(open, [&["/docs", "/health"], &hooks[..], &["/openapi.json", "/ready"]].concat());
    assert_eq!(keyed, OPERATIONS.len());
}

/// The same for everybody, apart from the request's id.
async fn refusal(fixture: &Fixture, authorization: Option<&str>) -> Value {
    let mut request = Request::builder().uri("/projects");
    if let Some(value) = authorization {
        request = request.header(AUTHORIZATION, value);
    }
    let reply = fixture.send(request.body(axum::body::Body::empty()).expect("a request")).await;
    let mut problem = reply.assert_problem(401, "unauthorized");
    assert_eq!(reply.header("www-authenticate"), r#"Bearer realm="rdev""#);
    let id = problem["request_id"].take();
    assert_eq!(id, reply.header("x-request-id"));
    problem
}

#[tokio::test]
async fn every_bad_key_is_refused_with_the_same_words() {
    let fixture = Fixture::new().await;
    let good = fixture.admin.clone();
    let (unknown, _) = key_text::generate("never stored", vec![Admin], now(), None);
    let revoked = {
        let (text, key) = key_text::generate("revoked", vec![Admin], now(), None);
        let by = Actor::maintenance();
        fixture.store().create_key(&key, &by, now()).await.expect("a key");
        fixture.store().revoke_key(&key.id, &by, now()).await.expect("revoked");
        text.expose().to_owned()
    };
    let other_secret = {
        // A right checksum and an id that is there, but another secret.
        let id = good[5..17].parse().expect("its id");
        key_text::generate("thief", vec![Admin], now(), Some(id)).0.expose().to_owned()
    };
    let mut wrong_checksum = good.clone();
    let last = if wrong_checksum.pop() == Some('a') { 'b' } else { 'a' };
    wrong_checksum.push(last);

    let first = refusal(&fixture, None).await;
    for value in [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        good.clone(),
        format!("Basic {good}"),
        "Bearer rdev_".to_owned(),
        "Bearer rdev_x".to_owned(),
        format!("Bearer {good} x"),
        format!("Bearer {}", good.to_uppercase()),
        format!("Bearer {}", &good[1..]),
        format!("Bearer {wrong_checksum}"),
        format!("Bearer {}", unknown.expose()),
        format!("Bearer {revoked}"),
        format!("Bearer {other_secret}"),
    ] {
        assert_eq!(refusal(&fixture, Some(&value)).await, first, "{value}");
    }
    let mut twice = request(Method::GET, "/projects", Some(&good), None);
    twice.headers_mut().append(AUTHORIZATION, format!("Bearer {good}").parse().expect("a value"));
    fixture.send(twice).await.assert_problem(401, "unauthorized");

    let lower = Request::builder().uri("/projects").header(AUTHORIZATION, format!("bearer {good}"));
    let reply = fixture.send(lower.body(axum::body::Body::empty()).expect("a request")).await;
    assert_eq!(reply.status, 200, "the scheme has no case");
}

#[tokio::test]
async fn a_wrong_checksum_is_refused_without_reading_the_store() {
    let fixture = Fixture::new().await;
    let good = format!("Bearer {}", fixture.admin);
    let last = if good.ends_with('a') { 'b' } else { 'a' };
    let wrong = format!("{}{last}", &good[..good.len() - 1]);
    let before = refusal(&fixture, Some(&wrong)).await;
    // Now no key can be read.
    fixture.sql("rdev.db", "ALTER TABLE keys RENAME TO gone");
    fixture.get("/projects").await.assert_problem(500, "internal_error");
    assert_eq!(refusal(&fixture, Some(&wrong)).await, before);
}

/// Asks until it is refused, which a server that lets one request in per
/// second does soon; how often it was let in.
async fn until_refused(fixture: &Fixture, method: Method) -> usize {
    for let_in in 0..1300 {
        let name = format!("site-{let_in}");
        let body = (method == Method::POST).then(|| json!({"name": name, "repository": false}));
        let request = request(method.clone(), "/projects", Some(&fixture.admin), body);
        let reply = fixture.send(request).await;
        if reply.status == 429 {
            reply.assert_problem(429, "rate_limited");
            let seconds: u64 = reply.header("retry-after").parse().expect("whole seconds");
            assert!((1..=2).contains(&seconds), "{seconds}");
            assert!(fixture.store().project(&name.parse().expect("a slug")).await.is_err());
            return let_in;
        }
    }
    panic!("never refused");
}

#[tokio::test]
async fn a_rate_limited_key_gets_retry_after() {
    let fixture = Fixture::with(|context| {
        context.settings.rate_limit_per_s = 1;
        context.settings.rate_limit_burst = 3;
    })
    .await;
    assert!(until_refused(&fixture, Method::GET).await >= 3);
    until_refused(&fixture, Method::POST).await;
    let other = fixture.key(&[ProjectsRead]).await;
    let reply = fixture.send(request(Method::GET, "/projects", Some(&other), None)).await;
    assert_eq!(reply.status, 200, "another key counts by itself");
    // What a key may not do leaves nothing either.
    let body = Some(json!({"name": "forbidden", "repository": false}));
    let refused = fixture.send(request(Method::POST, "/projects", Some(&other), body)).await;
    refused.assert_problem(403, "missing_scope");
    assert!(fixture.store().project(&"forbidden".parse().expect("a slug")).await.is_err());
    assert_eq!(fixture.get("/health").await.status, 200);
    fixture.get("/nothing").await.assert_problem(404, "not_found");
}

#[tokio::test]
async fn the_default_is_a_hundred_a_second_and_a_burst_of_a_thousand() {
    let default = Settings::default();
    assert_eq!((default.rate_limit_per_s, default.rate_limit_burst), (100, 1000));
    let fixture = Fixture::with(|context| context.settings.rate_limit_per_s = 1).await;
    assert!(until_refused(&fixture, Method::GET).await >= 1000);
}

#[tokio::test]
async fn zero_requests_a_second_means_no_limit() {
    let fixture = Fixture::with(|context| {
        context.settings.rate_limit_per_s = 0;
        context.settings.rate_limit_burst = 1;
    })
    .await;
    for _ in 0..50 {
        assert_eq!(fixture.get("/projects").await.status, 200);
    }
}

#[tokio::test]
async fn a_single_router_has_the_same_middleware() {
    let fixture = Fixture::new().await;
    let app = serve(endpoints::workers::router(), fixture.context.clone());
    let call = |method, path: &'static str, key| send(&app, request(method, path, key, None));
    call(Method::GET, "/workers", None).await.assert_problem(401, "unauthorized");
    let key = Some(fixture.admin.as_str());
    assert_eq!(call(Method::GET, "/workers", key).await.status, 200);
    call(Method::GET, "/projects", key).await.assert_problem(404, "not_found");
    let refused = call(Method::PUT, "/workers", key).await;
    refused.assert_problem(405, "method_not_allowed");
    assert_eq!(refused.header("allow"), "GET,HEAD");
    for alone in [
        endpoints::projects::router,
        endpoints::builds::router,
        endpoints::domains::router,
        endpoints::ci::router,
        endpoints::work::router,
        endpoints::agents::router,
        endpoints::keys::router,
        endpoints::audit::router,
        endpoints::ops::router,
    ] {
        let app = serve(alone(), fixture.context.clone());
        let reply = send(&app, request(Method::GET, "/workers", key, None)).await;
        reply.assert_problem(404, "not_found");
    }
}
