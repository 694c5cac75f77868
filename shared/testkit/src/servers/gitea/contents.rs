//! Files, branches and commits through the API.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::files::{self, Change};
use super::response::{
    ApiResponse, Call, created, error, internal, not_found, ok, visible, writable,
};
use super::state::Repository;
use super::{Shared, api, git, locked, shapes};

/// Changes many files in one commit.
pub(super) fn change(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let found = writable(&locked(&shared.state), call, owner, name)?;
    let user = call.user()?;
    let failed = |why: String| internal(shared, &why);
    // One after the other, as the real server's lock on the branch has it.
    let _alone = locked(&found.changing);
    let mut branch = call.text("branch")?;
    if branch.is_empty() {
        branch.clone_from(&found.default_branch);
    }
    let before = files::tip(&found.folder, &branch);
    if before.is_none() && !files::is_empty(&found.folder) {
        return Err(error(404, format!("branch does not exist [name: {branch}]")));
    }
    let there = match &before {
        Some(tip) => files::tree(&found.folder, tip).map_err(failed)?,
        None => Vec::new(),
    };
    let operations = call.body.get("files").and_then(Value::as_array);
    let operations = operations.filter(|files| !files.is_empty());
    let operations = operations.ok_or_else(|| error(422, "[Files]: Required"))?;
    let mut changes = Vec::new();
    for operation in operations {
        changes.push(one(operation, &there)?);
    }
    let mut message = call.text("message")?;
    if message.is_empty() {
        message = "Change files".to_owned();
    }
    let email = format!("{user}@noreply.forge.example");
    let person = (user, email.as_str());
    let message = format!("{}\n", message.trim_end());
    let commit = files::write(&found.folder, &branch, &message, person, &changes);
    let commit = commit.map_err(failed)?;
    git::moved(shared, &found, &branch, before.as_deref(), &commit, user).map_err(failed)?;
    let after = files::tree(&found.folder, &commit).map_err(failed)?;
    let made = files::commit(&found.folder, &commit).map_err(failed)?;
    let state = locked(&shared.state);
    let mut shown = Vec::new();
    for change in &changes {
        let (Change::Write { path, .. } | Change::Delete { path }) = change;
        shown.push(match after.iter().find(|(there, ..)| there == path) {
            Some((path, blob, size)) => shapes::file(&state, &found, (path, blob, *size), None),
            None => Value::Null,
        });
    }
    let commit = shapes::file_commit(&state, &found, &made);
    Ok(created(shapes::files_response(&commit, &shown)))
}

/// One operation of a change, checked against what is there.
fn one(operation: &Value, there: &[(String, String, usize)]) -> Result<Change, ApiResponse> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str).unwrap_or_default();
    let path = text("path").to_owned();
    let bad = |part: &str| matches!(part, "" | "." | "..") || part.eq_ignore_ascii_case(".git");
    if path.split('/').any(bad) || path.starts_with('"') || path.contains(char::is_control) {
        return Err(error(422, format!("path contains a malformed path component [path: {path}]")));
    }
    let old = there.iter().find(|(there, ..)| *there == path);
    let below =
        |name: &str| name.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('/'));
    let folder = there.iter().any(|(there, ..)| below(there));
    let kind = text("operation");
    match (kind, old) {
        ("create", Some(_)) => {
            return Err(error(422, format!("repository file already exists [path: {path}]")));
        }
        ("create", None) if folder => {
            return Err(error(422, format!("a directory has that name [path: {path}]")));
        }
        ("update" | "delete", None) => {
            return Err(error(422, format!("repository file does not exist [path: {path}]")));
        }
        ("update" | "delete", Some((_, blob, _))) if text("sha") != blob => {
            return Err(error(
                422,
                format!("sha does not match [given: {}, expected: {blob}]", text("sha")),
            ));
        }
        ("create" | "update" | "delete", _) => {}
        _ => return Err(error(422, "[Operation]: In")),
    }
    if kind == "delete" {
        return Ok(Change::Delete { path });
    }
    let content = STANDARD.decode(text("content"));
    let content = content.map_err(|_| error(422, "illegal base64 data"))?;
    Ok(Change::Write { path, content })
}

/// One file with its content.
pub(super) fn get(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    path: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let at = named(&found, call.query("ref"))?;
    let failed = |why: String| internal(shared, &why);
    let tree = files::tree(&found.folder, &at).map_err(failed)?;
    let file = tree.iter().find(|(there, ..)| there == path);
    let (path, blob, size) = file.ok_or_else(not_found)?;
    let content = STANDARD.encode(files::blob(&found.folder, blob).map_err(failed)?);
    Ok(ok(shapes::file(&state, &found, (path, blob, *size), Some(&content))))
}

/// The commit of a name, or of the default branch.
fn named(found: &Repository, name: Option<&str>) -> Result<String, ApiResponse> {
    let name = name.filter(|name| !name.is_empty()).unwrap_or(&found.default_branch);
    let commit = files::tip(&found.folder, name).or_else(|| files::resolve(&found.folder, name));
    commit.ok_or_else(not_found)
}

pub(super) fn branches(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let failed = |why: String| internal(shared, &why);
    let mut shown = Vec::new();
    for (branch, tip) in files::branches(&found.folder).map_err(failed)? {
        let commit = files::commit(&found.folder, &tip).map_err(failed)?;
        shown.push(shapes::branch(&state, &found, &branch, &commit));
    }
    Ok(api::list_of(&state, call, shown, |shape| shape))
}

pub(super) fn branch(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    branch: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let tip = files::tip(&found.folder, branch).ok_or_else(not_found)?;
    let commit = files::commit(&found.folder, &tip).map_err(|why| internal(shared, &why))?;
    Ok(ok(shapes::branch(&state, &found, branch, &commit)))
}

pub(super) fn commits(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    if files::is_empty(&found.folder) {
        return Err(error(409, "Git Repository is empty."));
    }
    let at = named(&found, call.query("sha"))?;
    let failed = |why: String| internal(shared, &why);
    let total = files::count(&found.folder, &at).map_err(failed)?;
    let all = files::log(&found.folder, &[&at], 0, total).map_err(failed)?;
    Ok(api::list_of(&state, call, all, |commit| shapes::commit(&state, &found, &commit)))
}
