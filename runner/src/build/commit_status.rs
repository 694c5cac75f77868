//! The commit status `rdev/build` on the forge.

use rdev_domain::git::CommitId;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ports::{CommitState, CommitStatus};

use crate::attempt::Attempt;

/// Sets the status. No build waits for it.
pub(super) fn set(
    attempt: &Attempt,
    repository: &GitUrl,
    commit: &CommitId,
    state: CommitState,
    description: &str,
) {
    let task = &attempt.task;
    let base = attempt.context.config.public_url.as_deref();
    let url = base.map(|base| {
        let base = base.trim_end_matches('/');
        format!("{base}/projects/{}/builds/{}", task.project_id, task.id)
    });
    let status = CommitStatus {
        git_url: repository.clone(),
        commit: commit.clone(),
        state,
        description: description.to_owned(),
        url,
    };
    attempt.statuses.set(&attempt.context, task.id, status);
}
