//! A repository, as somebody sees it.

use serde_json::{Value, json};

use super::super::files;
use super::super::records::Repository;
use super::super::state::State;
use super::{EPOCH, View, ZERO, user_in};

pub(in super::super) fn repository(state: &State, found: &Repository, doer: Option<&str>) -> Value {
    let (root, full_name) = (&state.root_url, found.full_name());
    let access = state.access(doer, found);
    let admin = matches!(access, "owner" | "admin");
    let host = root.split("://").nth(1).unwrap_or_default();
    let host = host.split(['/', ':']).next().unwrap_or_default();
    let hidden = state.hidden.contains(&found.owner.to_lowercase());
    let view = if access == "none" { View::Public } else { View::Signed };
    let mut shape = json!({
        "id": found.id,
        "owner": user_in(state, &found.owner, view),
        "name": found.name,
        "full_name": full_name,
        "description": found.description,
        "empty": files::is_empty(&found.folder),
        "private": found.private,
        "fork": false,
        "template": found.template,
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
        "open_issues_count": found.issues.iter().filter(|issue| issue.closed.is_none()).count(),
        "open_pr_counter": found.pulls.iter().filter(|pull| pull.open).count(),
        "release_counter": found.releases,
        "default_branch": found.default_branch,
        "archived": found.archived.is_some(),
        "created_at": found.created,
        "updated_at": found.updated,
        "archived_at": found.archived.as_deref().unwrap_or(EPOCH),
        "permissions": {
            "admin": admin,
            "push": admin || access == "write",
            "pull": access != "none",
        },
        // Those who signed in see it, and nobody else.
        "internal": hidden && !found.private,
    });
    if let (Value::Object(shape), Value::Object(settings)) = (&mut shape, settings()) {
        shape.extend(settings);
    }
    shape
}

/// The part of a repository that is the same for all.
fn settings() -> Value {
    json!({
        "has_code": true,
        "has_issues": true,
        "internal_tracker": {
            "enable_time_tracker": true,
            "allow_only_contributors_to_track_time": true,
            "enable_issue_dependencies": true,
        },
        "has_wiki": true,
        "has_pull_requests": true,
        "has_projects": true,
        "projects_mode": "all",
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
        "allow_manual_merge": false,
        "autodetect_manual_merge": false,
        "default_delete_branch_after_merge": false,
        "default_merge_style": "merge",
        "default_allow_maintainer_edit": false,
        "avatar_url": "",
        "mirror_interval": "",
        "object_format_name": "sha1",
        "mirror_updated": ZERO,
        "topics": [],
        "licenses": [],
    })
}
