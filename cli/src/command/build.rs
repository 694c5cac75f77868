//! `rdev build …`.

use std::io::Read;

use anyhow::Context;
use rdev_domain::ids::{ProjectId, TaskId};
use serde_json::{Value, json};

use super::{Column, Session, fields};
use crate::args::build::{Build, BuildRef, BuildStart};
use crate::client::{End, follow};
use crate::exit::Exit;
use crate::out;
use crate::progress::{Progress, describe};
use crate::summary;
use crate::usage::UsageError;

const COLUMNS: [Column; 6] = [
    ("TASK", "/id"),
    ("STATE", "/state"),
    ("OUTCOME", "/result/outcome"),
    ("ATTEMPT", "/attempt"),
    ("CREATED", "/created_at"),
    ("PROMPT", "/spec/prompt"),
];

/// The number of events in one page of a log.
const PAGE: u32 = 1000;

/// Runs one of the commands.
pub(crate) async fn run(session: &Session, command: Build) -> anyhow::Result<Exit> {
    match command {
        Build::Start(start) => begin(session, *start).await,
        Build::List { project, paging } => {
            session.list(&format!("projects/{project}/builds"), &paging, &COLUMNS).await
        }
        Build::Show(build) => {
            let (project, task) = resolve(session, &build).await?;
            let path = format!("projects/{project}/builds/{task}");
            let answer = session.client.get(&path, &[]).await?;
            session.show(&answer, summary::of_build)
        }
        Build::Logs { build, follow } => {
            let (project, task) = resolve(session, &build).await?;
            if follow {
                follow_log(session, &project, &task).await
            } else {
                log(session, &project, &task).await
            }
        }
        Build::Diff(build) => {
            let (project, task) = resolve(session, &build).await?;
            let path = format!("projects/{project}/builds/{task}/diff");
            let diff = session.client.get_text(&path).await?;
            if session.json {
                out::json(&json!({"task_id": task, "diff": diff}))?;
            } else {
                out::line(diff.trim_end_matches('\n'))?;
            }
            Ok(Exit::Done)
        }
        Build::Cancel(build) => {
            let (project, task) = resolve(session, &build).await?;
            let path = format!("projects/{project}/builds/{task}/cancel");
            let answer = session.client.post(&path, None, None).await?;
            session.show(&answer, |answer| fields(answer, &SHORT))
        }
        Build::Retry { build, follow } => {
            let (project, task) = resolve(session, &build).await?;
            let path = format!("projects/{project}/builds/{task}/retry");
            let answer = session.client.post(&path, None, None).await?;
            watch_or_show(session, &project, &answer, follow).await
        }
    }
}

const SHORT: [Column; 4] =
    [("task", "/id"), ("project", "/project_id"), ("state", "/state"), ("retry of", "/retry_of")];

async fn begin(session: &Session, start: BuildStart) -> anyhow::Result<Exit> {
    let follow = start.follow;
    let project = start.project.clone();
    let key = start.idempotency_key.clone();
    let body = body_of(start)?;
    let path = format!("projects/{project}/builds");
    let answer = session.client.post(&path, Some(&body), key.as_deref()).await?;
    watch_or_show(session, project.as_str(), &answer, follow).await
}

fn body_of(start: BuildStart) -> anyhow::Result<Value> {
    let prompt = match start.text.or(start.prompt) {
        Some(text) if text == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read the prompt")?;
            text
        }
        Some(text) => text,
        None => return Err(UsageError("there is no prompt".to_owned()).into()),
    };
    let mut body = json!({"prompt": prompt});
    let pull_request = match (start.pull_request, start.no_pull_request) {
        (true, _) => Some(Value::Bool(true)),
        (_, true) => Some(Value::Bool(false)),
        (false, false) => None,
    };
    let optional = [
        ("agent", start.agent.map(|agent| json!(agent))),
        ("model", start.model.map(|model| json!(model))),
        ("branch", start.branch.map(|branch| json!(branch))),
        ("auto_commit", start.no_commit.then_some(Value::Bool(false))),
        ("auto_push", start.no_push.then_some(Value::Bool(false))),
        ("pull_request", pull_request),
        ("pull_request_options", start.options.in_json()),
        ("verify", Some(start.verify).filter(|list| !list.is_empty()).map(|list| json!(list))),
        ("timeout_s", start.timeout_s.map(|seconds| json!(seconds))),
        ("stall_timeout_s", start.stall_timeout_s.map(|seconds| json!(seconds))),
        ("max_turns", start.max_turns.map(|turns| json!(turns))),
        ("max_cost_usd", start.max_cost_usd.map(|cost| json!(cost))),
        ("git_url", start.git_url.map(|url| json!(url))),
        ("continue_from", start.continue_from.map(|task| json!(task))),
        ("commit_message", start.commit_message.map(|text| json!(text))),
        ("priority", start.priority.map(|priority| json!(priority))),
        ("max_attempts", start.max_attempts.map(|attempts| json!(attempts))),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    Ok(body)
}

/// Shows or follows the build that the server accepted together with its project.
pub(super) async fn queued(session: &Session, task: &Value, follow: bool) -> anyhow::Result<Exit> {
    let project = task["project_id"].as_str().context("the answer names no project")?;
    watch_or_show(session, project, task, follow).await
}

/// Shows an accepted build, or follows it until it has ended.
async fn watch_or_show(
    session: &Session,
    project: &str,
    answer: &Value,
    follow_it: bool,
) -> anyhow::Result<Exit> {
    if !follow_it {
        return session.show(answer, |answer| fields(answer, &SHORT));
    }
    let task = answer["id"].as_str().context("the answer names no task")?;
    let progress = Progress::new();
    progress.line(&format!("task {}", out::clean(task)));
    progress.doing("waiting for a worker");
    let shown = |event: &_, _: &_| {
        progress.event(event);
        Ok(())
    };
    let End(record) = follow(&session.client, project, task, shown).await?;
    progress.finish();
    session.show(&record, summary::of_build)?;
    Ok(exit_of(&record))
}

/// Follows the log on stdout: JSON lines with `--json`.
async fn follow_log(session: &Session, project: &str, task: &str) -> anyhow::Result<Exit> {
    let print = |event: &_, json: &Value| {
        if session.json { out::line(json) } else { describe(event).iter().try_for_each(out::line) }
    };
    let End(record) = follow(&session.client, project, task, print).await?;
    Ok(exit_of(&record))
}

/// Prints the log so far.
async fn log(session: &Session, project: &str, task: &str) -> anyhow::Result<Exit> {
    let path = format!("projects/{project}/builds/{task}/events");
    let mut after = 0_u64;
    loop {
        let query = [("after", after.to_string()), ("limit", PAGE.to_string())];
        let page = session.client.get(&path, &query).await?;
        let events = page["items"].as_array().map_or(&[][..], Vec::as_slice);
        for json in events {
            if session.json {
                out::line(json)?;
            } else {
                let event = serde::Deserialize::deserialize(json);
                let event = event.context("the server sent an invalid event")?;
                describe(&event).iter().try_for_each(out::line)?;
            }
        }
        after = page["next_after"].as_u64().context("the answer is not a page of events")?;
        if events.is_empty() {
            return Ok(Exit::Done);
        }
    }
}

/// The exit status for the final state of a build.
pub(crate) fn exit_of(record: &Value) -> Exit {
    match record["state"].as_str() {
        Some("succeeded") => Exit::Done,
        Some("cancelled") => Exit::Cancelled,
        _ => Exit::Failed,
    }
}

/// The project and the task of a build; looks up the project if only the task is given.
async fn resolve(session: &Session, build: &BuildRef) -> anyhow::Result<(String, String)> {
    let usage = |error: rdev_domain::Invalid| UsageError(error.to_string());
    let task = |text: &String| text.parse::<TaskId>().map_err(usage);
    match build.ids.as_slice() {
        [project, id] => {
            let project: ProjectId = project.parse().map_err(usage)?;
            Ok((project.to_string(), task(id)?.to_string()))
        }
        [id] => {
            let id = task(id)?;
            let record = session.client.get(&format!("work/{id}"), &[]).await?;
            let project = record["project_id"].as_str().context("the answer names no project")?;
            let project: ProjectId = project.parse().context("the answer names no project")?;
            Ok((project.to_string(), id.to_string()))
        }
        _ => Err(UsageError("give a task, or a project and a task".to_owned()).into()),
    }
}
