//! How a build is, shown at its commit on the forge (`rdev/build`).
//!
//! A courtesy: a forge that is away or slow costs a few seconds and never the build.

use std::time::Duration;

use rdev_domain::git::CommitId;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ports::{CommitState, CommitStatus, PortError};
use tracing::warn;

use crate::attempt::Attempt;
use crate::chain;

/// How long the forge may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shows it. Sent one after the other, so that an earlier state never comes last.
pub(crate) async fn show(
    attempt: &Attempt,
    repository: &GitUrl,
    commit: &CommitId,
    state: CommitState,
    description: &str,
) {
    let task = &attempt.task;
    let base = attempt.shared.config.public_url.as_deref();
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
    let sent = attempt.shared.ports.forge.set_status(&status);
    match tokio::time::timeout(PATIENCE, sent).await {
        Ok(Ok(()) | Err(PortError::NotSupported { .. })) => {}
        Ok(Err(error)) => {
            warn!(task = %task.id, error = chain(&error), "the build's state is not shown on the forge");
        }
        Err(_) => warn!(task = %task.id, "the forge took too long to show the build's state"),
    }
}
