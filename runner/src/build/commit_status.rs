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
    let status = CommitStatus {
        git_url: repository.clone(),
        commit: commit.clone(),
        state,
        description: description.to_owned(),
        url: page_of(attempt),
    };
    attempt.statuses.set(&attempt.context, attempt.task.id, status);
}

/// Where people see the build, if that is configured.
pub(super) fn page_of(attempt: &Attempt) -> Option<String> {
    let (task, base) = (&attempt.task, attempt.context.config.public_url.as_deref()?);
    let base = base.trim_end_matches('/');
    Some(format!("{base}/projects/{}/builds/{}", task.project_id, task.id))
}
