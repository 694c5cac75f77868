//! Woodpecker's JSON, field for field. What Go leaves out when it is empty is left out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::pipeline::{Pipeline, Step, Workflow};
use super::repository::Repository;

/// A repository; `forge` is the forge's root.
pub(super) fn repository(forge: &str, one: &Repository) -> Value {
    let host = forge.split("://").nth(1).unwrap_or_default();
    let host = host.split(['/', ':']).next().unwrap_or_default();
    json!({
        "id": one.id,
        "forge_id": 1,
        // A number on every forge, but a text here.
        "forge_remote_id": one.forge_id.to_string(),
        "org_id": one.organisation,
        "owner": one.owner,
        "name": one.name,
        "full_name": one.full_name(),
        "avatar_url": picture(forge, &one.owner),
        "forge_url": format!("{forge}/{}", one.full_name()),
        "clone_url": format!("{forge}/{}.git", one.full_name()),
        "clone_url_ssh": format!("git@{host}:{}.git", one.full_name()),
        "default_branch": "main",
        "pr_enabled": true,
        "timeout": 60,
        "visibility": "private",
        "private": true,
        "trusted": {"network": false, "volumes": false, "security": false},
        "require_approval": "forks",
        // Go's empty lists.
        "approval_allowed_users": null,
        "active": one.active,
        "allow_pr": true,
        "allow_deploy": false,
        "config_file": "",
        "cancel_previous_pipeline_events": ["push", "pull_request"],
        "netrc_trusted": null,
        "config_extension_endpoint": "",
        "config_extension_exclusive": false,
        "config_extension_netrc": false,
        "registry_extension_endpoint": "",
        "registry_extension_netrc": false,
        "secret_extension_endpoint": "",
        "secret_extension_netrc": false,
    })
}

/// The picture of a user of the forge, or of an organisation.
pub(super) fn picture(forge: &str, name: &str) -> String {
    let digest = Sha256::digest(name.to_lowercase());
    let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{forge}/avatars/{name}")
}

/// A pipeline, with its workflows or, as in a list, without.
pub(super) fn pipeline(one: &Pipeline, whole: bool) -> Value {
    let about = &one.origin;
    let mut value = json!({
        "id": one.id,
        "number": one.number,
        "author": about.author,
        "parent": about.parent,
        "event": about.event,
        "event_reason": null,
        "status": one.status,
        // Go's empty list.
        "errors": if one.errors.is_empty() { Value::Null } else { json!(one.errors) },
        "created": one.created,
        "updated": one.updated,
        "started": one.started,
        "finished": one.finished,
        "deploy_to": "",
        "deploy_task": "",
        "commit": about.commit,
        "branch": about.branch,
        "rerun_count": about.reruns,
        "ref": about.reference,
        "refspec": about.refspec,
        "author_avatar": about.avatar,
        "forge_url": about.forge_url,
        "reviewed_by": "",
        "reviewed": 0,
        "changed_files": about.changed_files,
        "version": one.version,
        "title": about.title,
        "message": about.message,
        "timestamp": about.timestamp,
        "sender": about.author,
        "author_email": about.email,
    });
    if let Some(by) = one.superseded_by {
        value["cancel_info"] = json!({ "superseded_by": by });
    }
    if whole && !one.workflows.is_empty() {
        value["workflows"] = one.workflows.iter().map(|it| workflow(it, one.id)).collect();
    }
    value
}

/// Adds what Go leaves out while it is zero or empty.
fn add_set(value: &mut Value, error: Option<&str>, times: [(&str, i64); 2]) {
    if let Some(error) = error {
        value["error"] = json!(error);
    }
    for (name, time) in times.into_iter().filter(|(_, time)| *time != 0) {
        value[name] = json!(time);
    }
}

fn workflow(one: &Workflow, pipeline: u64) -> Value {
    let mut value = json!({
        "id": one.id,
        "pipeline_id": pipeline,
        "pid": one.pid,
        "name": one.name,
        "state": one.state,
    });
    add_set(&mut value, one.error.as_deref(), times(one.started, one.finished));
    // The agent that took it.
    if one.started != 0 {
        value["agent_id"] = json!(1);
    }
    if !one.steps.is_empty() {
        value["children"] = one.steps.iter().map(|it| step(it, pipeline)).collect();
    }
    value
}

fn step(one: &Step, pipeline: u64) -> Value {
    let mut value = json!({
        "id": one.id,
        "uuid": one.uuid,
        "pipeline_id": pipeline,
        "pid": one.pid,
        "ppid": one.ppid,
        "name": one.name,
        "state": one.state,
        "exit_code": one.exit_code,
        "type": one.kind,
    });
    add_set(&mut value, one.error.as_deref(), times(one.started, one.finished));
    value
}

fn times(started: i64, finished: i64) -> [(&'static str, i64); 2] {
    [("started", started), ("finished", finished)]
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
