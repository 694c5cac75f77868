//! The API behind an API Gateway: events in, answers out.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rdev_domain::page::Page;
use rdev_domain::retention::Retention;
use rdev_domain::secret::Secret;
use rdev_domain::spec::AgentName;
use rdev_functions::lambda::{dead_letters, environment, families, http_api};
use rdev_functions::{Settings, serve};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::OPERATIONS;
use crate::support::{Fixture, ForgeBehaviour, TestForge};

/// One of the samples in `events/`, with a key that is one.
fn sample(name: &str, key: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events").join(name);
    let text = fs::read_to_string(path.with_extension("json")).expect("a sample");
    serde_json::from_str(&text.replace("RDEV_KEY", key)).expect("JSON")
}

/// A GET as a gateway sends it.
fn get(path: &str, key: &str) -> Value {
    json!({
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": { "authorization": format!("Bearer {key}") },
        "requestContext": { "http": { "method": "GET" }, "stage": "$default" },
        "isBase64Encoded": false,
    })
}

fn post(path: &str, key: &str, body: &str) -> Value {
    let mut event = get(path, key);
    event["requestContext"]["http"]["method"] = "POST".into();
    event["headers"]["content-type"] = "application/json".into();
    event["body"] = body.into();
    event
}

/// The body of an answer, which must be JSON.
fn body(answer: &Value) -> Value {
    assert_eq!(answer["isBase64Encoded"], false, "{answer}");
    serde_json::from_str(answer["body"].as_str().expect("text")).expect("JSON")
}

#[track_caller]
fn assert_problem(answer: &Value, status: u16, code: &str) -> String {
    assert_eq!(answer["statusCode"], status, "{answer}");
    assert_eq!(answer["headers"]["content-type"], "application/problem+json", "{answer}");
    let problem = body(answer);
    assert_eq!(problem["code"], code, "{problem}");
    assert_eq!(problem["request_id"], answer["headers"]["x-request-id"], "{answer}");
    problem["detail"].as_str().expect("a detail").to_owned()
}

#[tokio::test]
async fn each_function_alone_answers_its_sample() {
    let fixture = Fixture::new().await;
    let alone = |name: &str| {
        let (_, router) = families::FUNCTIONS.iter().find(|one| one.0 == name).expect(name);
        serve(router(), fixture.context.clone())
    };
    let call =
        async |name: &str| http_api::answer(&alone(name), sample(name, &fixture.admin)).await;
    let created = call("projects").await;
    assert_eq!(created["statusCode"], 201, "{created}");
    assert_eq!(created["headers"]["location"], "/projects/site");
    assert_eq!(body(&created)["state"], "ready");
    let build = call("builds").await;
    assert_eq!(build["statusCode"], 202, "{build}");
    assert_problem(&call("domains").await, 409, "dns_not_configured");
    assert_problem(&call("ci").await, 409, "ci_not_configured");
    let check = call("work").await;
    assert_eq!(body(&check)["type"], "check", "{check}");
    assert_eq!(body(&call("workers").await)["items"], json!([]));
    assert_eq!(body(&call("ops").await)["status"], "ok");
    // And no other's.
    let other = sample("projects", &fixture.admin);
    let other = http_api::answer(&alone("workers"), other).await;
    assert_problem(&other, 404, "not_found");
}

#[test]
fn every_operation_is_served_by_exactly_one_function() {
    let routes = families::routes();
    let mut served: Vec<_> = routes.iter().map(|one| (one.method, one.path.as_str())).collect();
    let mut expected: Vec<_> =
        OPERATIONS.iter().map(|(method, path, _)| (*method, *path)).collect();
    expected.extend(["/docs", "/health", "/openapi.json", "/ready"].map(|path| ("GET", path)));
    expected.extend(["/hooks/gitea", "/hooks/woodpecker"].map(|path| ("POST", path)));
    served.sort_unstable();
    expected.sort_unstable();
    assert_eq!(served, expected);
}

#[tokio::test]
async fn an_event_that_is_not_a_request_of_version_2_is_answered_with_400() {
    let fixture = Fixture::new().await;
    let good = get("/projects", &fixture.admin);
    assert_eq!(http_api::answer(&fixture.app, good.clone()).await["statusCode"], 200);
    let first = json!({ "version": "1.0", "path": "/projects", "httpMethod": "GET" });
    let answer = http_api::answer(&fixture.app, first).await;
    let detail = assert_problem(&answer, 400, "malformed_request");
    assert!(detail.contains("set the integration's payload format version to 2.0"), "{detail}");

    let mut bad = vec![json!(null), json!([]), json!(7), json!({}), json!({ "version": "2.0" })];
    for (place, value) in [
        ("/version", json!(2)),
        ("/rawPath", json!(null)),
        ("/rawPath", json!("")),
        ("/rawPath", json!("projects")),
        ("/rawPath", json!(format!("/{}", "x".repeat(70_000)))),
        ("/headers", json!([])),
        ("/headers", json!({ "accept": ["text/html", "text/plain"] })),
        ("/headers", json!({ "a header": "x" })),
        ("/headers", json!({ "x-name": "two\nlines" })),
        ("/requestContext", json!({})),
        ("/requestContext/http/method", json!("GET IT")),
        ("/requestContext/stage", json!(7)),
        ("/isBase64Encoded", json!("yes")),
    ] {
        let mut event = good.clone();
        *event.pointer_mut(place).expect(place) = value;
        bad.push(event);
    }
    let mut event = post("/projects", &fixture.admin, "no base64!");
    event["isBase64Encoded"] = true.into();
    bad.push(event);
    for event in bad {
        let answer = http_api::answer(&fixture.app, event).await;
        assert_problem(&answer, 400, "malformed_request");
    }
}

#[tokio::test]
async fn bodies_come_as_text_or_as_base64_and_have_a_limit() {
    let fixture = Fixture::new().await;
    let text = json!({ "name": "zwölf", "description": "Zwölf" }).to_string();
    let answer = http_api::answer(&fixture.app, post("/project", &fixture.admin, &text)).await;
    assert_problem(&answer, 422, "invalid_request");
    let text = json!({ "name": "site", "description": "Zwölf" }).to_string();
    let mut event = post("/project", &fixture.admin, &STANDARD.encode(text));
    event["isBase64Encoded"] = true.into();
    // Whatever the gateway says of the length, the body is what it is.
    event["headers"]["content-length"] = "9999999999".into();
    let answer = http_api::answer(&fixture.app, event.clone()).await;
    assert_eq!(answer["statusCode"], 201, "{answer}");
    assert_eq!(body(&answer)["description"], "Zwölf");

    event["body"] = STANDARD.encode([0xff, 0xfe]).into();
    let answer = http_api::answer(&fixture.app, event.clone()).await;
    assert_problem(&answer, 400, "malformed_json");
    event["body"] = STANDARD.encode(vec![b' '; 256 * 1024 + 1]).into();
    assert_problem(&http_api::answer(&fixture.app, event).await, 413, "body_too_large");
    let mut none = post("/project", &fixture.admin, "");
    none["body"] = Value::Null;
    assert_problem(&http_api::answer(&fixture.app, none).await, 400, "malformed_json");
}

#[tokio::test]
async fn a_stage_is_removed_from_the_path_and_may_be_missing() {
    let fixture = Fixture::new().await;
    let call = async |path: &str, stage: Value| {
        let mut event = get(path, &fixture.admin);
        event["requestContext"]["stage"] = stage;
        http_api::answer(&fixture.app, event).await["statusCode"].as_u64().expect("a status")
    };
    assert_eq!(call("/projects", json!("$default")).await, 200);
    assert_eq!(call("/prod/projects", json!("prod")).await, 200);
    assert_eq!(call("/projects", json!("prod")).await, 200, "a custom domain has no stage");
    assert_eq!(call("/projects", json!("pro")).await, 200);
    assert_eq!(call("/prod", json!("prod")).await, 404);
    assert_eq!(call("/prod/projects", json!("$default")).await, 404);
    assert_eq!(call("/projects", Value::Null).await, 200);
    let mut event = get("/projects", &fixture.admin);
    event["requestContext"].as_object_mut().expect("fields").remove("stage");
    assert_eq!(http_api::answer(&fixture.app, event).await["statusCode"], 200);
}

#[tokio::test]
async fn repeated_headers_and_cookies_are_joined() {
    let fixture = Fixture::new().await;
    let mut event = get("/projects", &fixture.admin);
    event["cookies"] = json!(["a=1", "b=2"]);
    event["headers"]["accept"] = "application/json,text/html".into();
    assert_eq!(http_api::answer(&fixture.app, event.clone()).await["statusCode"], 200);
    // The gateway joins them: two keys are none.
    event["headers"]["authorization"] = format!("Bearer {0},Bearer {0}", fixture.admin).into();
    assert_problem(&http_api::answer(&fixture.app, event).await, 401, "unauthorized");
    let mut event = post("/projects", &fixture.admin, r#"{"name": "site"}"#);
    event["headers"]["content-type"] = "application/json,application/json".into();
    let answer = http_api::answer(&fixture.app, event).await;
    assert_problem(&answer, 415, "unsupported_media_type");
}

#[tokio::test]
async fn paths_and_queries_are_read_however_the_gateway_decoded_them() {
    let fixture = Fixture::new().await;
    fixture.project("site").await;
    for path in ["/projects/a b", "/projects/zwölf", "/projects/100%", "/projects/a%2Fb", "//"] {
        let answer = http_api::answer(&fixture.app, get(path, &fixture.admin)).await;
        let status = answer["statusCode"].as_u64().expect("a status");
        assert!((400..500).contains(&status), "{path}: {answer}");
    }
    let answer = http_api::answer(&fixture.app, get("/projects/s%69te", &fixture.admin)).await;
    assert_eq!(answer["statusCode"], 200, "{answer}");
    for (query, status) in [
        ("limit=1", 200),
        ("limit=%31", 200),
        ("limit=ä", 422),
        ("limit=1&limit=2", 422),
        ("?", 422),
    ] {
        let mut event = get("/projects", &fixture.admin);
        event["rawQueryString"] = query.into();
        let answer = http_api::answer(&fixture.app, event).await;
        assert_eq!(answer["statusCode"], status, "{query}: {answer}");
    }
}

#[tokio::test]
async fn metrics_need_a_key_whatever_address_the_caller_claims() {
    let fixture = Fixture::new().await;
    let mut event = get("/metrics", "none");
    event["requestContext"]["http"]["sourceIp"] = "127.0.0.1".into();
    assert_problem(&http_api::answer(&fixture.app, event).await, 401, "unauthorized");
    let answer = http_api::answer(&fixture.app, get("/metrics", &fixture.admin)).await;
    assert_eq!(answer["statusCode"], 200, "{answer}");
}

#[tokio::test]
async fn no_page_exceeds_what_a_function_may_answer_and_no_item_is_lost() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let prompt = "\"".repeat(95_000);
    for _ in 0..40 {
        let build = json!({ "prompt": prompt });
        let path = format!("/projects/{project}/builds");
        assert_eq!(fixture.post(&path, build).await.status, 202);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let mut event = get("/work", &fixture.admin);
        event["rawQueryString"] = format!("limit=100{cursor}").into();
        let answer = http_api::answer(&fixture.app, event).await;
        assert!(answer.to_string().len() < 6 * 1024 * 1024, "{}", answer.to_string().len());
        assert_eq!(answer["isBase64Encoded"], true);
        let page = STANDARD.decode(answer["body"].as_str().expect("text")).expect("base64");
        let page: Value = serde_json::from_slice(&page).expect("JSON");
        let items = page["items"].as_array().expect("items");
        seen.extend(items.iter().map(|item| item["id"].as_str().expect("an id").to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
        assert!(items.len() > 10, "{}", items.len());
    }
    assert_eq!(seen.len(), 40);
    assert!(seen.is_sorted_by(|one, next| one > next), "{seen:?}");
}

#[test]
fn no_event_makes_the_function_fail() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let fixture = runtime.block_on(Fixture::new());
    let good = [
        sample("projects", &fixture.admin),
        sample("work", &fixture.admin),
        get("/projects", &fixture.admin),
    ];
    let places: Vec<&str> = vec![
        "/version",
        "/rawPath",
        "/rawQueryString",
        "/headers",
        "/headers/authorization",
        "/headers/content-type",
        "/headers/idempotency-key",
        "/requestContext",
        "/requestContext/http",
        "/requestContext/http/method",
        "/requestContext/stage",
        "/body",
        "/isBase64Encoded",
    ];
    let value = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "/[ -~]{0,30}".prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| STANDARD.encode(bytes).into()),
        Just(json!([])),
        Just(json!({ "": "" })),
    ];
    let change = (0..good.len(), prop::sample::select(places), value);
    let mut runner = TestRunner::new(Config { cases: 1500, ..Config::default() });
    let run = runner.run(&change, |(which, place, value)| {
        let mut event = good[which].clone();
        if let Some(there) = event.pointer_mut(place) {
            *there = value;
        }
        let answer = runtime.block_on(http_api::answer(&fixture.app, event));
        let status = answer["statusCode"].as_u64().expect("a status");
        prop_assert!((200..500).contains(&status), "{answer}");
        prop_assert!(answer["body"].is_string() && answer["headers"].is_object(), "{answer}");
        Ok(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn a_batch_of_dead_letters_is_recorded_and_what_failed_is_named() {
    let fixture = Fixture::new().await;
    fixture.project("site").await;
    let (store, queue) = (&*fixture.context.store, &*fixture.context.queue);
    let before = queue.stats().await.expect("counted").visible;
    let event = sample("dead_letters", "");
    for _ in 0..2 {
        let answer = dead_letters::batch(store, queue, event.clone()).await.expect("a batch");
        assert_eq!(answer, json!({ "batchItemFailures": [] }));
    }
    let page = Page { limit: 100, before: None };
    let letters = store.dead_letters(&page).await.expect("listed").items;
    let recorded: Vec<_> =
        letters.iter().map(|one| (one.reason.as_str(), one.receive_count)).collect();
    assert_eq!(recorded, [("unknown_version", 11), ("garbage", 11), ("undelivered", 11)]);
    assert_eq!(letters[0].id.timestamp_ms(), 1_732_310_600_003);
    assert_eq!(queue.stats().await.expect("counted").visible, before + 2);

    fixture.sql("rdev.db", "ALTER TABLE dead_letters RENAME TO gone");
    let answer = dead_letters::batch(store, queue, event).await.expect("a batch");
    assert_eq!(answer["batchItemFailures"].as_array().map(Vec::len), Some(3), "{answer}");
    let first = &answer["batchItemFailures"][0]["itemIdentifier"];
    assert_eq!(*first, "059f36b4-87a3-44ab-83d2-661970000001");
    assert!(dead_letters::batch(store, queue, json!({ "records": 1 })).await.is_err());
}

#[tokio::test]
async fn without_a_forge_a_project_needs_an_existing_repository() {
    let fixture = Fixture::with(|context| {
        context.forge = TestForge::over(context.forge.clone(), ForgeBehaviour::NotSupported) as _;
    })
    .await;
    for path in ["/project", "/project/create-and-build"] {
        let mut body = json!({ "name": "site" });
        if path != "/project" {
            body["prompt"] = "x".into();
        }
        let problem = fixture.post(path, body).await.assert_problem(409, "forge_not_configured");
        assert!(problem.to_string().contains("git_url"), "{problem}");
        // The name is still free.
        fixture.get("/projects/site").await.assert_problem(404, "not_found");
    }
    let body = json!({ "name": "site", "git_url": "https://git.example.com/site.git" });
    assert_eq!(fixture.post("/project", body).await.status, 201);
    assert_eq!(
        fixture.post("/project", json!({ "name": "b", "repository": false })).await.status,
        201
    );
    let kept = fixture.delete("/projects/site?delete_repository=true").await;
    kept.assert_problem(409, "repository_not_ours");
}

#[test]
fn a_functions_environment_sets_what_the_file_sets_elsewhere() {
    let read = |variables: &[(&str, &str)]| {
        let owned: Vec<_> =
            variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        environment::settings(&owned)
    };
    let (settings, retention) = read(&[("RDEV_TABLE", "rdev"), ("PATH", "/bin")]).expect("read");
    let default = Settings { sse_finite: true, ..Settings::default() };
    assert_eq!(format!("{settings:?}"), format!("{default:?}"));
    assert_eq!(retention, Retention::default());
    let (settings, retention) = read(&[
        ("RDEV_DEFAULT_AGENT", "codex"),
        ("RDEV_ALLOW_PRIVATE_ADDRESSES", "true"),
        ("RDEV_API__RATE_LIMIT_PER_S", "7"),
        ("RDEV_RETENTION__BUILDS_DAYS", "30"),
        ("RDEV_REGISTRY", "registry.example.com/acme"),
        ("RDEV_API__BODY_LIMIT_BYTES", ""),
    ])
    .expect("read");
    assert_eq!(settings.default_agent, AgentName::Codex);
    assert!(settings.url_policy.allow_private);
    assert_eq!((settings.rate_limit_per_s, retention.builds_days), (7, 30));
    assert_eq!(settings.registry.as_deref(), Some("registry.example.com/acme"));
    assert_eq!(settings.body_limit_bytes, Settings::default().body_limit_bytes);
    for (name, value) in [
        ("RDEV_DEFAULT_AGENT", "hunter2"),
        ("RDEV_ALLOW_PRIVATE_ADDRESSES", "hunter2"),
        ("RDEV_API__RATE_LIMIT_PER_S", "hunter2"),
        ("RDEV_API__RATE", "1"),
        ("RDEV_REGISTRY", "hunter2 --push"),
        ("RDEV_RETENTION__BUILDS_DAYS", "-1"),
    ] {
        let wrong = read(&[(name, value)]).expect_err(name).to_string();
        assert!(wrong.contains(name.trim_end_matches("RATE")), "{wrong}");
        assert!(!wrong.contains("hunter2"), "{wrong}");
    }
}

#[test]
fn a_section_of_the_environment_parses_numbers_and_ignores_empty_variables() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Forge {
        owner: String,
        timeout_s: u64,
        private: bool,
        #[serde(default)]
        token: Option<Secret>,
        #[serde(default)]
        token_arn: Option<String>,
    }
    let read = |variables: &[(&str, &str)]| {
        let owned: Vec<_> =
            variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        environment::section::<Forge>(&owned, "RDEV_FORGE__")
    };
    let good = [
        ("RDEV_FORGE__OWNER", "1234"),
        ("RDEV_FORGE__TIMEOUT_S", "7"),
        ("RDEV_FORGE__PRIVATE", "true"),
        ("RDEV_FORGE__TOKEN", "12e4"),
        ("RDEV_FORGE__TOKEN_ARN", ""),
        ("RDEV_OTHER__OWNER", "none"),
    ];
    let forge = read(&good).expect("read");
    assert_eq!((forge.owner.as_str(), forge.timeout_s, forge.private), ("1234", 7, true));
    assert_eq!(forge.token.map(|token| token.expose().to_owned()).as_deref(), Some("12e4"));
    assert_eq!(forge.token_arn, None);

    let missing = read(&good[1..]).expect_err("no owner").to_string();
    assert!(missing.contains("RDEV_FORGE__") && missing.contains("owner"), "{missing}");
    let mut wrong = good;
    wrong[1].1 = "hunter2";
    let wrong = read(&wrong).expect_err("no number").to_string();
    assert_eq!(wrong, "RDEV_FORGE__TIMEOUT_S has an invalid value or is unknown");
    let unknown = read(&[("RDEV_FORGE__OWNR", "hunter2")]).expect_err("a slip").to_string();
    assert_eq!(unknown, "RDEV_FORGE__OWNR has an invalid value or is unknown");
}
