//! Tasks and the audit log, as the API shows them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use rdev_domain::time::Timestamp;
use serde_json::Value;

/// What has become of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// It has not ended.
    Open,
    /// It says that this commit is on the branch.
    Delivered(String),
    /// It has succeeded without a commit.
    Nothing,
    /// It has ended without success, and says that nothing of it landed or will.
    Undelivered,
    /// It has ended without success, and says that its push may land.
    InDoubt,
}

/// A task at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) project: String,
    pub(crate) lineage: String,
    pub(crate) state: State,
    /// Its state and failure, for people.
    pub(crate) told: String,
}

/// An event of the audit log about a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Audited {
    pub(crate) at: Timestamp,
    pub(crate) action: String,
    pub(crate) actor: String,
    pub(crate) task: String,
}

/// Reads a task of `GET /work`: its id and what is known of it.
///
/// # Errors
/// When a field is missing.
pub(crate) fn task(record: &Value) -> Result<(String, Seen)> {
    let text = |name: &str| {
        let text = record[name].as_str().map(str::to_owned);
        text.with_context(|| format!("a task without {name}: {record}"))
    };
    let state = text("state")?;
    let failure = &record["failure"];
    let class = failure["class"].as_str().unwrap_or_default();
    let result = &record["result"];
    let seen = match state.as_str() {
        "succeeded" if result["outcome"] == "delivered" => {
            let commit = result["commit_sha"].as_str().context("a delivery without a commit")?;
            State::Delivered(commit.to_owned())
        }
        "succeeded" => State::Nothing,
        "failed" | "cancelled" if failure["push_in_doubt"] == true => State::InDoubt,
        "failed" | "cancelled" => State::Undelivered,
        _ => State::Open,
    };
    let doubt = if seen == State::InDoubt { ", push in doubt" } else { "" };
    let told = match class {
        "" => state,
        class => format!("{state} ({class}{doubt})"),
    };
    let (project, lineage) = (text("project_id")?, text("lineage")?);
    Ok((text("id")?, Seen { project, lineage, state: seen, told }))
}

/// Reads an event of `GET /audit`; `None` if it is about something else than a task.
///
/// # Errors
/// When a field is missing.
pub(crate) fn audited(event: &Value) -> Result<Option<Audited>> {
    let text = |name: &str| event[name].as_str().with_context(|| format!("no {name}: {event}"));
    let Some(task) = text("subject")?.strip_prefix("task/") else { return Ok(None) };
    Ok(Some(Audited {
        at: serde_json::from_value(event["at"].clone()).context("a time")?,
        action: text("action")?.to_owned(),
        actor: text("actor")?.to_owned(),
        task: task.to_owned(),
    }))
}

/// How often each task has ended.
pub(crate) fn ends(events: &[Audited]) -> BTreeMap<String, usize> {
    let mut ends = BTreeMap::new();
    for event in events {
        if matches!(event.action.as_str(), "task.succeeded" | "task.failed" | "task.cancelled") {
            *ends.entry(event.task.clone()).or_default() += 1;
        }
    }
    ends
}
