//! Opening a pull request for the delivered commit.

use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::failure::FailureClass;
use rdev_domain::git::CommitId;
use rdev_domain::ports::{PortError, PullRequest};
use rdev_domain::result::{BuildResult, Warning};

use super::push::PushContext;
use crate::attempt::interrupt::Interrupt;

/// The time limit for the forge to open a pull request.
const FORGE_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) async fn open(
    push: &PushContext<'_>,
    commit: &CommitId,
    result: &mut BuildResult,
) -> Result<(), Interrupt> {
    let (attempt, spec) = (push.attempt, push.spec);
    let title = spec.prompt.trim().lines().next().unwrap_or_default();
    let request = PullRequest {
        git_url: push.target.remote.url.clone(),
        head: push.target.branch.clone(),
        commit: commit.clone(),
        base: push.target.base_branch.clone(),
        title: title.chars().take(100).collect(),
        body: format!("{}\n\nTask {}", spec.prompt.trim(), attempt.task.id),
    };
    let opened = attempt.context.ports.forge.pull_request(&request);
    let answer = tokio::select! {
        answer = tokio::time::timeout(FORGE_TIMEOUT, opened) => answer,
        () = attempt.lease.stop.token().cancelled() => return Err(Interrupt::Stopped),
    };
    let Ok(answer) = answer else {
        return Err(Interrupt::failed(FailureClass::Infra, "the forge did not answer in time"));
    };
    match answer {
        Ok(url) => result.pull_request_url = Some(url),
        Err(
            error @ (PortError::NotSupported { .. }
            | PortError::Invalid(_)
            | PortError::Denied { .. }
            | PortError::NotFound { .. }
            | PortError::Upstream { .. }
            | PortError::Conflict(_)),
        ) => {
            let message = format!("no pull request was opened: {}", chain(&error));
            result.warnings.push(Warning { code: "pull_request_refused".to_owned(), message });
        }
        Err(error) => return Err(Interrupt::failed(FailureClass::Infra, chain(&error))),
    }
    Ok(())
}
