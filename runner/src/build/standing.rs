//! What the forge tells of the repository that a build works on: where it is now, and whether it
//! takes the build's push. It is asked beside the checkout, so that hardly anybody waits for it, and
//! before an agent is paid for work that nobody takes.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use rdev_domain::audit::Actor;
use rdev_domain::chain;
use rdev_domain::failure::FailureClass;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::TaskId;
use rdev_domain::ports::{Forge, PortError, PushRight, PushTarget, Standing};
use rdev_domain::project::ProjectPatch;
use rdev_domain::spec::BuildSpec;
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;
use tracing::{info, warn};

use super::target::BuildTarget;
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::workspace::Workspace;
use crate::git::{CheckedOut, Fetched, GitError};

/// The time limit for the forge, from the beginning of the checkout on.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long a good answer of the forge counts for builds that need not wait for the next one.
const RECENT: Duration = Duration::from_secs(10 * 60);

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
/// else when the forge tells it. A new task does not wait for an answer that takes longer, if the
/// last one was good and recent: [`BuildTarget::is_still_there`] does, before anything is written.
pub(super) async fn checkout(
    attempt: &Attempt,
    target: &mut BuildTarget,
    workspace: &Workspace,
    ticketed: bool,
) -> Result<Checkout, Interrupt> {
    let mut asked = ask(attempt, target);
    let fetched = target.fetch(attempt, ticketed).await;
    if matches!(fetched, Err(Interrupt::Stopped)) {
        return Err(Interrupt::Stopped);
    }
    if fetched.is_err() {
        asked.wait().await;
    }
    let fetched = match (fetched, asked.now()) {
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
    let files = write_files(attempt, target, workspace, &fetched).await?;
    if asked.now().is_none() && is_new(attempt) && attempt.context.granted.is_recent(target) {
        target.asked = Mutex::new(Some(asked));
        return Ok(Checkout { fetched, files, push_right: PushRight::Granted });
    }
    let Look::Found(standing) = asked.wait().await else {
        return Ok(Checkout { fetched, files, push_right: PushRight::Granted });
    };
    let push_right = standing.push;
    let Some(url) = standing.moved_to.take() else {
        attempt.context.granted.remember(target, push_right);
        return Ok(Checkout { fetched, files, push_right });
    };
    // Another repository has its old name.
    workspace.empty()?;
    let fetched = follow(attempt, target, ticketed, url).await?;
    let files = write_files(attempt, target, workspace, &fetched).await?;
    Ok(Checkout { fetched, files, push_right })
}

/// Whether nothing of the task is in the repository yet.
fn is_new(attempt: &Attempt) -> bool {
    attempt.task.own_refs.is_empty() && attempt.task.scan_base.is_none()
}

impl BuildTarget {
    /// Before anything is pushed: what the forge has told since the files were written.
    ///
    /// # Errors
    /// [`GitError::Elsewhere`].
    pub(super) async fn is_still_there(&self, attempt: &Attempt) -> Result<(), GitError> {
        let mut waiting = self.asked.lock().await;
        let Some(asked) = waiting.as_mut() else { return Ok(()) };
        if let Look::Found(standing) = asked.wait().await {
            if let Some(url) = &standing.moved_to {
                attempt.context.granted.forget(self);
                // It stays, for whatever this attempt would push next.
                return Err(GitError::Elsewhere { url: url.clone() });
            }
            attempt.context.granted.remember(self, standing.push);
        }
        *waiting = None;
        Ok(())
    }
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
    attempt.statuses.follow(url.clone());
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
                "the branch {branch} of {url} is protected against pushes of rdev's user; build with --pull-request, make that the project's default (its deliver: pull_request), or let that user push to it"
            ),
        ),
        PushRight::Denied | PushRight::BranchProtected => return None,
    };
    Some(Interrupt::failed(class, message))
}

/// A question to the forge that is under way.
#[derive(Debug)]
pub(crate) struct Asked {
    answer: oneshot::Receiver<Look>,
    answered: Option<Look>,
}

impl Asked {
    /// The answer, if it is there.
    fn now(&mut self) -> Option<&mut Look> {
        if self.answered.is_none() {
            self.answered = self.answer.try_recv().ok();
        }
        self.answered.as_mut()
    }

    async fn wait(&mut self) -> &mut Look {
        if self.answered.is_none() {
            // Nobody answers any more: the runner ends.
            self.answered = Some((&mut self.answer).await.unwrap_or(Look::Unknown));
        }
        self.answered.get_or_insert(Look::Unknown)
    }
}

fn ask(attempt: &Attempt, target: &BuildTarget) -> Asked {
    let project = &attempt.project;
    let of_project = project.git_url.as_ref() == Some(&target.remote.url);
    let of = PushTarget {
        git_url: target.remote.url.clone(),
        forge_id: project.forge_id.filter(|_| of_project),
        branch: target.branch.clone(),
    };
    let (sender, answer) = oneshot::channel();
    let (forge, task) = (Arc::clone(&attempt.context.ports.forge), attempt.task.id);
    let asking = async move {
        // Where the attempt has ended nobody waits any more.
        let _ = sender.send(look(&*forge, &of, task).await);
    };
    attempt.machine().spawn(asking.boxed());
    Asked { answer, answered: None }
}

async fn look(forge: &dyn Forge, of: &PushTarget, task: TaskId) -> Look {
    match tokio::time::timeout(TIMEOUT, forge.standing(of)).await {
        Ok(Ok(standing)) => Look::Found(standing),
        Ok(Err(PortError::NotFound { .. })) => Look::Gone,
        Ok(Err(PortError::NotSupported { .. })) => Look::Unknown,
        Ok(Err(error)) => {
            info!(%task, error = chain(&error), "the forge does not tell how the repository stands");
            Look::Unknown
        }
        Err(_) => {
            info!(%task, "the forge takes too long to tell how the repository stands");
            Look::Unknown
        }
    }
}

/// The branches that the forge has lately said that rdev may push to, with the time.
#[derive(Debug, Default)]
pub(crate) struct Granted(std::sync::Mutex<BTreeMap<(String, String), Instant>>);

impl Granted {
    fn is_recent(&self, target: &BuildTarget) -> bool {
        self.locked().get(&key(target)).is_some_and(|at| at.elapsed() < RECENT)
    }

    fn remember(&self, target: &BuildTarget, push: PushRight) {
        let mut granted = self.locked();
        granted.retain(|_, at| at.elapsed() < RECENT);
        match push {
            PushRight::Granted => granted.insert(key(target), Instant::now()),
            PushRight::Archived | PushRight::Denied | PushRight::BranchProtected => {
                granted.remove(&key(target))
            }
        };
    }

    fn forget(&self, target: &BuildTarget) {
        self.locked().remove(&key(target));
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<(String, String), Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pull request's branch is a new one each time: its base stands for it.
fn key(target: &BuildTarget) -> (String, String) {
    let lineage = target.branch.as_str().strip_prefix("rdev/");
    let own = lineage.is_some_and(|lineage| lineage.parse::<TaskId>().is_ok());
    let branch = if own { &target.base_branch } else { &target.branch };
    (target.remote.url.to_string(), format!("{own} {branch}"))
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
