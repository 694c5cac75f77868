//! What the forge tells of the repository that a build works on: where it is now, and whether it
//! takes the build's push. It is asked beside the checkout, so that hardly anybody waits for it, and
//! before an agent is paid for work that nobody takes.

use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::future::{MaybeDone, maybe_done};
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
use crate::attempt::workspace::Workspace;
use crate::git::{CheckedOut, Fetched};

/// The time limit for the forge, from the beginning of the checkout on.
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

/// The repository as it was fetched and written into the workspace.
pub(super) struct Checkout {
    pub(super) fetched: Fetched,
    pub(super) files: CheckedOut,
    /// Whether the forge says that it takes the build's push.
    pub(super) push_right: PushRight,
}

/// Fetches the repository and writes its files, and asks the forge meanwhile. A repository that was
/// renamed or moved is followed, and the project's record with it: as soon as the fetch fails, or
/// else when the forge tells it.
pub(super) async fn checkout(
    attempt: &Attempt,
    target: &mut BuildTarget,
    workspace: &Workspace,
    ticketed: bool,
) -> Result<Checkout, Interrupt> {
    let mut asked = pin!(maybe_done(look(attempt, asked_of(attempt, target))));
    let fetched = beside(asked.as_mut(), target.fetch(attempt, ticketed)).await;
    if matches!(fetched, Err(Interrupt::Stopped)) {
        return Err(Interrupt::Stopped);
    }
    if fetched.is_err() {
        asked.as_mut().await;
    }
    let fetched = match (fetched, asked.as_mut().output_mut()) {
        (fetched, Some(Look::Found(standing))) => match standing.moved_to.take() {
            None => fetched?,
            Some(url) => follow(attempt, target, ticketed, url).await?,
        },
        (Err(_), Some(Look::Gone)) => {
            let message = format!(
                "the forge has no repository {}, or shows it to rdev no more; was it deleted?",
                target.remote.url
            );
            return Err(Interrupt::failed(FailureClass::Invalid, message));
        }
        // The token of git may see it all the same.
        (fetched, _) => fetched?,
    };
    let files = write_files(attempt, target, workspace, &fetched);
    let files = beside(asked.as_mut(), files).await?;
    asked.as_mut().await;
    let standing = match asked.take_output() {
        Some(Look::Found(standing)) => standing,
        Some(Look::Gone | Look::Unknown) | None => {
            Standing { moved_to: None, push: PushRight::Granted }
        }
    };
    let push_right = standing.push;
    let Some(url) = standing.moved_to else { return Ok(Checkout { fetched, files, push_right }) };
    // Another repository has its old name.
    workspace.empty()?;
    let fetched = follow(attempt, target, ticketed, url).await?;
    let files = write_files(attempt, target, workspace, &fetched).await?;
    Ok(Checkout { fetched, files, push_right })
}

/// Does work, and has the forge asked meanwhile.
async fn beside<T>(
    asked: Pin<&mut MaybeDone<impl Future<Output = Look>>>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = asked => {}
    }
    work.await
}

async fn write_files(
    attempt: &Attempt,
    target: &BuildTarget,
    workspace: &Workspace,
    fetched: &Fetched,
) -> Result<CheckedOut, Interrupt> {
    let (mirror, start) = (&fetched.mirror, fetched.start.as_ref());
    let (dirs, stop) = (workspace.workdir(), attempt.lease.stop.token());
    Ok(attempt.machine().checkout(mirror, start, &target.branch, &dirs, stop).await?)
}

/// Fetches the repository from where it is now, and records that place.
async fn follow(
    attempt: &Attempt,
    target: &mut BuildTarget,
    ticketed: bool,
    url: GitUrl,
) -> Result<Fetched, Interrupt> {
    attempt.note(format!("the repository is at {url} now"));
    target.remote = attempt.remote_at(url.clone())?;
    let fetched = target.fetch(attempt, ticketed).await?;
    record(attempt, url).await;
    Ok(fetched)
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
                "the branch {branch} of {url} is protected against pushes of rdev's user; build with --pull-request, or let that user push to it"
            ),
        ),
        PushRight::Denied | PushRight::BranchProtected => return None,
    };
    Some(Interrupt::failed(class, message))
}

fn asked_of(attempt: &Attempt, target: &BuildTarget) -> PushTarget {
    let project = &attempt.project;
    let of_project = project.git_url.as_ref() == Some(&target.remote.url);
    PushTarget {
        git_url: target.remote.url.clone(),
        forge_id: project.forge_id.filter(|_| of_project),
        branch: target.branch.clone(),
    }
}

async fn look(attempt: &Attempt, of: PushTarget) -> Look {
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
