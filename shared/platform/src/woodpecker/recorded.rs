//! The adapter's parsers over each recorded answer of a real Woodpecker.

use rdev_domain::pipeline::PipelineSummary;
use rdev_testkit::captures::{self, Exchange};
use reqwest::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{SYSTEM, check, shapes};
use crate::http::Answer;

fn parsed<T: DeserializeOwned>(answer: &Answer, of: &Exchange) -> T {
    answer.json().unwrap_or_else(|error| panic!("{}: {error:?}", of.name()))
}

fn same(summary: &PipelineSummary, recorded: &Value) {
    let moment = |name: &str| {
        let seconds = recorded[name].as_i64().expect("a time");
        (seconds != 0).then_some(seconds * 1000)
    };
    assert_eq!(summary.number, recorded["number"]);
    assert_eq!(summary.status, recorded["status"]);
    assert_eq!(summary.event, recorded["event"]);
    assert_eq!(summary.commit, recorded["commit"]);
    assert_eq!(summary.branch, recorded["branch"]);
    assert_eq!(summary.message, recorded["message"]);
    assert_eq!(summary.author, recorded["author"]);
    assert_eq!(Some(summary.created_at.as_millis()), moment("created"));
    assert_eq!(summary.started_at.map(|at| at.as_millis()), moment("started"));
    assert_eq!(summary.finished_at.map(|at| at.as_millis()), moment("finished"));
}

/// A pipeline with its workflows, steps and errors.
fn whole(answer: &Answer, of: &Exchange) {
    let pipeline = parsed::<shapes::Pipeline>(answer, of).into_domain("page".to_owned());
    same(&pipeline.summary, &of.answer);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let errors = list(&of.answer["errors"]);
    let message = |error: &Value| error["message"].as_str().map(str::to_owned);
    let messages: Vec<String> = errors.iter().filter_map(message).collect();
    assert_eq!(pipeline.errors, messages);
    let workflows = list(&of.answer["workflows"]);
    assert_eq!(pipeline.workflows.len(), workflows.len(), "{}", of.name());
    for (workflow, recorded) in pipeline.workflows.iter().zip(&workflows) {
        assert_eq!(workflow.name, recorded["name"]);
        assert_eq!(workflow.status, recorded["state"]);
        let steps = list(&recorded["children"]);
        assert_eq!(workflow.steps.len(), steps.len(), "{}", of.name());
        for (step, recorded) in workflow.steps.iter().zip(&steps) {
            assert_eq!(step.id, recorded["id"]);
            assert_eq!(step.kind, recorded["type"]);
            assert_eq!(step.name, recorded["name"]);
            assert_eq!(step.status, recorded["state"]);
            // Before it has ended its exit code says nothing.
            let ended = recorded.get("finished").and(recorded["exit_code"].as_i64());
            assert_eq!(step.exit_code, ended, "{}", of.name());
        }
    }
}

/// Reads a success as the adapter reads that call's.
fn read(answer: &Answer, of: &Exchange) {
    let path = of.path.split('?').next().unwrap_or_default();
    let path: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let recorded = &of.answer;
    match (of.method.as_str(), path.as_slice()) {
        ("GET", ["healthz"]) => assert_eq!(answer.status, StatusCode::NO_CONTENT),
        ("GET", ["version"]) => {
            assert_eq!(parsed::<check::Version>(answer, of).version, recorded["version"]);
        }
        ("GET", ["api", "user"]) => {
            assert_eq!(parsed::<check::User>(answer, of).login, recorded["login"]);
        }
        ("POST", ["api", "repos"]) | ("DELETE", ["api", "repos", _]) => {
            let repository = parsed::<shapes::Repository>(answer, of);
            assert_eq!(repository.id, recorded["id"]);
            assert_eq!(repository.forge_remote_id, recorded["forge_remote_id"]);
            // Also when it has just been removed.
            assert!(repository.active, "{}", of.name());
        }
        ("GET", ["api", "repos", _, "pipelines"]) => {
            let listed = parsed::<Option<Vec<shapes::Pipeline>>>(answer, of).unwrap_or_default();
            let all = recorded.as_array().expect("a list");
            assert_eq!(listed.len(), all.len());
            for (one, recorded) in listed.into_iter().zip(all) {
                same(&one.summary("page".to_owned()), recorded);
            }
        }
        (_, ["api", "repos", _, "pipelines", ..]) if answer.status == StatusCode::NO_CONTENT => {
            assert!(answer.headers.contains_key("pipeline-filtered"), "{}", of.name());
        }
        (_, ["api", "repos", _, "pipelines", _]) => whole(answer, of),
        ("GET", ["api", "repos", _, "logs", _, _]) => {
            let lines = parsed::<Option<Vec<shapes::Line>>>(answer, of).unwrap_or_default();
            assert_eq!(lines.len(), recorded.as_array().expect("lines").len());
            for (index, line) in (0..).zip(lines) {
                let line = line.decoded().expect("base64");
                assert!(line.line == index && !line.text.is_empty(), "{line:?}");
            }
        }
        // The forge's messages; where one starts something, the answer is a pipeline, too.
        ("POST", ["api", "hook"]) if recorded.is_string() => {
            assert!(answer.text_line().starts_with("ignoring hook"), "{}", of.name());
        }
        ("POST", ["api", "hook"]) => whole(answer, of),
        // A page of the web interface is never taken for an answer.
        ("GET", ["api", "nothing"]) => assert!(answer.json::<Value>().is_err()),
        _ => panic!("{} is not read", of.name()),
    }
}

#[test]
fn each_recorded_answer_is_read_and_each_refusal_says_why() {
    let recorded = captures::woodpecker();
    let mut refusals = 0;
    for exchange in &recorded {
        let answer = Answer::recorded(SYSTEM, exchange);
        if answer.status.is_success() {
            read(&answer, exchange);
        } else {
            refusals += 1;
            // Plain text or nothing.
            assert_eq!(answer.text_line(), exchange.answer.as_str().unwrap_or_default());
        }
    }
    assert_eq!((recorded.len(), refusals), (38, 13));
}
