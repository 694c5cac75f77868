//! Files, branches and commits through the API.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::files::{self, Change};
use super::records::Repository;
use super::response::{
    self, ApiResponse, Call, changeable, created, error, internal, not_found, not_found_by, ok,
    visible,
};
use super::shapes::Part;
use super::state::State;
use super::{Shared, api, git, locked, shapes};

/// Changes many files in one commit.
pub(super) fn change(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let found = changeable(&locked(&shared.state), call, owner, name)?;
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
    let commit = commit(shared, &found, (user, &branch, before.as_deref()), &message, &changes)?;
    let after = files::tree(&found.folder, &commit.id).map_err(failed)?;
    let state = locked(&shared.state);
    let shown = |change| written(&state, &found, &branch, (&commit, after.as_slice()), change);
    let shown: Vec<Value> = changes.iter().map(shown).collect();
    let commit = shapes::file_commit(&state, &found, &commit);
    Ok(created(shapes::files_response(&commit, &shown)))
}

/// Creates, replaces or deletes one file, on a branch that may begin with it.
pub(super) fn change_one(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    (method, path): (&str, &str),
) -> Result<ApiResponse, ApiResponse> {
    let found = changeable(&locked(&shared.state), call, owner, name)?;
    let user = call.user()?;
    let failed = |why: String| internal(shared, &why);
    let _alone = locked(&found.changing);
    let given = |name: &str, other: &str| match call.text(name)? {
        text if text.is_empty() => Ok(other.to_owned()),
        text => Ok(text),
    };
    let old = given("branch", &found.default_branch)?;
    let from = files::tip(&found.folder, &old);
    if from.is_none() && !files::is_empty(&found.folder) {
        return Err(error(404, format!("branch does not exist [name: {old}]")));
    }
    let branch = given("new_branch", &old)?;
    let there = match &from {
        Some(tip) => files::tree(&found.folder, tip).map_err(failed)?,
        None => Vec::new(),
    };
    let mut operation = call.body.clone();
    operation["path"] = path.into();
    operation["operation"] = match (method, call.text("sha")?.is_empty()) {
        ("POST", _) => "create",
        ("DELETE", _) => "delete",
        // Without the old content's id it is a new file.
        (_, true) => "create",
        (_, false) => "update",
    }
    .into();
    let changes = [one(&operation, &there)?];
    let message = given("message", &format!("Change {path}"))?;
    let base = (user, branch.as_str(), from.as_deref());
    let commit = commit(shared, &found, base, &message, &changes)?;
    let after = files::tree(&found.folder, &commit.id).map_err(failed)?;
    let state = locked(&shared.state);
    let shown = written(&state, &found, &branch, (&commit, after.as_slice()), &changes[0]);
    let answer = shapes::file_response(&shapes::file_commit(&state, &found, &commit), &shown);
    let is_new = operation["operation"] == "create";
    Ok(if is_new { created(answer) } else { ok(answer) })
}

/// Commits changes as that user to a branch, which begins at `from` where it is not there.
fn commit(
    shared: &Shared,
    found: &Repository,
    (user, branch, from): (&str, &str, Option<&str>),
    message: &str,
    changes: &[Change],
) -> Result<files::Commit, ApiResponse> {
    let failed = |why: String| internal(shared, &why);
    let email = locked(&shared.state).owner(user).map(|account| account.email.clone());
    let person = (user, email.as_deref().unwrap_or_default());
    let message = format!("{}\n", message.trim_end());
    let before = files::tip(&found.folder, branch);
    let made = files::write(&found.folder, (branch, from), &message, person, changes);
    let made = made.map_err(failed)?;
    git::moved(shared, found, branch, before.as_deref(), &made, user).map_err(failed)?;
    files::commit(&found.folder, &made).map_err(failed)
}

/// A file that a commit has written, without asking git again; null for one that it has deleted.
fn written(
    state: &State,
    found: &Repository,
    branch: &str,
    (commit, tree): (&files::Commit, &[(String, String, usize)]),
    change: &Change,
) -> Value {
    let Change::Write { path, content } = change else { return Value::Null };
    let Some((path, blob, size)) = tree.iter().find(|(there, ..)| there == path) else {
        return Value::Null;
    };
    shapes::file(state, found, branch, (path, blob, *size), commit, &STANDARD.encode(content))
}

/// A file of a branch or a commit, with its content.
fn file(
    shared: &Shared,
    state: &State,
    found: &Repository,
    branch: &str,
    (path, blob, size): &(String, String, usize),
) -> Result<Value, ApiResponse> {
    let failed = |why: String| internal(shared, &why);
    let content = STANDARD.encode(files::blob(&found.folder, blob).map_err(failed)?);
    let last = files::last(&found.folder, branch, path).map_err(failed)?;
    Ok(shapes::file(state, found, branch, (path, blob, *size), &last, &content))
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
    let entry = entry(shared, call, &found, path)?;
    let at = call.query("ref").unwrap_or(&found.default_branch);
    Ok(ok(file(shared, &state, &found, at, &entry)?))
}

/// One file as it is.
pub(super) fn raw(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    path: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let (_, blob, _) = entry(shared, call, &found, path)?;
    let content = files::blob(&found.folder, &blob).map_err(|why| internal(shared, &why))?;
    Ok(response::raw(&blob, &content))
}

/// The path, blob and size of a file that is asked for.
fn entry(
    shared: &Shared,
    call: &Call,
    found: &Repository,
    path: &str,
) -> Result<(String, String, usize), ApiResponse> {
    let at = named(found, call.query("ref"))?;
    let tree = files::tree(&found.folder, &at).map_err(|why| internal(shared, &why))?;
    tree.into_iter().find(|(there, ..)| there == path).ok_or_else(|| {
        let why = format!("object does not exist [id: , rel_path: {path}]");
        not_found_by("GetContentsOrList", why)
    })
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
        shown.push(shapes::branch(&state, &found, &branch, &commit, call.user.as_deref()));
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
    Ok(ok(shapes::branch(&state, &found, branch, &commit, call.user.as_deref())))
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
    // All are there unless the caller says otherwise.
    let parts =
        [(Part::Stat, "stat"), (Part::Files, "files"), (Part::Verification, "verification")];
    let wanted = parts.into_iter().filter(|(_, name)| call.query(name) != Some("false"));
    let parts: Vec<Part> = wanted.map(|(part, _)| part).collect();
    Ok(api::list_of(&state, call, all, |commit| shapes::commit(&state, &found, &commit, &parts)))
}
