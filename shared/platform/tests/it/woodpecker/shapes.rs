//! The test server's JSON has Woodpecker's fields: what the adapter is tested with is what it
//! meets. The lists are those of a recorded Woodpecker 3.13.

use std::collections::BTreeSet;

use rdev_domain::secret::Secret;
use rdev_domain::token::Token;
use rdev_platform::http::{Auth, Http};
use rdev_testkit::servers::woodpecker::TOKEN;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{LONG, active, seed};

rdev_testkit::trials! {
    async pipelines_have_the_fields_of_woodpeckers_models;
    async a_step_that_could_not_begin_says_why_and_its_exit_code_says_nothing;
    async a_repository_has_the_fields_that_are_looked_at;
    async errors_are_plain_text_or_nothing_and_wrong_paths_are_pages;
}

const PIPELINE: [&str; 30] = [
    "id",
    "number",
    "author",
    "parent",
    "event",
    "event_reason",
    "status",
    "errors",
    "created",
    "updated",
    "started",
    "finished",
    "deploy_to",
    "deploy_task",
    "commit",
    "branch",
    "rerun_count",
    "ref",
    "refspec",
    "author_avatar",
    "forge_url",
    "reviewed_by",
    "reviewed",
    "changed_files",
    "version",
    "title",
    "message",
    "timestamp",
    "sender",
    "author_email",
];
const WORKFLOW: [&str; 5] = ["id", "pipeline_id", "pid", "name", "state"];
const STEP: [&str; 9] =
    ["id", "uuid", "pipeline_id", "pid", "ppid", "name", "state", "exit_code", "type"];
/// What is left out as long as there is nothing to say.
const LATER: [&str; 4] = ["started", "finished", "agent_id", "error"];
const LINE: [&str; 6] = ["id", "step_id", "time", "line", "data", "type"];
const REPOSITORY: [&str; 10] = [
    "id",
    "forge_id",
    "forge_remote_id",
    "owner",
    "name",
    "full_name",
    "clone_url",
    "default_branch",
    "visibility",
    "active",
];
const STATUSES: [&str; 11] = [
    "skipped", "pending", "running", "success", "failure", "killed", "canceled", "error",
    "blocked", "declined", "created",
];

fn fields(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// Exactly these fields.
fn has(value: &Value, wanted: &[&str]) {
    assert_eq!(fields(value), wanted.iter().copied().collect());
}

/// Exactly these fields, and of those that come later any.
fn has_at_least(value: &Value, wanted: &[&str]) {
    let known = fields(value).into_iter().filter(|field| !LATER.contains(field));
    assert_eq!(known.collect::<BTreeSet<_>>(), wanted.iter().copied().collect());
}

async fn get(http: &Http, path: &str) -> Value {
    let path: Vec<&str> = path.split('/').collect();
    let answer = http.send(Method::GET, &path, &[], None).await.expect("an answer");
    assert_eq!(answer.status, StatusCode::OK);
    answer.json().expect("JSON")
}

fn raw(url: &str) -> Http {
    let token = Token::known(Secret::new(TOKEN));
    Http::new("the CI server", url, Auth::Bearer, token, LONG).expect("a URL")
}

async fn pipelines_have_the_fields_of_woodpeckers_models() {
    let (server, _, id) = active().await;
    let (http, id) = (raw(&server.url()), id.0);
    for (at, status) in (0..).zip(STATUSES) {
        let number = server.add_pipeline(id, seed(status, 1_700_000_000 + at));
        let step = server.add_log(id, number, &[b"a line"]);
        let whole = get(&http, &format!("api/repos/{id}/pipelines/{number}")).await;
        has(&whole, &[&PIPELINE[..], &["workflows"]].concat());
        assert_eq!(whole["status"], status);
        assert_eq!(whole["created"], 1_700_000_000 + at);
        let workflow = &whole["workflows"][0];
        has_at_least(workflow, &[&WORKFLOW[..], &["children"]].concat());
        for child in workflow["children"].as_array().expect("steps") {
            has_at_least(child, &STEP);
            assert_eq!(child["ppid"], workflow["pid"]);
        }
        let log = get(&http, &format!("api/repos/{id}/logs/{number}/{step}")).await;
        has(&log[0], &LINE);
        assert_eq!(log[0]["data"], "YSBsaW5l");
    }
    let list = get(&http, &format!("api/repos/{id}/pipelines")).await;
    let list = list.as_array().expect("an array without a total");
    assert_eq!(list.len(), STATUSES.len());
    for one in list {
        has(one, &PIPELINE);
    }
    let latest = get(&http, &format!("api/repos/{id}/pipelines/latest")).await;
    assert_eq!(latest["number"], STATUSES.len());
}

async fn a_step_that_could_not_begin_says_why_and_its_exit_code_says_nothing() {
    let (server, _, id) = active().await;
    let (http, id) = (raw(&server.url()), id.0);
    let number = server.add_pipeline(id, seed("running", 1_700_000_000));
    server.fail_before_command(id, number, "no such image");
    let whole = get(&http, &format!("api/repos/{id}/pipelines/{number}")).await;
    let workflow = &whole["workflows"][0];
    let step = &workflow["children"][1];
    assert_eq!((&whole["status"], &workflow["state"]), (&json!("failure"), &json!("failure")));
    assert_eq!(
        (&workflow["error"], &step["error"]),
        (&json!("no such image"), &json!("no such image"))
    );
    assert_eq!(step["exit_code"], 0);
    assert_eq!(workflow["children"][0].get("error"), None);
    let log = get(&http, &format!("api/repos/{id}/logs/{number}/{}", step["id"])).await;
    assert_eq!(log, Value::Null);
}

async fn a_repository_has_the_fields_that_are_looked_at() {
    let (server, _, id) = active().await;
    let http = raw(&server.url());
    let by_id = get(&http, &format!("api/repos/{}", id.0)).await;
    assert_eq!(get(&http, "api/repos/lookup/team/site").await, by_id);
    for field in REPOSITORY {
        assert!(fields(&by_id).contains(field), "{field}");
    }
    assert_eq!(by_id["forge_remote_id"], "42", "a number as a text");
    assert_eq!(by_id["active"], true);
    let version = get(&http, "version").await;
    has(&version, &["source", "version"]);
}

async fn errors_are_plain_text_or_nothing_and_wrong_paths_are_pages() {
    let (server, ci, id) = active().await;
    let http = raw(&server.url());
    let stranger = Token::known(Secret::new("wrong"));
    let stranger = Http::new("it", &server.url(), Auth::Bearer, stranger, LONG).expect("a URL");
    let ask = async |http: &Http, method: Method, path: &str, query: &[(&str, &str)]| {
        let path: Vec<&str> = path.split('/').collect();
        let answer = http.send(method, &path, query, None).await.expect("an answer");
        let kind = answer.headers.get("content-type").map(|it| it.to_str().expect("text"));
        let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().to_owned();
        (answer.status.as_u16(), kind, answer.body.len())
    };
    let nothing = |status: u16| (status, String::new(), 0);
    let (get, post) = (Method::GET, Method::POST);
    let (status, kind, _) = ask(&stranger, get.clone(), "api/user", &[]).await;
    assert_eq!((status, kind.as_str()), (401, "text/plain"));
    assert_eq!(ask(&stranger, get.clone(), "api/repos/1", &[]).await, nothing(401));
    assert_eq!(ask(&http, get.clone(), "api/repos/999", &[]).await, nothing(404));
    assert_eq!(ask(&http, get.clone(), "api/repos/x", &[]).await, nothing(400));
    assert_eq!(ask(&http, get.clone(), "api/repos/lookup/team/none", &[]).await, nothing(404));
    let list = format!("api/repos/{}/pipelines", id.0);
    assert_eq!(ask(&http, get.clone(), &list, &[("before", "soon")]).await, nothing(400));
    let (status, kind, _) = ask(&http, post.clone(), "api/repos", &[]).await;
    assert_eq!((status, kind.as_str()), (400, "text/plain"));
    let again = [("forge_remote_id", "42")];
    let (status, kind, _) = ask(&http, post.clone(), "api/repos", &again).await;
    assert_eq!((status, kind.as_str()), (409, "text/plain"));
    for (http, path) in [(&http, "api/none"), (&stranger, "api/none"), (&http, "none/at/all")] {
        for method in [get.clone(), post.clone(), Method::DELETE] {
            let (status, kind, _) = ask(http, method, path, &[]).await;
            assert_eq!((status, kind.as_str()), (200, "text/html"), "{path}");
        }
    }
    assert_eq!(ask(&http, get.clone(), "healthz", &[]).await, nothing(204));

    for at in 0..60 {
        server.add_pipeline(id.0, seed("success", 1_700_000_000 + at));
    }
    let sizes = async |query: &[(&str, &str)]| {
        let path: Vec<&str> = list.split('/').collect();
        let answer = http.send(Method::GET, &path, query, None).await.expect("an answer");
        answer.json::<Vec<Value>>().expect("an array").len()
    };
    assert_eq!(sizes(&[]).await, 50);
    assert_eq!(sizes(&[("perPage", "51")]).await, 50);
    assert_eq!(sizes(&[("perPage", "7"), ("page", "9")]).await, 4);
    assert_eq!(sizes(&[("before", "2023-11-14T22:13:25Z")]).await, 5);
    assert_eq!(sizes(&[("after", "2023-11-14T22:13:25Z")]).await, 50);
    assert_eq!(sizes(&[("event", "tag")]).await, 0);
    drop(ci);
}
