//! Issues, their labels and history, reviews and releases.

use serde_json::{Value, json};

use super::super::records::{Entry, Issue, Label, Repository, Review, What};
use super::super::state::State;
use super::user;

pub(in super::super) fn label(state: &State, found: &Repository, label: &Label) -> Value {
    let api = format!("{}/api/v1/repos/{}", state.root_url, found.full_name());
    json!({
        "id": label.id,
        "name": label.name,
        "exclusive": false,
        "is_archived": false,
        "color": label.color,
        "description": label.description,
        "url": format!("{api}/labels/{}", label.id),
    })
}

/// The labels with these ids.
pub(in super::super) fn labels(state: &State, found: &Repository, ids: &[u64]) -> Vec<Value> {
    let has = found.labels.iter().filter(|label| ids.contains(&label.id));
    has.map(|one| label(state, found, one)).collect()
}

pub(in super::super) fn issue(
    state: &State,
    found: &Repository,
    issue: &Issue,
    doer: Option<&str>,
) -> Value {
    let (root, full_name, number) = (&state.root_url, found.full_name(), issue.number);
    let assignees: Vec<Value> =
        issue.assignees.iter().map(|name| user(state, name, None)).collect();
    let comments = |entry: &&Entry| entry.of == number && entry.what == What::Comment;
    json!({
        "id": issue.id,
        "url": format!("{root}/api/v1/repos/{full_name}/issues/{number}"),
        "html_url": format!("{root}/{full_name}/issues/{number}"),
        "number": number,
        "user": user(state, &issue.user, doer),
        "original_author": "",
        "original_author_id": 0,
        "title": issue.title,
        "body": issue.body,
        "ref": "",
        "assets": [],
        "labels": labels(state, found, &issue.labels),
        "milestone": null,
        "assignee": assignees.first(),
        // Go's empty list.
        "assignees": if assignees.is_empty() { Value::Null } else { Value::Array(assignees) },
        "state": if issue.closed.is_none() { "open" } else { "closed" },
        "is_locked": false,
        "comments": found.entries.iter().filter(comments).count(),
        "created_at": issue.created,
        "updated_at": issue.updated,
        "closed_at": issue.closed,
        "due_date": null,
        "time_estimate": 0,
        "pull_request": null,
        "repository": {
            "id": found.id,
            "name": found.name,
            "owner": found.owner,
            "full_name": full_name,
        },
        "pin_order": 0,
    })
}

/// The pages of an entry, and of what it belongs to: a pull request, or else an issue.
fn pages(state: &State, found: &Repository, entry: &Entry) -> [String; 3] {
    let repository = format!("{}/{}", state.root_url, found.full_name());
    let is_pull = found.pulls.iter().any(|pull| pull.number == entry.of);
    let of = format!("{repository}/{}/{}", if is_pull { "pulls" } else { "issues" }, entry.of);
    let page = format!("{of}#issuecomment-{}", entry.id);
    if is_pull { [page, of, String::new()] } else { [page, String::new(), of] }
}

pub(in super::super) fn comment(state: &State, found: &Repository, entry: &Entry) -> Value {
    let [page, pull, issue] = pages(state, found, entry);
    json!({
        "id": entry.id,
        "html_url": page,
        "pull_request_url": pull,
        "issue_url": issue,
        "user": user(state, &entry.user, None),
        "original_author": "",
        "original_author_id": 0,
        "body": entry.body,
        "assets": [],
        "created_at": entry.created,
        "updated_at": entry.updated,
    })
}

/// An entry of a history; `None` for what a history does not show.
pub(in super::super) fn entry(state: &State, found: &Repository, entry: &Entry) -> Option<Value> {
    let [page, pull, issue] = pages(state, found, entry);
    let mut shape = json!({
        "id": entry.id,
        "type": "",
        "html_url": page,
        "pull_request_url": pull,
        "issue_url": issue,
        "user": user(state, &entry.user, None),
        "body": entry.body,
        "created_at": entry.created,
        "updated_at": entry.updated,
        "old_project_id": 0,
        "project_id": 0,
        "old_milestone": null,
        "milestone": null,
        "tracked_time": null,
        "old_title": "",
        "new_title": "",
        "old_ref": "",
        "new_ref": "",
        "ref_issue": null,
        "ref_comment": null,
        "ref_action": "none",
        "ref_commit_sha": "",
        "review_id": 0,
        "label": null,
        "assignee": null,
        "assignee_team": null,
        "removed_assignee": false,
        "resolve_doer": null,
        "dependent_issue": null,
    });
    shape["type"] = json!(match &entry.what {
        // They are with their review.
        What::Line { .. } => return None,
        What::Comment => "comment",
        What::Push => "pull_push",
        What::Merge => "merge_pull",
        What::Close => "close",
        What::Review(id) => {
            shape["review_id"] = json!(id);
            "review"
        }
        What::Request(id, of) => {
            shape["review_id"] = json!(id);
            shape["assignee"] = user(state, of, None);
            "review_request"
        }
        What::Title { old, new } => {
            shape["old_title"] = json!(old);
            shape["new_title"] = json!(new);
            "change_title"
        }
        What::DeleteBranch(branch) => {
            shape["old_ref"] = json!(branch);
            "delete_branch"
        }
    });
    Some(shape)
}

pub(in super::super) fn review(
    state: &State,
    found: &Repository,
    review: &Review,
    doer: Option<&str>,
) -> Value {
    let page = format!("{}/{}/pulls/{}", state.root_url, found.full_name(), review.of);
    let told = found.entries.iter().find(|entry| entry.what == What::Review(review.id));
    let html = told.map(|entry| format!("{page}#issuecomment-{}", entry.id)).unwrap_or_default();
    let lines =
        |entry: &&Entry| matches!(&entry.what, What::Line { review: of, .. } if *of == review.id);
    let team = review.team.as_deref().and_then(|name| team(state, found, name));
    // A team has no user.
    let by = team.is_none().then(|| user(state, &review.user, doer));
    json!({
        "id": review.id,
        "user": by,
        "team": team,
        "state": review.state,
        "body": review.body,
        "commit_id": review.commit,
        "stale": review.stale,
        "official": review.official,
        "dismissed": review.dismissed,
        "comments_count": found.entries.iter().filter(lines).count(),
        "submitted_at": review.submitted,
        "updated_at": review.updated,
        "html_url": html,
        "pull_request_url": page,
    })
}

/// A team of the repository's owner, with the fields of its published description.
pub(in super::super) fn team(state: &State, found: &Repository, name: &str) -> Option<Value> {
    let key = (found.owner.to_lowercase(), name.to_lowercase());
    let (name, id) = state.teams.get(&key)?;
    Some(json!({
        "id": id,
        "name": name,
        "description": "",
        "organization": null,
        "includes_all_repositories": true,
        "permission": "write",
        "units": ["repo.code", "repo.pulls"],
        "units_map": { "repo.code": "write", "repo.pulls": "write" },
        "can_create_org_repo": false,
    }))
}

/// A comment on a line; `None` for another entry.
pub(in super::super) fn line(
    state: &State,
    found: &Repository,
    entry: &Entry,
    doer: Option<&str>,
) -> Option<Value> {
    let What::Line { review, path, position, commit, hunk } = &entry.what else { return None };
    let [html, page, _] = pages(state, found, entry);
    Some(json!({
        "id": entry.id,
        "body": entry.body,
        "user": user(state, &entry.user, doer),
        "resolver": null,
        "pull_request_review_id": review,
        "created_at": entry.created,
        "updated_at": entry.updated,
        "path": path,
        "commit_id": commit,
        "original_commit_id": "",
        "diff_hunk": hunk,
        "position": position,
        "original_position": 0,
        "html_url": html,
        "pull_request_url": page,
    }))
}

/// A release of a tag.
pub(in super::super) fn release(
    state: &State,
    found: &Repository,
    (id, tag, target): (u64, &str, &str),
    (name, body, author): (&str, &str, &str),
    at: &str,
) -> Value {
    let page = format!("{}/{}", state.root_url, found.full_name());
    let url = format!("{}/api/v1/repos/{}/releases/{id}", state.root_url, found.full_name());
    json!({
        "id": id,
        "tag_name": tag,
        "target_commitish": target,
        "name": name,
        "body": body,
        "url": url,
        "html_url": format!("{page}/releases/tag/{tag}"),
        "tarball_url": format!("{page}/archive/{tag}.tar.gz"),
        "zipball_url": format!("{page}/archive/{tag}.zip"),
        "upload_url": format!("{url}/assets"),
        "draft": false,
        "prerelease": false,
        "created_at": at,
        "published_at": at,
        "author": user(state, author, None),
        "assets": [],
    })
}
