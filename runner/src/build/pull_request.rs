//! Opening a pull request for what was delivered.

use std::time::Duration;

use rdev_domain::failure::FailureClass;
use rdev_domain::git::CommitId;
use rdev_domain::ports::{PortError, PullRequest};
use rdev_domain::result::{BuildResult, Warning};

use super::push::Way;
use crate::attempt::interrupt::Interrupt;
use crate::chain;

/// How long a forge may take to open a pull request.
const FORGE_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) async fn open(
    way: &Way<'_>,
    commit: &CommitId,
    result: &mut BuildResult,
) -> Result<(), Interrupt> {
    let (attempt, spec) = (way.attempt, way.spec);
    let title = spec.prompt.trim().lines().next().unwrap_or_default();
    let request = PullRequest {
        git_url: way.site.remote.url.clone(),
        head: way.site.target.clone(),
        commit: commit.clone(),
        base: way.site.fallback.clone(),
        title: title.chars().take(100).collect(),
        body: format!("{}\n\nTask {}", spec.prompt.trim(), attempt.task.id),
    };
    let asked = attempt.shared.ports.forge.pull_request(&request);
    let answer = tokio::select! {
        answer = tokio::time::timeout(FORGE_TIMEOUT, asked) => answer,
        () = attempt.held.stop.token().cancelled() => return Err(Interrupt::Stopped),
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
