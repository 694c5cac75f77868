//! Redrive: dead letters get a fresh wake-up, failed tasks a retry.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use rdev_domain::audit::Actor;
use rdev_domain::ids::TaskId;
use rdev_domain::page::Page;
use rdev_domain::ports::{Conflict, DeadLetter, PortError, PortResult, TaskFilter};
use rdev_domain::step::{self, Refusal};
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::WakeUp;
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::app::App;
use crate::services::error::{ServiceError, ServiceResult, field};
use crate::services::tasks;

/// How many dead letters and how many tasks one request may redrive.
const MAX_ITEMS: usize = 1000;

/// What to redrive: with neither list, every dead letter and every failed task
/// that was not retried yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Redrive {
    /// These dead letters; at most 1,000.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub dead_letter_ids: Option<Vec<Ulid>>,
    /// These failed or cancelled tasks; at most 1,000.
    #[serde(default)]
    pub task_ids: Option<Vec<TaskId>>,
}

/// What was redriven.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Redriven {
    /// How many dead letters got a wake-up and were removed.
    pub woken: u64,
    /// The new tasks.
    pub retried: Vec<TaskId>,
    /// How many dead letters and failed tasks stay as they are: not
    /// understood, or their project is deleted or not ready.
    pub left: u64,
    /// There are more than one request redrives; repeat it.
    pub more: bool,
}

/// Sends wake-ups for dead letters, and retries failed tasks. `retry_id` is the id of a task's
/// retry, and the same one when the request is repeated.
pub(crate) async fn redrive(
    app: &App,
    by: &Actor,
    request: Redrive,
    retry_id: impl Fn(TaskId) -> TaskId + Send + Sync,
    now: Timestamp,
) -> ServiceResult<Redriven> {
    let mut done = Redriven::default();
    let everything = request == Redrive::default();
    for (name, count) in [
        ("dead_letter_ids", request.dead_letter_ids.as_ref().map(Vec::len)),
        ("task_ids", request.task_ids.as_ref().map(Vec::len)),
    ] {
        if count.is_some_and(|count| count > MAX_ITEMS) {
            let errors = vec![field(name, "must have at most 1000 ids")];
            return Err(ServiceError::Invalid(errors));
        }
    }
    // A wrong id is found before anything is changed.
    let tasks = match request.task_ids {
        Some(ids) => named_tasks(app, &ids, &retry_id, now).await?,
        None if everything => failed_tasks(app, &retry_id, &mut done).await?,
        None => Vec::new(),
    };
    let letters = match request.dead_letter_ids {
        Some(ids) => named_letters(app, ids.into_iter().collect()).await?,
        None if everything => all_letters(app, &mut done).await?,
        None => Vec::new(),
    };
    wake(app, by, letters, now, &mut done).await?;
    for task in tasks {
        let new = match step::retry(&task, retry_id(task.id), now) {
            Ok(new) => new,
            // One that cannot be retried, such as a poisoned one, does not keep the others back.
            Err(_) if everything => {
                done.left += 1;
                continue;
            }
            Err(refusal) => return Err(refusal.into()),
        };
        match tasks::add(app, by, &new, now).await {
            Ok(task) => done.retried.push(task.id),
            Err(
                PortError::NotFound { .. }
                | PortError::Conflict(Conflict::ProjectNotReady | Conflict::ProjectReplaced),
            ) => {
                done.left += 1;
            }
            // Somebody else was faster; who names a task is told so.
            Err(PortError::Refused(Refusal::RetriedAlready(_))) if everything => done.left += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// Sends one wake-up for each project and agent, and removes their dead letters.
async fn wake(
    app: &App,
    by: &Actor,
    letters: Vec<DeadLetter>,
    now: Timestamp,
    done: &mut Redriven,
) -> PortResult<()> {
    let mut woken = HashSet::new();
    for letter in letters {
        let Some(project_id) = letter.project_id else {
            done.left += 1;
            continue;
        };
        // Its text may have been cut, but never one that was a wake-up.
        let agent = WakeUp::decode(&letter.body).ok().and_then(|wake_up| wake_up.agent);
        let wake_up = WakeUp { project_id, agent };
        if !woken.contains(&wake_up) {
            match app.store().project(&wake_up.project_id).await {
                Ok(_) => {}
                Err(PortError::NotFound { .. }) => {
                    done.left += 1;
                    continue;
                }
                Err(error) => return Err(error),
            }
            app.queue().send(&wake_up, Duration::ZERO).await?;
            woken.insert(wake_up);
        }
        app.store().delete_dead_letter(letter.id, by, now).await?;
        done.woken += 1;
    }
    Ok(())
}

/// The named tasks; an error when one cannot be retried.
async fn named_tasks(
    app: &App,
    ids: &[TaskId],
    retry_id: &(impl Fn(TaskId) -> TaskId + Sync),
    now: Timestamp,
) -> PortResult<Vec<Task>> {
    let mut tasks = Vec::new();
    for id in ids.iter().collect::<BTreeSet<_>>() {
        let task = app.store().task(*id).await?.task;
        let new = retry_id(*id);
        if let Err(Refusal::RetriedAlready(next)) = step::record_retry(&task, new, now) {
            return Err(Refusal::RetriedAlready(tasks::newest(app, next).await?).into());
        }
        step::retry(&task, new, now)?;
        tasks.push(task);
    }
    Ok(tasks)
}

/// Every failed task without a retry, or whose retry an earlier try of the request has queued.
async fn failed_tasks(
    app: &App,
    retry_id: &(impl Fn(TaskId) -> TaskId + Sync),
    done: &mut Redriven,
) -> PortResult<Vec<Task>> {
    let filter = TaskFilter { project: None, state: Some(TaskState::Failed), builds_only: false };
    let mut page = Page { limit: 100, before: None };
    let mut tasks = Vec::new();
    loop {
        let listed = app.store().tasks(&filter, &page).await?;
        for task in listed.items.into_iter().map(|record| record.task) {
            let open = task.retried_as.is_none_or(|id| id == retry_id(task.id));
            if open && tasks.len() == MAX_ITEMS {
                done.more = true;
                return Ok(tasks);
            }
            if open {
                tasks.push(task);
            }
        }
        match listed.next {
            Some(next) => page.before = Some(next),
            None => return Ok(tasks),
        }
    }
}

/// The dead letters of these ids. Those that are not in the store were redriven before.
async fn named_letters(app: &App, ids: BTreeSet<Ulid>) -> PortResult<Vec<DeadLetter>> {
    let mut letters = Vec::new();
    let Some(newest) = ids.last() else { return Ok(letters) };
    let mut page = Page { limit: 100, before: newest.increment().ok() };
    loop {
        let listed = app.store().dead_letters(&page).await?;
        letters.extend(listed.items.into_iter().filter(|letter| ids.contains(&letter.id)));
        let all = letters.len() == ids.len();
        match listed.next.filter(|next| !all && Some(next) > ids.first().as_ref().copied()) {
            Some(next) => page.before = Some(next),
            None => return Ok(letters),
        }
    }
}

async fn all_letters(app: &App, done: &mut Redriven) -> PortResult<Vec<DeadLetter>> {
    let mut page = Page { limit: 100, before: None };
    let mut letters = Vec::new();
    loop {
        let listed = app.store().dead_letters(&page).await?;
        letters.extend(listed.items);
        match listed.next {
            Some(_) if letters.len() >= MAX_ITEMS => {
                done.more = true;
                return Ok(letters);
            }
            Some(next) => page.before = Some(next),
            None => return Ok(letters),
        }
    }
}
