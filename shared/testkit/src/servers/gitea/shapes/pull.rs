//! Pull requests.

use serde_json::{Value, json};

use super::super::files;
use super::super::records::{Pull, Repository, Review, What};
use super::super::state::State;
use super::{labels, repository, team, user};

/// A pull request: alone (`whole`), or as one of a list, which says less.
pub(in super::super) fn pull(
    state: &State,
    found: &Repository,
    pull: &Pull,
    doer: Option<&str>,
    whole: bool,
) -> Value {
    let side = |branch: &str, name: &str, commit: &str| {
        json!({
            "label": branch,
            "ref": name,
            "sha": commit,
            "repo_id": found.id,
            "repo": repository(state, found, doer),
        })
    };
    let head = match files::tip(&found.folder, &pull.head) {
        Some(commit) => side(&pull.head, &pull.head, &commit),
        None => side(&pull.head, &format!("refs/pull/{}/head", pull.number), &pull.commit),
    };
    let tip = files::tip(&found.folder, &pull.base).unwrap_or_default();
    let page = format!("{}/{}/pulls/{}", state.root_url, found.full_name(), pull.number);
    let draft = ["WIP:", "[WIP]"].iter().any(|mark| pull.title.starts_with(mark));
    let nothing = if whole { json!([]) } else { Value::Null };
    let comments = |entry: &&super::super::records::Entry| {
        entry.of == pull.number && entry.what == What::Comment
    };
    let teams = teams(state, found, pull);
    let mut shape = json!({
        "id": pull.id,
        "url": page,
        "number": pull.number,
        "user": user(state, &pull.user, doer),
        "title": pull.title,
        "body": pull.body,
        "labels": labels(state, found, &pull.labels),
        "milestone": null,
        "assignee": null,
        "assignees": nothing,
        "requested_reviewers": reviewers(state, found, pull),
        "requested_reviewers_teams": if teams.is_empty() { nothing } else { json!(teams) },
        "state": if pull.open { "open" } else { "closed" },
        "draft": draft,
        "is_locked": false,
        "comments": found.entries.iter().filter(comments).count(),
        "html_url": page,
        "diff_url": format!("{page}.diff"),
        "patch_url": format!("{page}.patch"),
        "mergeable": pull.open && !draft && files::merges(&found.folder, &pull.base, &pull.commit),
        "merged": pull.merged.is_some(),
        "merged_at": pull.merged.as_ref().map(|merged| &merged.at),
        "merge_commit_sha": pull.merged.as_ref().map(|merged| &merged.commit),
        "merged_by": pull
            .merged
            .as_ref()
            .filter(|_| whole)
            .map(|merged| user(state, &merged.by, None)),
        "allow_maintainer_edit": false,
        "base": side(&pull.base, &pull.base, &tip),
        "head": head,
        "merge_base": pull.merge_base,
        "due_date": null,
        "created_at": pull.created,
        "updated_at": pull.updated,
        "closed_at": pull.closed,
        "pin_order": 0,
    });
    // Go leaves a zero out.
    let given = |review: &&Review| review.of == pull.number && review.state != "REQUEST_REVIEW";
    let reviews = found.reviews.iter().filter(given).count();
    if reviews > 0 {
        shape["review_comments"] = json!(reviews);
    }
    if whole {
        let changed = files::changed(&found.folder, &pull.merge_base, &pull.commit);
        let changed = changed.unwrap_or_default();
        shape["additions"] = changed.iter().map(|file| file.additions).sum::<u64>().into();
        shape["deletions"] = changed.iter().map(|file| file.deletions).sum::<u64>().into();
        shape["changed_files"] = changed.len().into();
    }
    shape
}

/// Who was asked for a review, or has given one that counts.
fn reviewers(state: &State, found: &Repository, pull: &Pull) -> Vec<Value> {
    let mut names: Vec<&str> = Vec::new();
    let of = |review: &&Review| review.of == pull.number && review.team.is_none();
    for review in found.reviews.iter().filter(of) {
        if review.state != "COMMENT" && !names.contains(&review.user.as_str()) {
            names.push(&review.user);
        }
    }
    names.into_iter().map(|name| user(state, name, None)).collect()
}

/// The teams that were asked for a review.
fn teams(state: &State, found: &Repository, pull: &Pull) -> Vec<Value> {
    let of = found.reviews.iter().filter(|review| review.of == pull.number);
    of.filter_map(|review| team(state, found, review.team.as_deref()?)).collect()
}
