//! The commit status `rdev/build` on the forge.
//!
//! It is optional: a forge that is down or slow delays a build by a few seconds and never fails it.

use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::git::CommitId;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ports::{CommitState, CommitStatus, PortError};
use tracing::warn;

use crate::attempt::Attempt;

/// The time limit for the forge.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Sets the status. Callers wait for it, so that an earlier state never arrives last.
pub(super) async fn set(
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
    let sent = attempt.context.ports.forge.set_status(&status);
    match tokio::time::timeout(TIMEOUT, sent).await {
        Ok(Ok(()) | Err(PortError::NotSupported { .. })) => {}
        Ok(Err(error)) => {
            warn!(task = %task.id, error = chain(&error), "the commit status was not set on the forge");
        }
        Err(_) => warn!(task = %task.id, "the forge took too long to set the commit status"),
    }
}
