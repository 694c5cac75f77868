//! No 500 from any input.

use axum::body::Body;
use http::{Method, Request};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rdev_functions::http::problem::Code;
use serde_json::{Map, Value, json};

use crate::auth::OPERATIONS;
use crate::support::Fixture;

fn encoded(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
}

/// A path's variable part: something that is there, or nonsense.
fn part(there: String) -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just(there),
        1 => Just("nowhere".to_owned()),
        1 => Just("01JDGZ2V9QK8M3T5X7Y9ABCDEF".to_owned()),
        1 => Just("-1".to_owned()),
        2 => prop::collection::vec(any::<u8>(), 1..20).prop_map(|bytes| encoded(&bytes)),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        Just("\u{0}".to_owned()),
        Just("site".to_owned()),
        Just("main".to_owned()),
        Just("static".to_owned()),
        Just("https://git.example.com/a.git".to_owned()),
        Just("01JDGZ2V9QK8M3T5X7Y9ABCDEF".to_owned()),
        Just("admin".to_owned()),
        Just("build".to_owned()),
        "[a-z]{1,45}",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0_u32..12).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            fields(inner).prop_map(Value::Object),
        ]
    })
}

/// Objects whose fields are mostly ones that some operation knows.
fn fields(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let names = prop::sample::select(vec![
        "name",
        "description",
        "template",
        "git_url",
        "repository",
        "default_branch",
        "build_limit",
        "prompt",
        "agent",
        "model",
        "branch",
        "auto_commit",
        "auto_push",
        "pull_request",
        "pull_request_options",
        "deliver",
        "verify",
        "timeout_s",
        "stall_timeout_s",
        "max_turns",
        "max_cost_usd",
        "continue_from",
        "commit_message",
        "priority",
        "max_attempts",
        "project_id",
        "type",
        "spec",
        "commands",
        "scopes",
        "dead_letter_ids",
        "task_ids",
        "nonsense",
    ]);
    prop::collection::vec((names.prop_map(str::to_owned), value), 0..6)
        .prop_map(|pairs| pairs.into_iter().collect())
}

/// A body that is nearly right: a good one with some fields exchanged.
fn nearly() -> impl Strategy<Value = Value> {
    let good = prop::sample::select(vec![
        json!({ "name": "new-site", "build_limit": 3 }),
        json!({ "name": "new-site", "prompt": "x" }),
        json!({ "prompt": "x", "timeout_s": 10, "verify": ["true"], "max_cost_usd": 1.5 }),
        json!({ "project_id": "site", "type": "build", "spec": { "prompt": "x" } }),
        json!({ "project_id": "site", "type": "check", "spec": { "commands": ["true"] } }),
        json!({ "name": "ci", "scopes": ["admin"] }),
        json!({}),
    ]);
    (good, fields(value())).prop_map(|(mut good, other)| {
        if let Value::Object(fields) = &mut good {
            fields.extend(other);
        }
        good
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => nearly().prop_map(|value| value.to_string().into_bytes()),
        1 => value().prop_map(|value| value.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => Just(Vec::new()),
    ]
}

fn query() -> impl Strategy<Value = String> {
    let names = prop::sample::select(vec![
        "limit",
        "cursor",
        "state",
        "project_id",
        "after",
        "delete_repository",
        "nonsense",
    ]);
    let value = prop_oneof![
        (0_i64..200).prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| n.to_string()),
        Just("queued".to_owned()),
        Just("true".to_owned()),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| encoded(&bytes)),
    ];
    prop_oneof![
        2 => Just(String::new()),
        2 => prop::collection::vec((names, value), 0..3).prop_map(|pairs| {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("?{}", pairs.join("&"))
        }),
        1 => prop::collection::vec(any::<u8>(), 0..20)
            .prop_map(|bytes| format!("?{}", encoded(&bytes))),
    ]
}

fn headers() -> impl Strategy<Value = Vec<(&'static str, Vec<u8>)>> {
    let names = prop::sample::select(vec![
        "idempotency-key",
        "last-event-id",
        "accept",
        "content-type",
        "content-length",
        "x-forwarded-for",
        "x-request-id",
        "authorization",
    ]);
    // What a header's value may be at all.
    let byte = prop_oneof![Just(9_u8), 32_u8..127, 128_u8..=255];
    let value = prop_oneof![
        prop::collection::vec(byte, 0..40),
        Just(b"7".to_vec()),
        Just(b"application/json".to_vec()),
    ];
    prop::collection::vec((names, value), 0..3)
}

#[test]
fn no_request_gets_a_server_error() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let fixture = runtime.block_on(Fixture::new());
    let task = runtime.block_on(async {
        let project = fixture.project("site").await;
        let task = fixture.build(&project).await;
        fixture.heartbeat(rdev_domain::worker::WorkerStatus::Idle, std::time::Duration::ZERO).await;
        task
    });
    let operation = prop::sample::select(OPERATIONS.to_vec());
    let method = prop::option::weighted(
        0.1,
        prop::sample::select(vec!["GET", "PUT", "PATCH", "DELETE", "POST", "OPTIONS", "HEAD"]),
    );
    let ids = (part("site".to_owned()), part(task.to_string()), part("a.example.com".to_owned()));
    let request = (operation, method, ids, query(), headers(), body());
    let mut runner =
        TestRunner::new(Config { cases: 1500, failure_persistence: None, ..Config::default() });
    let outcome =
        runner.run(&request, |(operation, method, (id, task, other), query, headers, body)| {
            let path = operation
                .1
                .replace("{id}", &id)
                .replace("{task_id}", &task)
                .replace("{domain}", &other)
                .replace("{number}", &other);
            let method: Method = method.unwrap_or(operation.0).parse().expect("a method");
            let headed = method == Method::HEAD;
            let mut request = Request::builder()
                .method(method)
                .uri(format!("{path}{query}"))
                .header("authorization", format!("Bearer {}", fixture.admin))
                .header("content-type", "application/json")
                .body(Body::from(body))
                .expect("a request");
            for (name, value) in headers {
                let value = http::HeaderValue::from_bytes(&value).expect("a value");
                request.headers_mut().insert(name, value);
            }
            // A stream that follows a task ends only with the task.
            if path.ends_with("/events") {
                request.headers_mut().remove("accept");
            }
            let reply = runtime.block_on(fixture.send(request));
            prop_assert!(reply.status.as_u16() < 500, "{}", reply.text());
            if reply.status.is_client_error() && !headed {
                prop_assert_eq!(reply.header("content-type"), "application/problem+json");
                let problem = reply.json();
                let known = Code::ALL.iter().any(|code| code.as_str() == problem["code"]);
                prop_assert!(known, "{}", problem);
                // The id of the answer that is replayed is the first request's.
                let replayed = !reply.header("idempotency-replayed").is_empty();
                prop_assert!(replayed || problem["request_id"] == reply.header("x-request-id"));
            }
            Ok(())
        });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
