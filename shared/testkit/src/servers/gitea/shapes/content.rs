//! Commits, branches and files.

use serde_json::{Value, json};

use super::super::files::{self, Changed, Commit};
use super::super::records::Repository;
use super::super::state::State;
use super::{ZERO, user};

/// A part of a commit that a caller may leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Part {
    Stat,
    Files,
    Verification,
}

fn verification() -> Value {
    let reason = "gpg.error.not_signed_commit";
    json!({ "verified": false, "reason": reason, "signature": "", "payload": "", "signer": null })
}

/// A commit as messages show it.
pub(in super::super) fn payload_commit(
    state: &State,
    found: &Repository,
    commit: &Commit,
) -> Value {
    let person = |(name, email): &(String, String)| {
        let known = state.with_email(email).map(|account| account.name.as_str());
        json!({ "name": name, "email": email, "username": known.unwrap_or_default() })
    };
    json!({
        "id": commit.id,
        "message": commit.message,
        "url": format!("{}/{}/commit/{}", state.root_url, found.full_name(), commit.id),
        "author": person(&commit.author),
        "committer": person(&commit.committer),
        "verification": null,
        "timestamp": commit.committed,
        "added": commit.added,
        "removed": commit.removed,
        "modified": commit.modified,
    })
}

/// A branch with its commit, whose files nobody looked up.
pub(in super::super) fn branch(
    state: &State,
    found: &Repository,
    name: &str,
    commit: &Commit,
    doer: Option<&str>,
) -> Value {
    let mut shown = payload_commit(state, found, commit);
    shown["verification"] = verification();
    for files in ["added", "removed", "modified"] {
        shown[files] = Value::Null;
    }
    let protected = found.protected.contains(name);
    let may_push = !protected && matches!(state.access(doer, found), "owner" | "admin" | "write");
    json!({
        "name": name,
        "commit": shown,
        "protected": protected,
        "required_approvals": 0,
        "enable_status_check": false,
        "status_check_contexts": [],
        "user_can_push": may_push,
        "user_can_merge": may_push,
        "effective_branch_protection_name": if protected { name } else { "" },
    })
}

fn meta(url: &str, commit: &str, created: &str) -> Value {
    json!({ "url": format!("{url}/{commit}"), "sha": commit, "created": created })
}

fn parents(api: &str, commit: &Commit) -> Vec<Value> {
    let url = format!("{api}/commits");
    commit.parents.iter().map(|parent| meta(&url, parent, ZERO)).collect()
}

fn signature((name, email): &(String, String), date: &str) -> Value {
    json!({ "name": name, "email": email, "date": date })
}

fn git_api(state: &State, found: &Repository) -> String {
    format!("{}/api/v1/repos/{}/git", state.root_url, found.full_name())
}

/// A commit of a list, with those of its parts.
pub(in super::super) fn commit(
    state: &State,
    found: &Repository,
    commit: &Commit,
    parts: &[Part],
) -> Value {
    let api = git_api(state, found);
    let known = |(_, email): &(String, String)| {
        state.with_email(email).map(|account| user(state, &account.name, None))
    };
    let mut shape = json!({
        "url": format!("{api}/commits/{}", commit.id),
        "sha": commit.id,
        "created": commit.committed,
        "html_url": format!("{}/{}/commit/{}", state.root_url, found.full_name(), commit.id),
        "commit": {
            "url": format!("{api}/commits/{}", commit.id),
            "author": signature(&commit.author, &commit.authored),
            "committer": signature(&commit.committer, &commit.committed),
            "message": commit.message,
            // The real server gives the commit's id for its tree's, too.
            "tree": meta(&format!("{api}/trees"), &commit.id, &commit.committed),
        },
        "author": known(&commit.author),
        "committer": known(&commit.committer),
        "parents": parents(&api, commit),
    });
    if parts.contains(&Part::Verification) {
        shape["commit"]["verification"] = verification();
    }
    if parts.contains(&Part::Files) {
        let all = [
            (&commit.added, "added"),
            (&commit.removed, "removed"),
            (&commit.modified, "modified"),
        ];
        let file = |(paths, status): (&Vec<String>, &'static str)| -> Vec<Value> {
            let file = |path: &String| json!({ "filename": path, "status": status });
            paths.iter().map(file).collect()
        };
        shape["files"] = all.into_iter().flat_map(file).collect();
    }
    if parts.contains(&Part::Stat) {
        let (additions, deletions) = files::lines(&found.folder, &commit.id).unwrap_or_default();
        shape["stats"] = json!({
            "total": additions + deletions,
            "additions": additions,
            "deletions": deletions,
        });
    }
    shape
}

/// A commit that the API has made.
pub(in super::super) fn file_commit(state: &State, found: &Repository, commit: &Commit) -> Value {
    let api = git_api(state, found);
    json!({
        "url": format!("{api}/commits/{}", commit.id),
        "sha": commit.id,
        "created": ZERO,
        "html_url": format!("{}/{}/commit/{}", state.root_url, found.full_name(), commit.id),
        "author": signature(&commit.author, &commit.authored),
        "committer": signature(&commit.committer, &commit.committed),
        "parents": parents(&api, commit),
        "message": commit.message,
        "tree": meta(&format!("{api}/trees"), &commit.tree, ZERO),
    })
}

/// A file of a branch, with its content in base64; `last` is the commit that changed it last.
pub(in super::super) fn file(
    state: &State,
    found: &Repository,
    branch: &str,
    (path, blob, size): (&str, &str, usize),
    last: &Commit,
    content: &str,
) -> Value {
    let (root, full_name) = (&state.root_url, found.full_name());
    let url = format!("{root}/api/v1/repos/{full_name}/contents/{path}?ref={branch}");
    let blob_url = format!("{root}/api/v1/repos/{full_name}/git/blobs/{blob}");
    let html = format!("{root}/{full_name}/src/branch/{branch}/{path}");
    json!({
        "name": path.rsplit('/').next(),
        "path": path,
        "sha": blob,
        "last_commit_sha": last.id,
        "last_committer_date": last.committed,
        "last_author_date": last.authored,
        "type": "file",
        "size": size,
        "encoding": "base64",
        "content": content,
        "target": null,
        "url": url,
        "html_url": html,
        "git_url": blob_url,
        "download_url": format!("{root}/{full_name}/raw/branch/{branch}/{path}"),
        "submodule_git_url": null,
        "_links": { "self": url, "git": blob_url, "html": html },
    })
}

pub(in super::super) fn files_response(commit: &Value, files: &[Value]) -> Value {
    json!({ "commit": commit, "files": files, "verification": verification() })
}

pub(in super::super) fn file_response(commit: &Value, file: &Value) -> Value {
    json!({ "commit": commit, "content": file, "verification": verification() })
}

/// A file that a pull request changes; `head` is its last commit.
pub(in super::super) fn changed_file(
    state: &State,
    found: &Repository,
    head: &str,
    changed: &Changed,
) -> Value {
    let (root, full_name, path) = (&state.root_url, found.full_name(), &changed.path);
    json!({
        "filename": path,
        "status": changed.status,
        "additions": changed.additions,
        "deletions": changed.deletions,
        "changes": changed.additions + changed.deletions,
        "html_url": format!("{root}/{full_name}/src/commit/{head}/{path}"),
        "contents_url": format!("{root}/api/v1/repos/{full_name}/contents/{path}?ref={head}"),
        "raw_url": format!("{root}/{full_name}/raw/commit/{head}/{path}"),
    })
}
