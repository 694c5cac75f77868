//! Test messages of webhooks, and whether webhooks reach private addresses.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::response::{ApiResponse, Call, no_content, not_found, writable};
use super::{Gitea, Shared, hooks, locked};
use crate::servers::git_http::try_git;

impl Gitea {
    /// Whether webhooks are sent to public addresses only (`[webhook] ALLOWED_HOST_LIST`), as
    /// they are where nobody has configured anything. Here they are not, until a test wants it.
    pub fn send_to_public_addresses_only(&self, only: bool) {
        self.shared.outgoing.public_only.store(only, Ordering::Relaxed);
    }
}

/// Sends the message of a push of the default branch's newest commit, in which nothing moves.
pub(super) fn send(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    id: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = writable(&state, call, owner, name)?;
    drop(state);
    let hook = found.hooks.iter().find(|hook| hook.id.to_string() == id).cloned();
    let hook = hook.ok_or_else(not_found)?;
    let branch = format!("refs/heads/{}", found.default_branch);
    // A repository without a commit has no test message, and the answer is the same.
    let Ok(commit) = try_git(&found.folder, &["rev-parse", "--verify", &branch]) else {
        return Ok(no_content());
    };
    let payload = json!({
        "ref": branch, "before": commit, "after": commit,
        "compare_url": "", "commits": [], "total_commits": 1, "head_commit": null,
        "repository": { "id": found.id, "name": found.name, "full_name": found.full_name() },
    });
    hooks::deliver(shared, &found, hook, "push", &payload);
    Ok(no_content())
}
