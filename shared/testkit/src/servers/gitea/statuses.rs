//! Commit statuses.

use serde_json::{Value, json};

use super::records::{Repository, Status};
use super::response::{
    ApiResponse, Call, created, error, internal, not_found, ok, visible, writable,
};
use super::state::now;
use super::{Shared, api, files, hooks, locked, shapes};

const STATES: [&str; 6] = ["pending", "success", "error", "failure", "warning", "skipped"];

pub(super) fn create(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    commit: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = writable(&state, call, owner, name)?;
    let Some(commit) = files::resolve(&found.folder, commit) else {
        // The real server does not look for this one either.
        return Err(internal(shared, &format!("GetCommit[{commit}]: object does not exist")));
    };
    let kind = call.text("state")?;
    if !STATES.contains(&kind.as_str()) {
        return Err(error(400, format!("unknown state {kind:?}")));
    }
    let mut context = call.text("context")?;
    if context.is_empty() {
        context = "default".to_owned();
    }
    let status = Status {
        id: found.statuses.iter().filter(|status| status.commit == commit).count() as u64 + 1,
        commit: commit.clone(),
        state: kind,
        context,
        description: call.text("description")?,
        target_url: call.text("target_url")?,
        user: call.user()?.to_owned(),
        created: now(),
    };
    let shape = shapes::status(&state, &found, &status);
    let about = files::commit(&found.folder, &commit).map_err(|why| internal(shared, &why))?;
    // Its number over all commits, which only messages say.
    let id = state.next_id();
    let payload = json!({
        "commit": shapes::payload_commit(&state, &found, &about),
        "context": status.context,
        "created_at": status.created,
        "description": status.description,
        "id": id,
        "repository": shapes::repository(&state, &found, call.user.as_deref()),
        "sender": shapes::user(&state, &status.user, None),
        "sha": commit,
        "state": status.state,
        "target_url": status.target_url,
        "updated_at": status.created,
    });
    if let Some(found) = state.repositories.get_mut(&found.full_name().to_lowercase()) {
        found.statuses.push(status);
    }
    drop(state);
    hooks::fire(shared, &found, "status", &payload);
    Ok(created(shape))
}

/// A commit's statuses, newest first; the commit may be named by a branch.
fn of<'a>(found: &'a Repository, name: &str) -> Result<(String, Vec<&'a Status>), ApiResponse> {
    let tip = files::tip(&found.folder, name);
    let commit = tip.or_else(|| files::resolve(&found.folder, name)).ok_or_else(not_found)?;
    let statuses = found.statuses.iter().rev().filter(|status| status.commit == commit).collect();
    Ok((commit, statuses))
}

pub(super) fn list(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    commit: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let (_, statuses) = of(&found, commit)?;
    Ok(api::list_of(&state, call, statuses, |status| shapes::status(&state, &found, status)))
}

/// The newest of each context, and the worst of them.
pub(super) fn combined(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    commit: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let (commit, statuses) = of(&found, commit)?;
    let mut newest: Vec<&Status> = Vec::new();
    for status in statuses {
        if newest.iter().all(|other| other.context != status.context) {
            newest.push(status);
        }
    }
    let worst = ["error", "failure", "warning", "pending", "success", "skipped"];
    let has = |state: &&&str| newest.iter().any(|status| status.state == **state);
    let worst = worst.iter().find(has).copied().unwrap_or("pending");
    let url = format!("{}/api/v1/repos/{}/commits/{commit}", state.root_url, found.full_name());
    let statuses: Vec<Value> =
        newest.iter().map(|status| shapes::status(&state, &found, status)).collect();
    Ok(ok(json!({
        "state": worst,
        "sha": commit,
        "total_count": newest.len(),
        "statuses": statuses,
        "repository": shapes::repository(&state, &found, call.user.as_deref()),
        "commit_url": url,
        "url": format!("{url}/status"),
    })))
}
