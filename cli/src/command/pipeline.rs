//! `rdev pipeline …`.

use std::time::Duration;

use anyhow::bail;
use serde_json::Value;

use super::{Column, Session, cell, fields};
use crate::args::pipeline::Pipeline;
use crate::args::values::Paging;
use crate::exit::Exit;
use crate::out;

const COLUMNS: [Column; 6] = [
    ("NUMBER", "/number"),
    ("STATUS", "/status"),
    ("EVENT", "/event"),
    ("BRANCH", "/branch"),
    ("COMMIT", "/commit"),
    ("MESSAGE", "/message"),
];

const FIELDS: [Column; 8] = [
    ("number", "/number"),
    ("status", "/status"),
    ("event", "/event"),
    ("branch", "/branch"),
    ("commit", "/commit"),
    ("message", "/message"),
    ("url", "/url"),
    ("errors", "/errors"),
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
            let selected = |one: &&Value| {
                step.as_deref().is_none_or(|step| one["name"].as_str() == Some(step))
            };
            let steps: Vec<&Value> = steps(&pipeline).filter(selected).collect();
            if steps.is_empty() {
                bail!("the pipeline has no step of that name");
            }
            for one in steps {
                let query = [("step", one["id"].to_string())];
                let log = session.client.get(&format!("{path}/log"), &query).await?;
                if session.json {
                    out::json(&log)?;
                    continue;
                }
                out::line(format!("== {} ({})", cell(one, "/name"), cell(one, "/status")))?;
                for line in log["lines"].as_array().into_iter().flatten() {
                    out::line(cell(line, "/text"))?;
                }
            }
            Ok(Exit::Done)
        }
    }
}

/// The given number, the number of the commit's pipeline, or the newest number.
async fn find(
    session: &Session,
    path: &str,
    number: Option<u64>,
    commit: Option<&str>,
) -> anyhow::Result<Option<u64>> {
    if number.is_some() {
        return Ok(number);
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
    text
}
