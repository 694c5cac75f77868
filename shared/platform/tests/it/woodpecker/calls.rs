//! Pipelines one by one: reading, logs, restart, cancel.

use rdev_domain::Invalid;
use rdev_domain::pipeline::CiId;
use rdev_domain::ports::{Ci, Conflict, PortError};
use rdev_platform::woodpecker::MAX_LOG_LINES;
use rdev_testkit::servers::faults::{Fault, Server};

use super::{active, adapter, all, chain, first, seed};

rdev_testkit::trials! {
    async a_pipeline_has_its_workflows_and_steps_and_is_the_lists_own;
    async errors_and_warnings_of_a_definition_are_told_apart;
    async a_log_is_text_whatever_the_step_wrote;
    async a_log_that_is_too_long_says_what_is_left_out;
    async a_log_that_is_no_base64_is_the_servers_fault;
    async only_what_goes_on_can_be_cancelled;
    async a_restart_is_a_new_pipeline_or_says_why_not;
    async a_page_of_html_is_never_an_answer;
}

fn is_not_found<T>(answer: &Result<T, PortError>) -> bool {
    matches!(answer, Err(PortError::NotFound { .. }))
}

async fn a_pipeline_has_its_workflows_and_steps_and_is_the_lists_own() {
    let (server, ci, id) = active().await;
    let number = server.add_pipeline(id.0, seed("running", 1_700_000_000));
    let running = ci.pipeline(id, number).await.expect("it is there");
    let listed = ci.pipelines(id, &all(), &first(1)).await.expect("a page");
    assert_eq!(listed.items, std::slice::from_ref(&running.summary));
    assert_eq!(running.summary.created_at.to_string(), "2023-11-14T22:13:20.000Z");
    assert_eq!(running.summary.finished_at, None);
    let page = format!("{}/repos/{}/pipeline/{number}", server.url(), id.0);
    assert_eq!(running.summary.url, Some(page));
    let [workflow] = running.workflows.as_slice() else { panic!("{running:?}") };
    assert_eq!((workflow.name.as_str(), workflow.status.as_str()), ("woodpecker", "running"));
    let steps: Vec<_> = workflow.steps.iter().map(|it| (it.kind.as_str(), it.exit_code)).collect();
    assert_eq!(steps, [("clone", None), ("commands", None)]);

    server.set_status(id.0, number, "success");
    let ended = ci.pipeline(id, number).await.expect("it is there");
    assert!(ended.summary.finished_at.is_some());
    assert!(ended.workflows[0].steps.iter().all(|step| step.exit_code == Some(0)));
    for none in [0, number + 1, u64::MAX] {
        assert!(is_not_found(&ci.pipeline(id, none).await), "{none}");
    }
    assert!(is_not_found(&ci.pipeline(CiId(999), number).await));
}

async fn errors_and_warnings_of_a_definition_are_told_apart() {
    let server = Server::start();
    let body = r#"{"number": 3, "status": "quite new", "created": 1, "extra": {}, "errors": [
        {"type": "linter", "message": "no `when`", "is_warning": true, "data": null},
        {"type": "compiler", "message": "no steps", "is_warning": false}],
        "workflows": [{"id": 1, "state": "error", "error": "", "children": null},
                      {"id": 2, "state": "killed", "error": "out of room"}]}"#;
    server.answer_with(Fault::Body(200, "application/json; charset=utf-8", body.to_owned()));
    let read = adapter(&server.url()).pipeline(CiId(1), 3).await.expect("unknown fields are fine");
    assert_eq!(read.errors, ["warning: no `when`", "no steps"]);
    assert_eq!(read.summary.status, "quite new");
    let errors: Vec<_> = read.workflows.iter().map(|it| it.error.as_deref()).collect();
    assert_eq!(errors, [None, Some("out of room")]);
}

async fn a_log_is_text_whatever_the_step_wrote() {
    let (server, ci, id) = active().await;
    let number = server.add_pipeline(id.0, seed("success", 1_700_000_000));
    let step = server.add_log(id.0, number, &[]);
    assert!(ci.log(id, number, step).await.expect("an empty log").is_empty());
    server.add_log(id.0, number, &[b"+ make\r\n", b"caf\xc3\xa9 \xff", b""]);
    let log = ci.log(id, number, step).await.expect("a log");
    let texts: Vec<&str> = log.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts, ["+ make", "café \u{fffd}", ""]);
    assert_eq!(log.iter().map(|line| line.line).collect::<Vec<_>>(), [0, 1, 2]);

    let other = server.add_pipeline(id.0, seed("success", 1_700_000_001));
    assert!(is_not_found(&ci.log(id, other, step).await), "the step is of another pipeline");
    assert!(is_not_found(&ci.log(id, number, 999_999).await));
    assert!(is_not_found(&ci.log(id, 99, step).await));
    assert!(is_not_found(&ci.log(id, u64::MAX, step).await));
}

async fn a_log_that_is_too_long_says_what_is_left_out() {
    let (server, ci, id) = active().await;
    let number = server.add_pipeline(id.0, seed("success", 1_700_000_000));
    let line: &[u8] = b"line";
    let step = server.add_log(id.0, number, &vec![line; MAX_LOG_LINES]);
    assert_eq!(ci.log(id, number, step).await.expect("a log").len(), MAX_LOG_LINES);
    server.add_log(id.0, number, &[line; 3]);
    let log = ci.log(id, number, step).await.expect("a log");
    assert_eq!(log.len(), MAX_LOG_LINES + 1);
    let last = log.last().expect("a line");
    assert!(last.text.starts_with("… and 3 more lines: http://127.0.0.1:"), "{}", last.text);
    assert_eq!(last.line, MAX_LOG_LINES as u64);
}

async fn a_log_that_is_no_base64_is_the_servers_fault() {
    let server = Server::start();
    let body = r#"[{"id": 1, "step_id": 2, "time": 0, "line": 0, "data": "%%", "type": 0}]"#;
    server.answer_with(Fault::Body(200, "application/json", body.to_owned()));
    let error = adapter(&server.url()).log(CiId(1), 1, 2).await.expect_err("no base64");
    assert!(matches!(error, PortError::Upstream { .. }), "{error:?}");
}

async fn only_what_goes_on_can_be_cancelled() {
    let (server, ci, id) = active().await;
    let number = server.add_pipeline(id.0, seed("running", 1_700_000_000));
    ci.cancel(id, number).await.expect("it is cancelled");
    let read = ci.pipeline(id, number).await.expect("it is there");
    assert_eq!(read.summary.status, "killed");
    let again = ci.cancel(id, number).await;
    assert!(matches!(again, Err(PortError::Conflict(Conflict::NotRunning))), "{again:?}");
    assert!(is_not_found(&ci.cancel(id, 99).await));
}

async fn a_restart_is_a_new_pipeline_or_says_why_not() {
    let (server, ci, id) = active().await;
    let number = server.add_pipeline(id.0, seed("success", 1_700_000_000));
    let new = ci.restart(id, number).await.expect("it is restarted");
    assert_eq!(new.number, number + 1);
    assert!(new.url.is_some_and(|url| url.ends_with("/pipeline/2")));
    // It never had a definition here, and so its repeat has an error.
    assert_eq!(new.status, "error");
    assert!(is_not_found(&ci.restart(id, 99).await));

    let blocked = server.add_pipeline(id.0, seed("blocked", 1_700_000_000));
    let error = ci.restart(id, blocked).await.expect_err("somebody must approve it");
    assert!(matches!(error, PortError::Invalid(Invalid { what: "pipeline", .. })), "{error:?}");
    assert!(error.to_string().contains("status blocked"), "{error}");
}

async fn a_page_of_html_is_never_an_answer() {
    // What Woodpecker does with paths that it does not know: the adapter is told a wrong root.
    let (server, _, id) = active().await;
    let ci = adapter(&format!("{}/elsewhere", server.url()));
    let upstream = |error: PortError| {
        assert!(matches!(error, PortError::Upstream { .. }), "{error:?}");
        chain(&error)
    };
    let text = upstream(ci.pipeline(id, 1).await.expect_err("HTML"));
    assert!(text.contains("text/html"), "{text}");
    upstream(ci.activate(&super::site()).await.expect_err("HTML"));
    upstream(ci.deactivate(id).await.expect_err("HTML"));
    upstream(ci.cancel(id, 1).await.expect_err("HTML"));
    upstream(ci.restart(id, 1).await.expect_err("HTML"));
    upstream(ci.log(id, 1, 1).await.expect_err("HTML"));
    upstream(ci.pipelines(id, &all(), &first(1)).await.expect_err("HTML"));
    assert!(server.repositories()[0].active);
}
