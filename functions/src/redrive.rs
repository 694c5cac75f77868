//! `POST /work/dead/redrive`: dead letters get a fresh wake-up, failed tasks a retry.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use rdev_domain::ids::TaskId;
use rdev_domain::page::Page;
use rdev_domain::ports::{Conflict, DeadLetter, PortError, TaskFilter};
use rdev_domain::step;
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::WakeUp;
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::Api;
use crate::auth::Caller;
use crate::extract::OptionalJson;
use crate::idempotency::Try;
use crate::problem::{Answer, Problem};
use crate::work::add;

/// How many dead letters and how many tasks one request takes.
const AT_MOST: usize = 1000;

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
    /// How many dead letters were answered with a wake-up and removed.
    pub woken: u64,
    /// The new tasks.
    pub retried: Vec<TaskId>,
    /// How many dead letters and failed tasks stay as they are: not
    /// understood, or their project is gone or not ready.
    pub left: u64,
    /// There are more than one request takes; ask again.
    pub more: bool,
}

/// Sends wake-ups for dead letters, and retries failed tasks on the same lineage.
#[utoipa::path(
    post, path = "/work/dead/redrive", tag = "work", operation_id = "redrive",
    security(("key" = ["work:write"])),
    request_body = Option<Redrive>,
    responses((status = 200, description = "What was done", body = Redriven))
)]
pub(crate) async fn redrive(
    State(api): State<Api>,
    caller: Caller,
    attempt: Try,
    OptionalJson(asked): OptionalJson<Redrive>,
) -> Answer<Json<Redriven>> {
    let now = crate::now();
    let mut done = Redriven::default();
    let everything = asked == Redrive::default();
    for (name, count) in [
        ("dead_letter_ids", asked.dead_letter_ids.as_ref().map(Vec::len)),
        ("task_ids", asked.task_ids.as_ref().map(Vec::len)),
    ] {
        if count.is_some_and(|count| count > AT_MOST) {
            return Err(Problem::field(name, "must have at most 1000 ids"));
        }
    }
    // Whatever is wrong with an id is found before anything is done.
    let tasks = match asked.task_ids {
        Some(ids) => named_tasks(&api, &ids, attempt, now).await?,
        None if everything => failed_tasks(&api, attempt, &mut done).await?,
        None => Vec::new(),
    };
    let letters = match asked.dead_letter_ids {
        Some(ids) => named_letters(&api, ids.into_iter().collect()).await?,
        None if everything => all_letters(&api, &mut done).await?,
        None => Vec::new(),
    };
    wake(&api, &caller, letters, now, &mut done).await?;
    for task in tasks {
        let new = step::retry(&task, retry_id(attempt, task.id), now)?;
        match add(&api, &caller, &new, now).await {
            Ok(task) => done.retried.push(task.id),
            Err(problem) if gone(&problem) => done.left += 1,
            Err(problem) => return Err(problem),
        }
    }
    Ok(Json(done))
}

/// Sends one wake-up per project and removes its letters.
async fn wake(
    api: &Api,
    caller: &Caller,
    letters: Vec<DeadLetter>,
    now: Timestamp,
    done: &mut Redriven,
) -> Answer<()> {
    let mut woken = HashSet::new();
    for letter in letters {
        let Some(project_id) = letter.project_id else {
            done.left += 1;
            continue;
        };
        if !woken.contains(&project_id) {
            match api.store().project(&project_id).await {
                Ok(_) => {}
                Err(PortError::NotFound { .. }) => {
                    done.left += 1;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let wake_up = WakeUp { project_id: project_id.clone() };
            api.queue().send(&wake_up, Duration::ZERO).await?;
            woken.insert(project_id);
        }
        api.store().delete_dead_letter(letter.id, &caller.actor(), now).await?;
        done.woken += 1;
    }
    Ok(())
}

/// The named tasks; an error when one cannot be retried.
async fn named_tasks(api: &Api, ids: &[TaskId], attempt: Try, now: Timestamp) -> Answer<Vec<Task>> {
    let mut tasks = Vec::new();
    for id in ids.iter().collect::<BTreeSet<_>>() {
        let task = api.store().task(*id).await?.task;
        step::retry(&task, retry_id(attempt, *id), now)?;
        tasks.push(task);
    }
    Ok(tasks)
}

/// Every failed task without a retry, or with one of this very request.
async fn failed_tasks(api: &Api, attempt: Try, done: &mut Redriven) -> Answer<Vec<Task>> {
    let filter = TaskFilter { project: None, state: Some(TaskState::Failed), builds_only: false };
    let mut page = Page { limit: 100, before: None };
    let mut tasks = Vec::new();
    loop {
        let listed = api.store().tasks(&filter, &page).await?;
        for task in listed.items.into_iter().map(|record| record.task) {
            let open = task.retried_as.is_none_or(|id| id == retry_id(attempt, task.id));
            if open && tasks.len() == AT_MOST {
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

/// The dead letters of these ids; those that are not there were dealt with.
async fn named_letters(api: &Api, ids: BTreeSet<Ulid>) -> Answer<Vec<DeadLetter>> {
    let mut letters = Vec::new();
    let Some(newest) = ids.last() else { return Ok(letters) };
    let mut page = Page { limit: 100, before: newest.increment().ok() };
    loop {
        let listed = api.store().dead_letters(&page).await?;
        letters.extend(listed.items.into_iter().filter(|letter| ids.contains(&letter.id)));
        let all = letters.len() == ids.len();
        match listed.next.filter(|next| !all && Some(next) > ids.first().as_ref().copied()) {
            Some(next) => page.before = Some(next),
            None => return Ok(letters),
        }
    }
}

async fn all_letters(api: &Api, done: &mut Redriven) -> Answer<Vec<DeadLetter>> {
    let mut page = Page { limit: 100, before: None };
    let mut letters = Vec::new();
    loop {
        let listed = api.store().dead_letters(&page).await?;
        letters.extend(listed.items);
        match listed.next {
            Some(_) if letters.len() >= AT_MOST => {
                done.more = true;
                return Ok(letters);
            }
            Some(next) => page.before = Some(next),
            None => return Ok(letters),
        }
    }
}

/// The id of a task's retry: the same when the request is repeated.
fn retry_id(attempt: Try, task: TaskId) -> TaskId {
    TaskId(attempt.derived(&task.to_string()))
}

/// The task's project takes nothing.
fn gone(problem: &Problem) -> bool {
    let not_ready = Problem::from(PortError::from(Conflict::ProjectNotReady));
    let not_there = Problem::not_found();
    problem.code() == not_ready.code() || problem.code() == not_there.code()
}
