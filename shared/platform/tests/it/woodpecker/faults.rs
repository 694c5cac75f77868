//! For each call, each way in which an answer goes wrong.

use std::time::Duration;

use rdev_domain::pipeline::CiId;
use rdev_domain::ports::{Ci, PortError};
use rdev_platform::woodpecker::Woodpecker;
use rdev_testkit::servers::faults::{Fault, Server};
use rdev_testkit::servers::woodpecker::TOKEN;

use super::{active, adapter, all, first, hasty, seed, site};

rdev_testkit::trials! {
    async each_fault_of_each_call_has_its_error_and_changes_nothing;
    async after_a_429_nothing_is_sent_until_its_time_has_come;
    async a_server_that_knows_no_before_is_found_out;
    async a_server_that_knows_no_filters_is_filtered_here;
}

const CALLS: [&str; 7] =
    ["activate", "deactivate", "pipelines", "pipeline", "log", "restart", "cancel"];

async fn call(ci: &Woodpecker, name: &str, id: CiId) -> Result<(), PortError> {
    match name {
        "activate" => ci.activate(&site()).await.map(drop),
        "deactivate" => ci.deactivate(id).await,
        "pipelines" => ci.pipelines(id, &all(), &first(10)).await.map(drop),
        "pipeline" => ci.pipeline(id, 1).await.map(drop),
        "log" => ci.log(id, 1, 1).await.map(drop),
        "restart" => ci.restart(id, 1).await.map(drop),
        "cancel" => ci.cancel(id, 1).await,
        other => panic!("no call {other}"),
    }
}

/// What the answer must be.
fn kind(answer: &Result<(), PortError>) -> &'static str {
    match answer {
        Ok(()) => "done",
        Err(PortError::Unavailable { .. }) => "unavailable",
        Err(PortError::TimedOut { .. }) => "timed out",
        Err(PortError::Upstream { .. }) => "upstream",
        Err(PortError::Denied { .. }) => "denied",
        Err(PortError::NotFound { .. }) => "not found",
        Err(PortError::Limited { retry_after: Some(after), .. })
            if (Duration::from_secs(1)..=Duration::from_secs(7)).contains(after) =>
        {
            "limited"
        }
        Err(_) => "something else",
    }
}

fn expected(name: &str, fault: &Fault) -> &'static str {
    match fault {
        Fault::Refused | Fault::Gone | Fault::Status(500) | Fault::CutOff => "unavailable",
        Fault::Hang => "timed out",
        Fault::Limited(_) => "limited",
        Fault::Status(401 | 403) => "denied",
        Fault::Status(404) => match name {
            // What is not there need not be removed.
            "deactivate" => "done",
            // A project's own repository is not there: not what was asked for.
            "pipelines" => "upstream",
            _ => "not found",
        },
        _ => "upstream",
    }
}

async fn each_fault_of_each_call_has_its_error_and_changes_nothing() {
    let (server, _, id) = active().await;
    server.add_pipeline(id.0, seed("running", 1_700_000_000));
    let elsewhere = Server::start();
    let broken = Server::before(&server.url());
    let before = server.repositories();
    let ours = format!("Bearer {TOKEN}");
    for fault in Fault::table(&elsewhere.url()) {
        for name in CALLS {
            broken.answer_with(fault.clone());
            broken.forget();
            // A new one each time: after a 429 it sends nothing for a while.
            let url = broken.url();
            let ci = if fault == Fault::Hang { hasty(&url) } else { adapter(&url) };
            let answer = call(&ci, name, id).await;
            assert_eq!(kind(&answer), expected(name, &fault), "{name}, {fault:?}: {answer:?}");
            let text = format!("{answer:?}");
            assert!(!text.contains(TOKEN), "{name}, {fault:?}: {text}");
            for request in broken.requests() {
                assert_eq!(request.authorization(), Some(ours.as_str()));
                assert!(!request.target.contains(TOKEN), "{}", request.target);
            }
            // A 404 is all that a removal can be told; nothing else is believed.
            assert_eq!(server.repositories(), before, "{name}, {fault:?}");
        }
    }
    assert!(elsewhere.requests().is_empty(), "{:?}", elsewhere.requests());
    broken.heal();
    let read = adapter(&broken.url()).pipeline(id, 1).await.expect("it is there");
    assert_eq!(read.summary.status, "running");
}

async fn after_a_429_nothing_is_sent_until_its_time_has_come() {
    let server = Server::start();
    server.answer_with(Fault::Limited(7));
    let ci = adapter(&server.url());
    for name in CALLS {
        assert_eq!(kind(&call(&ci, name, CiId(1)).await), "limited", "{name}");
    }
    assert_eq!(server.requests().len(), 1);
}

async fn a_server_that_knows_no_before_is_found_out() {
    let server = Server::start();
    // The same full page again and again, all of it newer than what is asked for.
    let one =
        |number: u64| format!(r#"{{"number": {number}, "status": "success", "created": 2000}}"#);
    let page: Vec<String> = (1..=50).map(one).collect();
    let body = format!("[{}]", page.join(","));
    server.answer_with(Fault::Body(200, "application/json", body));
    let ci = adapter(&server.url());
    let page =
        rdev_domain::page::Page { limit: 10, before: Some(ulid::Ulid::from_parts(1_000_000, 0)) };
    let error = ci.pipelines(CiId(1), &all(), &page).await.expect_err("no end");
    assert!(matches!(error, PortError::Upstream { .. }), "{error:?}");
    assert_eq!(server.requests().len(), 20);
}

async fn a_server_that_knows_no_filters_is_filtered_here() {
    let server = Server::start();
    let body = r#"[
        {"number": 3, "status": "success", "branch": "next", "created": 3},
        {"number": 2, "status": "failure", "branch": "main", "created": 2},
        {"number": 1, "status": "success", "branch": "main", "created": 1}]"#;
    server.answer_with(Fault::Body(200, "application/json", body.to_owned()));
    let mut filter = all();
    (filter.branch, filter.status) = (Some("main".to_owned()), Some("success".to_owned()));
    let listed = adapter(&server.url()).pipelines(CiId(1), &filter, &first(10)).await;
    let numbers: Vec<u64> =
        listed.expect("a page").items.into_iter().map(|one| one.number).collect();
    assert_eq!(numbers, [1]);
    let target = &server.requests()[0].target;
    assert!(target.contains("branch=main") && target.contains("status=success"), "{target}");
}
