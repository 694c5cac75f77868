//! What the forge tells of the repository that a build works on: where it is now, and whether it
//! takes the build's push. It is asked beside the fetch, so that nobody waits for it, and before an
//! agent is paid for work that nobody takes.

use std::time::Duration;

use rdev_domain::audit::Actor;
use rdev_domain::chain;
use rdev_domain::failure::FailureClass;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ports::{PortError, PushRight, PushTarget, Standing};
use rdev_domain::project::ProjectPatch;
use rdev_domain::spec::BuildSpec;
use tracing::{info, warn};

use super::target::BuildTarget;
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::git::Fetched;

/// The time limit for the forge. A fetch nearly always takes longer than its answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The answer of the forge.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// It knows the repository.
    Found(Standing),
    /// It has none of that id or name.
    Gone,
    /// It tells nothing, or not in time.
    Unknown,
}

/// Fetches the repository, and asks the forge meanwhile. A repository that was renamed or moved is
/// followed, and the project's record with it.
pub(super) async fn fetch(
    attempt: &Attempt,
    target: &mut BuildTarget,
    ticketed: bool,
) -> Result<(Fetched, PushRight), Interrupt> {
    let (fetched, look) = tokio::join!(target.fetch(attempt, ticketed), look(attempt, target));
    let standing = match look {
        Look::Found(standing) => standing,
        Look::Unknown => Standing { moved_to: None, push: PushRight::Granted },
        Look::Gone => {
            let message = format!(
                "the forge has no repository {}, or shows it to rdev no more; was it deleted?",
                target.remote.url
            );
            // The token of git may see it all the same.
            return match fetched {
                Ok(fetched) => Ok((fetched, PushRight::Granted)),
                Err(Interrupt::Stopped) => Err(Interrupt::Stopped),
                Err(_) => Err(Interrupt::failed(FailureClass::Invalid, message)),
            };
        }
    };
    let fetched = match standing.moved_to {
        None => fetched?,
        Some(url) => {
            attempt.note(format!("the repository is at {url} now"));
            target.remote = attempt.remote_at(url.clone())?;
            let fetched = target.fetch(attempt, ticketed).await?;
            record(attempt, url).await;
            fetched
        }
    };
    Ok((fetched, standing.push))
}

/// Why no agent begins work that is pushed to a repository with this right.
pub(super) fn refusal(
    attempt: &Attempt,
    spec: &BuildSpec,
    target: &BuildTarget,
    push: PushRight,
) -> Option<Interrupt> {
    if !spec.auto_commit {
        return None;
    }
    let origin = target.remote.url.origin();
    // Of another user than that of git the forge tells nothing.
    let of_us = origin.is_some() && origin == attempt.context.config.git.forge_user_at;
    let (url, branch) = (&target.remote.url, &target.branch);
    let (class, message) = match push {
        PushRight::Granted => return None,
        PushRight::Archived => (
            FailureClass::Invalid,
            format!("the repository {url} is archived; make it writable on the forge"),
        ),
        PushRight::Denied if of_us => (
            FailureClass::Auth,
            format!("rdev's user may not push to {url}; give it the right to write on the forge"),
        ),
        PushRight::BranchProtected if of_us && spec.auto_push => (
            FailureClass::Invalid,
            format!(
                "the branch {branch} of {url} is protected against pushes of rdev's user; build with --pull-request, make that the project's default (its deliver: pull_request), or let that user push to it"
            ),
        ),
        PushRight::Denied | PushRight::BranchProtected => return None,
    };
    Some(Interrupt::failed(class, message))
}

async fn look(attempt: &Attempt, target: &BuildTarget) -> Look {
    let project = &attempt.project;
    let of_project = project.git_url.as_ref() == Some(&target.remote.url);
    let of = PushTarget {
        git_url: target.remote.url.clone(),
        forge_id: project.forge_id.filter(|_| of_project),
        branch: target.branch.clone(),
    };
    let asked = attempt.context.ports.forge.standing(&of);
    match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(Ok(standing)) => Look::Found(standing),
        Ok(Err(PortError::NotFound { .. })) => Look::Gone,
        Ok(Err(PortError::NotSupported { .. })) => Look::Unknown,
        Ok(Err(error)) => {
            info!(task = %attempt.task.id, error = chain(&error), "the forge does not tell how the repository stands");
            Look::Unknown
        }
        Err(_) => {
            info!(task = %attempt.task.id, "the forge takes too long to tell how the repository stands");
            Look::Unknown
        }
    }
}

/// Records where the project's repository is. If that fails the next build follows it again.
async fn record(attempt: &Attempt, url: GitUrl) {
    let (project, store) = (&attempt.project, &attempt.context.ports.store);
    let patch = ProjectPatch {
        expected: Some(project.stage()),
        git_url: Some(url),
        ..ProjectPatch::default()
    };
    let by = Actor::worker(attempt.context.worker_id.clone());
    if let Err(error) = store.update_project(&project.id, &patch, &by, attempt.now()).await {
        warn!(project = %project.id, error = chain(&error), "where the repository is was not recorded");
    }
}
