//! Woodpecker's JSON, field for field. What Go leaves out when it is empty is left out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::pipeline::{Pipeline, Step, Workflow};
use super::repository::Repository;

pub(super) fn repository(url: &str, one: &Repository) -> Value {
    json!({
        "id": one.id,
        "forge_id": 1,
        // A number on every forge, but a text here.
        "forge_remote_id": one.forge_id.to_string(),
        "org_id": 1,
        "owner": one.owner,
        "name": one.name,
        "full_name": one.full_name(),
        "forge_url": format!("{url}/{}", one.full_name()),
        "clone_url": format!("{url}/{}.git", one.full_name()),
        "clone_url_ssh": "",
        "default_branch": "main",
        "pr_enabled": true,
        "timeout": 60,
        "visibility": "private",
        "private": true,
        "trusted": {"network": false, "volumes": false, "security": false},
        "require_approval": "forks",
        "active": one.active,
        "allow_pr": true,
        "allow_deploy": false,
        "config_file": "",
        "cancel_previous_pipeline_events": ["push", "pull_request"],
        "netrc_trusted": [],
    })
}

/// A pipeline, with its workflows or, as in a list, without.
pub(super) fn pipeline(one: &Pipeline, whole: bool) -> Value {
    let mut value = json!({
        "id": one.id,
        "number": one.number,
        "author": one.author,
        "parent": one.parent,
        "event": one.event,
        "status": one.status,
        // Go's empty list.
        "errors": if one.errors.is_empty() { Value::Null } else { json!(one.errors) },
        "created": one.created,
        "started": one.started,
        "finished": one.finished,
        "commit": one.commit,
        "branch": one.branch,
        "ref": format!("refs/heads/{}", one.branch),
        "message": one.message,
        "forge_url": format!("http://forge.invalid/commit/{}", one.commit),
    });
    if whole && !one.workflows.is_empty() {
        value["workflows"] = one.workflows.iter().map(workflow).collect();
    }
    value
}

fn workflow(one: &Workflow) -> Value {
    let mut value = json!({
        "id": one.id,
        "pid": one.pid,
        "name": one.name,
        "state": one.state,
        "agent_id": 1,
    });
    if let Some(error) = &one.error {
        value["error"] = json!(error);
    }
    if !one.steps.is_empty() {
        value["children"] = one.steps.iter().map(step).collect();
    }
    value
}

fn step(one: &Step) -> Value {
    let mut value = json!({
        "id": one.id,
        "uuid": one.uuid,
        "pid": one.pid,
        "ppid": one.ppid,
        "name": one.name,
        "state": one.state,
        "exit_code": one.exit_code,
        "type": one.kind,
    });
    if let Some(error) = &one.error {
        value["error"] = json!(error);
    }
    value
}

/// A step's log; `null` when nothing was written.
pub(super) fn log(step: &Step) -> Value {
    if step.lines.is_empty() {
        return Value::Null;
    }
    let line = |(number, line): (usize, &super::pipeline::Line)| {
        json!({
            "id": line.id,
            "step_id": step.id,
            "time": line.time,
            "line": number,
            "data": STANDARD.encode(&line.data),
            // Standard output: what a real one says of every line, whichever output it came from.
            "type": 0,
        })
    };
    step.lines.iter().enumerate().map(line).collect()
}
