//! Bringing final commit statuses to the forge, from their records in the store.
//!
//! A try is counted in the store before it is made. So of two senders only one makes it, and one
//! that dies half-way is followed by another. The forge may get a status twice, which changes
//! nothing: the newest of a commit counts. What a later task of the lineage has said since is never
//! overtaken: its word is looked for before a try, and after it; if it came in between, it is sent
//! once more.

use super::{Shown, ShownStatus, may_go_through};
use crate::git::Branch;
use crate::git_url::GitUrl;
use crate::ports::{
    CommitStatus, Forge, PortError, PortResult, PushTarget, Standing, Store, TaskRecord,
};
use crate::project::Project;
use crate::spec::Work;
use crate::task::Task;
use crate::time::Timestamp;

/// How many statuses one round sends at most.
const BATCH: u32 = 20;

/// How often a record is read anew that others change at the same time.
const MAX_RACES: usize = 5;

/// How many retries of a task are followed.
const MAX_RETRIES: usize = 1000;

/// Where a task's repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its URL, as far as is known.
    pub git_url: GitUrl,
    /// Its id on the forge, if it is the project's.
    pub forge_id: Option<u64>,
}

impl Place {
    /// The repository of a task of this project: the project's, or the one that its build names.
    pub fn of(project: &Project, task: &Task) -> Option<Self> {
        let named = match &task.work {
            Work::Build(spec) => spec.git_url.as_ref(),
            _ => None,
        };
        match (&project.git_url, named) {
            (Some(git_url), _) => {
                Some(Self { git_url: git_url.clone(), forge_id: project.forge_id })
            }
            (None, Some(git_url)) => Some(Self { git_url: git_url.clone(), forge_id: None }),
            (None, None) => None,
        }
    }
}

/// Makes every try that is due, one after the other, up to twenty, and returns how many it made. A
/// forge that does not answer ends the round: the others wait for the next one.
///
/// # Errors
/// The first error of the store; the next round makes the tries that this one did not.
pub async fn send_due(
    store: &dyn Store,
    forge: &dyn Forge,
    public_url: Option<&str>,
    now: impl Fn() -> Timestamp,
) -> PortResult<usize> {
    let mut made = 0;
    for task in store.due_statuses(now(), BATCH).await? {
        let Some(status) = &task.commit_status else { continue };
        if later_word(store, &task).await?.is_some() {
            let why = "a retry of the build has set a newer status";
            store.update_status(&task, &status.dropped(why, now())).await?;
            continue;
        }
        let Some(begun) = store.update_status(&task, &status.begun(now())).await? else {
            // Another sender makes this try, or there is a newer word.
            continue;
        };
        made += 1;
        let project = match store.project(&task.project_id).await {
            Ok(project) if project.owns_task(&task) => Some(project),
            Ok(_) | Err(PortError::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let sent = match project.and_then(|project| Place::of(&project, &task)) {
            Some(place) => send_final(forge, &begun, &place, public_url).await,
            None => Err(PortError::not_found("project of the build any more")),
        };
        let is_away = sent.as_ref().is_err_and(PortError::is_transient);
        record(store, &begun, &sent, now()).await?;
        if is_away {
            break;
        }
    }
    Ok(made)
}

/// Sends the final status of a task to its repository, which is followed by its id if it was
/// renamed or moved.
///
/// # Errors
/// Those of [`Forge::set_status`].
pub async fn send_final(
    forge: &dyn Forge,
    task: &Task,
    place: &Place,
    public_url: Option<&str>,
) -> PortResult<()> {
    let Some(status) = &task.commit_status else { return Ok(()) };
    let message = message(task, status, place.git_url.clone(), public_url);
    let sent = forge.set_status(&message).await;
    let Err(PortError::NotFound { .. } | PortError::Upstream { .. }) = &sent else { return sent };
    let (Some(_), Some(branch)) = (place.forge_id, branch(task)) else { return sent };
    let of = PushTarget { git_url: place.git_url.clone(), forge_id: place.forge_id, branch };
    match forge.standing(&of).await {
        Ok(Standing { moved_to: Some(git_url), .. }) => {
            forge.set_status(&CommitStatus { git_url, ..message }).await
        }
        _ => sent,
    }
}

/// Records how a try has ended that `begun` has counted. A word that was said meanwhile, by the task
/// or by a retry of it, is sent once more if this try may have come to the forge after it.
///
/// # Errors
/// Those of the store. What is not recorded is sent again.
pub async fn record(
    store: &dyn Store,
    begun: &Task,
    sent: &PortResult<()>,
    now: Timestamp,
) -> PortResult<()> {
    let Some(status) = &begun.commit_status else { return Ok(()) };
    let recorded = store.update_status(begun, &status.ended(sent, now)).await?;
    if sent.as_ref().is_err_and(|error| !may_go_through(error)) {
        // The forge has refused it, so it has overtaken nothing.
        return Ok(());
    }
    let newest = match recorded {
        Some(task) => task,
        None => match store.task(begun.id).await {
            Ok(TaskRecord { task, .. }) => {
                say_again(store, &task, now).await?;
                task
            }
            Err(PortError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        },
    };
    if let Some(later) = later_word(store, &newest).await? {
        say_again(store, &later, now).await?;
    }
    Ok(())
}

/// What is sent to the forge.
pub fn message(
    task: &Task,
    status: &ShownStatus,
    git_url: GitUrl,
    public_url: Option<&str>,
) -> CommitStatus {
    let url = public_url.map(|base| task.page(base));
    let (commit, state) = (status.commit.clone(), status.state);
    CommitStatus { git_url, commit, state, description: status.description.clone(), url }
}

/// The branch by which the repository is asked for; any will do.
fn branch(task: &Task) -> Option<Branch> {
    task.prepared
        .as_ref()
        .map(|prepared| prepared.branch.clone())
        .or_else(|| Some(task.result.as_ref()?.as_build()?.branch.clone()))
}

/// The newest retry of the task that has said something.
async fn later_word(store: &dyn Store, task: &Task) -> PortResult<Option<Task>> {
    let (mut next, mut found) = (task.retried_as, None);
    for _ in 0..MAX_RETRIES {
        let Some(id) = next else { break };
        match store.task(id).await {
            Ok(TaskRecord { task, .. }) => {
                next = task.retried_as;
                if task.commit_status.is_some() {
                    found = Some(task);
                }
            }
            Err(PortError::NotFound { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Has a final word sent once more. One that is not final is followed by one that is.
async fn say_again(store: &dyn Store, task: &Task, now: Timestamp) -> PortResult<()> {
    let mut task = task.clone();
    for _ in 0..MAX_RACES {
        let word = task.commit_status.as_ref().filter(|status| status.is_final());
        let Some(word) = word.filter(|status| status.shown != Shown::GivenUp) else { break };
        if store.update_status(&task, &word.again(now)).await?.is_some() {
            break;
        }
        // A try that was under way may have ended, and may have come to the forge before.
        match store.task(task.id).await {
            Ok(record) => task = record.task,
            Err(PortError::NotFound { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
