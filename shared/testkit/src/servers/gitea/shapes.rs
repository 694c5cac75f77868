//! The shapes of what the API answers.

use serde_json::{Value, json};

use super::files::{self, Commit};
use super::state::{Account, Hook, Pull, Repository, State, Status};

pub(super) fn user(state: &State, name: &str) -> Value {
    let account = state.owner(name);
    let created = account.map(|account| account.created.clone()).unwrap_or_default();
    json!({
        "id": account.map(|account| account.id).unwrap_or_default(),
        "login": name,
        "login_name": "",
        "source_id": 0,
        "full_name": "",
        "email": format!("{name}@noreply.forge.example"),
        "avatar_url": format!("{}/avatars/{name}", state.root_url),
        "html_url": format!("{}/{name}", state.root_url),
        "language": "",
        "is_admin": false,
        "last_login": "0001-01-01T00:00:00Z",
        "created": created,
        "restricted": false,
        "active": false,
        "prohibit_login": false,
        "location": "",
        "website": "",
        "description": "",
        "visibility": "public",
        "followers_count": 0,
        "following_count": 0,
        "starred_repos_count": 0,
    })
}

pub(super) fn organisation(account: &Account) -> Value {
    json!({
        "id": account.id,
        "name": account.name,
        "username": account.name,
        "full_name": "",
        "email": "",
        "avatar_url": "",
        "description": "",
        "website": "",
        "location": "",
        "visibility": "public",
        "repo_admin_change_team_access": true,
    })
}

pub(super) fn repository(state: &State, found: &Repository, user: Option<&str>) -> Value {
    let (root, full_name) = (&state.root_url, found.full_name());
    let may_write = user.is_some_and(|user| state.may_write(user, &found.owner));
    let open = found.pulls.iter().filter(|pull| pull.open).count();
    let host = root.split("://").nth(1).unwrap_or_default();
    let mut shape = json!({
        "id": found.id,
        "owner": self::user(state, &found.owner),
        "name": found.name,
        "full_name": full_name,
        "description": found.description,
        "empty": files::is_empty(&found.folder),
        "private": found.private,
        "fork": false,
        "template": found.template,
        "parent": null,
        "mirror": false,
        "size": 24,
        "language": "",
        "languages_url": format!("{root}/api/v1/repos/{full_name}/languages"),
        "html_url": format!("{root}/{full_name}"),
        "url": format!("{root}/api/v1/repos/{full_name}"),
        "link": "",
        "ssh_url": format!("git@{host}:{full_name}.git"),
        "clone_url": format!("{root}/{full_name}.git"),
        "original_url": "",
        "website": "",
        "stars_count": 0,
        "forks_count": 0,
        "watchers_count": 1,
        "open_issues_count": 0,
        "open_pr_counter": open,
        "release_counter": 0,
        "default_branch": found.default_branch,
        "archived": false,
        "created_at": found.created,
        "updated_at": found.created,
        "archived_at": "1970-01-01T00:00:00Z",
        "permissions": { "admin": may_write, "push": may_write, "pull": true },
    });
    if let (Value::Object(shape), Value::Object(settings)) = (&mut shape, settings()) {
        shape.extend(settings);
    }
    shape
}

/// The part of a repository that is the same for all.
fn settings() -> Value {
    json!({
        "has_issues": true,
        "internal_tracker": {
            "enable_time_tracker": true,
            "allow_only_contributors_to_track_time": true,
            "enable_issue_dependencies": true,
        },
        "has_wiki": true,
        "has_pull_requests": true,
        "has_projects": true,
        "has_releases": true,
        "has_packages": true,
        "has_actions": false,
        "ignore_whitespace_conflicts": false,
        "allow_merge_commits": true,
        "allow_rebase": true,
        "allow_rebase_explicit": true,
        "allow_squash_merge": true,
        "allow_fast_forward_only_merge": true,
        "allow_rebase_update": true,
        "default_delete_branch_after_merge": false,
        "default_merge_style": "merge",
        "default_allow_maintainer_edit": false,
        "avatar_url": "",
        "internal": false,
        "mirror_interval": "",
        "object_format_name": "sha1",
        "mirror_updated": "0001-01-01T00:00:00Z",
        "repo_transfer": null,
        "topics": [],
    })
}

fn verification() -> Value {
    let reason = "gpg.error.not_signed_commit";
    json!({ "verified": false, "reason": reason, "signature": "", "payload": "", "signer": null })
}

/// A commit as payloads and branches show it.
pub(super) fn payload_commit(state: &State, found: &Repository, commit: &Commit) -> Value {
    let person = |name: &str, email: &str| json!({ "name": name, "email": email, "username": "" });
    json!({
        "id": commit.id,
        "message": commit.message,
        "url": format!("{}/{}/commit/{}", state.root_url, found.full_name(), commit.id),
        "author": person(&commit.author.0, &commit.author.1),
        "committer": person(&commit.committer.0, &commit.committer.1),
        "verification": verification(),
        "timestamp": commit.committed,
        "added": commit.added,
        "removed": commit.removed,
        "modified": commit.modified,
    })
}

fn meta(url: &str, commit: &str, created: &str) -> Value {
    json!({ "url": format!("{url}/{commit}"), "sha": commit, "created": created })
}

/// A commit of the list.
pub(super) fn commit(state: &State, found: &Repository, commit: &Commit) -> Value {
    let api = format!("{}/api/v1/repos/{}/git", state.root_url, found.full_name());
    let person = |(name, email): &(String, String), date: &str| json!({ "name": name, "email": email, "date": date });
    let parents: Vec<Value> = commit
        .parents
        .iter()
        .map(|parent| meta(&format!("{api}/commits"), parent, "0001-01-01T00:00:00Z"))
        .collect();
    json!({
        "url": format!("{api}/commits/{}", commit.id),
        "sha": commit.id,
        "created": commit.committed,
        "html_url": format!("{}/{}/commit/{}", state.root_url, found.full_name(), commit.id),
        "commit": {
            "url": format!("{api}/commits/{}", commit.id),
            "author": person(&commit.author, &commit.authored),
            "committer": person(&commit.committer, &commit.committed),
            "message": commit.message,
            "tree": meta(&format!("{api}/trees"), &commit.tree, &commit.committed),
        },
        "author": null,
        "committer": null,
        "parents": parents,
    })
}

/// A commit that the API has made.
pub(super) fn file_commit(state: &State, found: &Repository, commit: &Commit) -> Value {
    let mut shape = self::commit(state, found, commit);
    let inner = shape["commit"].take();
    json!({
        "url": shape["url"],
        "sha": commit.id,
        "created": commit.committed,
        "html_url": shape["html_url"],
        "author": inner["author"],
        "committer": inner["committer"],
        "parents": shape["parents"],
        "message": commit.message,
        "tree": inner["tree"],
    })
}

/// A file; its content only in the answer to a request for this one file.
pub(super) fn file(
    state: &State,
    found: &Repository,
    (path, blob, size): (&str, &str, usize),
    content: Option<&str>,
) -> Value {
    let (root, full_name) = (&state.root_url, found.full_name());
    let url = format!("{root}/api/v1/repos/{full_name}/contents/{path}");
    let blob_url = format!("{root}/api/v1/repos/{full_name}/git/blobs/{blob}");
    let html = format!("{root}/{full_name}/src/branch/{}/{path}", found.default_branch);
    json!({
        "name": path.rsplit('/').next(),
        "path": path,
        "sha": blob,
        "type": "file",
        "size": size,
        "encoding": content.map(|_| "base64"),
        "content": content,
        "target": null,
        "url": url,
        "html_url": html,
        "git_url": blob_url,
        "download_url": format!("{root}/{full_name}/raw/branch/{}/{path}", found.default_branch),
        "submodule_git_url": null,
        "_links": { "self": url, "git": blob_url, "html": html },
    })
}

pub(super) fn files_response(commit: &Value, files: &[Value]) -> Value {
    json!({ "commit": commit, "files": files, "verification": verification() })
}

pub(super) fn branch(state: &State, found: &Repository, name: &str, commit: &Commit) -> Value {
    json!({
        "name": name,
        "commit": payload_commit(state, found, commit),
        "protected": false,
        "required_approvals": 0,
        "enable_status_check": false,
        "status_check_contexts": [],
        "user_can_push": true,
        "user_can_merge": true,
        "effective_branch_protection_name": "",
    })
}

pub(super) fn hook(hook: &Hook) -> Value {
    json!({
        "id": hook.id,
        "type": hook.kind,
        "branch_filter": "",
        "config": { "content_type": "json", "url": hook.url },
        "events": hook.events,
        "authorization_header": "",
        "active": hook.active,
        "updated_at": hook.created,
        "created_at": hook.created,
    })
}

pub(super) fn pull(state: &State, found: &Repository, pull: &Pull, user: Option<&str>) -> Value {
    let side = |branch: &str, name: &str, commit: &str| {
        json!({
            "label": branch,
            "ref": name,
            "sha": commit,
            "repo_id": found.id,
            "repo": repository(state, found, user),
        })
    };
    let head = match files::tip(&found.folder, &pull.head) {
        Some(commit) => side(&pull.head, &pull.head, &commit),
        None => side(&pull.head, &format!("refs/pull/{}/head", pull.number), &pull.commit),
    };
    let tip = files::tip(&found.folder, &pull.base).unwrap_or_default();
    let base = side(&pull.base, &pull.base, &tip);
    let merged_at = pull.merged.as_ref().map(|_| &pull.created);
    let page = format!("{}/{}/pulls/{}", state.root_url, found.full_name(), pull.number);
    json!({
        "id": pull.id,
        "url": page,
        "number": pull.number,
        "user": self::user(state, &pull.user),
        "title": pull.title,
        "body": pull.body,
        "labels": [],
        "milestone": null,
        "assignee": null,
        "assignees": [],
        "requested_reviewers": [],
        "state": if pull.open { "open" } else { "closed" },
        "draft": false,
        "is_locked": false,
        "comments": 0,
        "additions": 0,
        "deletions": 0,
        "changed_files": 0,
        "html_url": page,
        "diff_url": format!("{page}.diff"),
        "patch_url": format!("{page}.patch"),
        "mergeable": true,
        "merged": pull.merged.is_some(),
        "merged_at": merged_at,
        "merge_commit_sha": pull.merged,
        "merged_by": pull.merged.as_ref().map(|_| self::user(state, &pull.user)),
        "allow_maintainer_edit": false,
        "base": base,
        "head": head,
        "merge_base": tip,
        "due_date": null,
        "created_at": pull.created,
        "updated_at": pull.created,
        "closed_at": if pull.open { None } else { Some(&pull.created) },
        "pin_order": 0,
    })
}

pub(super) fn status(state: &State, found: &Repository, status: &Status) -> Value {
    let api = format!("{}/api/v1/repos/{}", state.root_url, found.full_name());
    json!({
        "id": status.id,
        "status": status.state,
        "target_url": status.target_url,
        "description": status.description,
        "url": format!("{api}/statuses/{}", status.commit),
        "context": status.context,
        "creator": user(state, &status.user),
        "created_at": status.created,
        "updated_at": status.created,
    })
}
