//! `rdev pipeline …`.

use std::time::Duration;

use anyhow::bail;
use rdev_domain::pipeline::PipelineNumber;
use serde_json::{Value, json};

use super::{Column, Session, cell, fields};
use crate::args::pipeline::Pipeline;
use crate::args::values::Paging;
use crate::exit::Exit;
use crate::out;

const COLUMNS: [Column; 7] = [
    ("NUMBER", "/number"),
    ("STATUS", "/status"),
    ("EVENT", "/event"),
    ("BRANCH", "/branch"),
    ("COMMIT", "/commit"),
    ("BUILD", "/task_id"),
    ("MESSAGE", "/message"),
];

const FIELDS: [Column; 8] = [
    ("number", "/number"),
    ("status", "/status"),
    ("event", "/event"),
    ("branch", "/branch"),
    ("commit", "/commit"),
    ("build", "/task_id"),
    ("message", "/message"),
    ("url", "/url"),
];

/// The time between two requests for a pipeline that is followed.
const EVERY: Duration = Duration::from_secs(2);

/// How many times a pipeline that does not exist yet is requested.
const MAX_REQUESTS: u32 = 60;

/// Runs one of the commands.
pub(crate) async fn run(session: &Session, command: Pipeline) -> anyhow::Result<Exit> {
    match command {
        Pipeline::List { project, branch, status, paging } => {
            let filters = [("branch", branch), ("status", status)];
            let filters: Vec<_> =
                filters.into_iter().filter_map(|(name, text)| Some((name, text?))).collect();
            let path = format!("projects/{project}/ci/pipelines");
            session.list_with(&path, &paging, &filters, &COLUMNS).await
        }
        Pipeline::Show { project, number, follow, commit } => {
            let path = format!("projects/{project}/ci/pipelines");
            let mut requests = if follow { MAX_REQUESTS } else { 1 };
            let number = loop {
                if let Some(number) = find(session, &path, number, commit.as_deref()).await? {
                    break number;
                }
                requests -= 1;
                if requests == 0 {
                    bail!("the pipeline does not exist");
                }
                tokio::time::sleep(EVERY).await;
            };
            let path = format!("{path}/{number}");
            let mut answer = session.client.get(&path, &[]).await?;
            while follow && runs(&answer) {
                tokio::time::sleep(EVERY).await;
                answer = session.client.get(&path, &[]).await?;
            }
            session.show(&answer, shown)?;
            let good = answer["status"] == "success";
            Ok(if good || !follow { Exit::Done } else { Exit::Failed })
        }
        Pipeline::Logs { project, number, step } => {
            let path = format!("projects/{project}/ci/pipelines");
            let Some(number) = find(session, &path, number, None).await? else {
                bail!("the project has no pipeline");
            };
            let path = format!("{path}/{number}");
            let pipeline = session.client.get(&path, &[]).await?;
            let named = |one: &&Value| {
                step.as_deref().is_none_or(|step| one["name"].as_str() == Some(step))
            };
            let found: Vec<&Value> = steps(&pipeline).filter(named).collect();
            let around = match step {
                Some(_) => Vec::new(),
                None => reasons(&pipeline, Around::Steps),
            };
            if found.is_empty() && around.is_empty() {
                bail!("the pipeline has no such step");
            }
            logs(session, &path, &found).await?;
            print_reasons(session, &around)?;
            Ok(Exit::Done)
        }
    }
}

/// Prints the logs of steps, and why a step failed where its log does not say so.
async fn logs(session: &Session, path: &str, steps: &[&Value]) -> anyhow::Result<()> {
    for step in steps {
        let query = [("step", step["id"].to_string())];
        let log = session.client.get(&format!("{path}/log"), &query).await?;
        if session.json {
            let (name, status, error) = (&step["name"], &step["status"], &step["error"]);
            let lines = &log["lines"];
            out::json(&json!({"step": name, "status": status, "error": error, "lines": lines}))?;
            continue;
        }
        out::line(format!("== {} ({})", cell(step, "/name"), cell(step, "/status")))?;
        for line in log["lines"].as_array().into_iter().flatten() {
            out::line(cell(line, "/text"))?;
        }
        let error = cell(step, "/error");
        if !error.is_empty() {
            out::line(format!("error: {error}"))?;
        }
    }
    Ok(())
}

fn print_reasons(session: &Session, reasons: &[String]) -> anyhow::Result<()> {
    for reason in reasons {
        if session.json {
            out::json(&json!({"step": null, "error": reason, "lines": []}))?;
        } else {
            out::line(reason)?;
        }
    }
    Ok(())
}

/// The given number, the number of the commit's pipeline, or the newest number.
async fn find(
    session: &Session,
    path: &str,
    number: Option<PipelineNumber>,
    commit: Option<&str>,
) -> anyhow::Result<Option<u64>> {
    if let Some(PipelineNumber::Number(number)) = number {
        return Ok(Some(number));
    }
    let paging = Paging { limit: 50, cursor: None };
    let newest = session.client.get(path, &[("limit", paging.limit.to_string())]).await?;
    let mut all = newest["items"].as_array().into_iter().flatten();
    let found = all.find(|one| {
        let sha = one["commit"].as_str().unwrap_or_default();
        commit.is_none_or(|commit| sha.starts_with(commit))
    });
    Ok(found.and_then(|one| one["number"].as_u64()))
}

fn runs(pipeline: &Value) -> bool {
    matches!(pipeline["status"].as_str(), Some("created" | "pending" | "running" | "blocked"))
}

fn steps(pipeline: &Value) -> impl Iterator<Item = &Value> {
    let workflows = pipeline["workflows"].as_array().into_iter().flatten();
    workflows.flat_map(|workflow| workflow["steps"].as_array().into_iter().flatten())
}

/// Whose errors are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Around {
    /// Of the pipeline and its workflows.
    Steps,
    /// Of the steps, too.
    Everything,
}

/// What the CI server says of what went wrong. A workflow often repeats the error of its step.
fn reasons(pipeline: &Value, around: Around) -> Vec<String> {
    let errors = pipeline["errors"].as_array().into_iter().flatten().map(|error| {
        let text = error.as_str().map(out::clean).unwrap_or_default();
        if text.starts_with("warning: ") { text } else { format!("error: {text}") }
    });
    let mut reasons: Vec<String> = errors.collect();
    for workflow in pipeline["workflows"].as_array().into_iter().flatten() {
        let steps = workflow["steps"].as_array().map_or(&[][..], Vec::as_slice);
        let error = cell(workflow, "/error");
        if !error.is_empty() && steps.iter().all(|step| cell(step, "/error") != error) {
            reasons.push(format!("error of workflow {}: {error}", cell(workflow, "/name")));
        }
        for step in steps.iter().filter(|_| around == Around::Everything) {
            let error = cell(step, "/error");
            if !error.is_empty() {
                reasons.push(format!("error of step {}: {error}", cell(step, "/name")));
            }
        }
    }
    reasons
}

fn shown(pipeline: &Value) -> String {
    let mut brief = pipeline.clone();
    let message = pipeline["message"].as_str().unwrap_or_default();
    brief["message"] = message.lines().next().unwrap_or_default().into();
    let mut text = fields(&brief, &FIELDS);
    let rows: Vec<Vec<String>> = steps(pipeline)
        .map(|step| ["/name", "/status", "/exit_code"].map(|place| cell(step, place)).to_vec())
        .collect();
    if !rows.is_empty() {
        text.push_str("\n\n");
        text.push_str(&out::table(&["STEP", "STATUS", "EXIT"], &rows));
    }
    let reasons = reasons(pipeline, Around::Everything);
    if !reasons.is_empty() {
        text.push_str("\n\n");
        text.push_str(&reasons.join("\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_says_why_a_step_failed_whose_command_never_ran() {
        let denied = "pull access denied for nothing/here";
        let step = |name: &str, status: &str, code: Option<i64>, error: Option<&str>| json!({ "id": 1, "name": name, "status": status, "exit_code": code, "error": error });
        let pipeline = json!({
            "number": 3, "status": "failure", "event": "push", "branch": "main", "commit": "abc",
            "task_id": "01M8HS8RDMETXV4D11A4J7PT9G", "message": "Say hello\n\nto everybody\n",
            "errors": ["warning: `pipeline:` is old"],
            "workflows": [
                { "name": "build", "status": "failure", "error": denied, "steps": [
                    step("clone", "success", Some(0), None),
                    step("image", "failure", None, Some(denied)),
                    step("publish", "skipped", None, None),
                ] },
                { "name": "deploy", "status": "failure", "error": "no agent took it", "steps": [] },
            ],
        });
        let expected = "number   3
status   failure
event    push
branch   main
commit   abc
build    01M8HS8RDMETXV4D11A4J7PT9G
message  Say hello

STEP     STATUS   EXIT
clone    success  0
image    failure
publish  skipped

warning: `pipeline:` is old
error of step image: pull access denied for nothing/here
error of workflow deploy: no agent took it";
        assert_eq!(shown(&pipeline), expected);
        let around = ["warning: `pipeline:` is old", "error of workflow deploy: no agent took it"];
        assert_eq!(reasons(&pipeline, Around::Steps), around);
    }
}
