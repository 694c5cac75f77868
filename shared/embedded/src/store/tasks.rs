//! Steps 1 and 4 to 10: enqueue, renew, and every other event of a task.

use rdev_domain::git::RecordedRef;
use rdev_domain::ids::TaskId;
use rdev_domain::lease::{Holder, Progress};
use rdev_domain::ports::{Advanced, Conflict, Enqueued, PortError, PortResult, Renewal};
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::record::Format;
use rdev_domain::result::Usage;
use rdev_domain::step::{self, Event, Refusal, step};
use rdev_domain::task::{Task, TaskState};
use rusqlite::params;

use super::events::EncodedEvents;
use super::rows::{self, Found, blob};
use super::transaction::Tx;
use super::{audit, events, outbox, projects, queue_entry, transition, turns};
use crate::error::Error;

/// A new task, encoded before it is sent to the writing thread.
pub(super) struct NewTask {
    task: Task,
    body: String,
}

impl NewTask {
    pub(super) fn of(task: Task, format: Format) -> PortResult<Self> {
        let body = format.encode(&task).map_err(|error| PortError::broken("the task", error))?;
        Ok(Self { task, body })
    }
}

pub(super) fn enqueue(tx: &Tx<'_>, new: NewTask) -> Result<Enqueued, Error> {
    let NewTask { task, body } = new;
    if let Some(found) = rows::find_any(tx, task.id)? {
        let there = found.into_record().task;
        if there.lineage != task.lineage || there.project_id != task.project_id {
            return Err(Conflict::IdTaken.into());
        }
        return Ok(Enqueued { task: there, outbox: Vec::new() });
    }
    let project = projects::get(tx.conn, &task.project_id)?;
    if project.state != ProjectState::Ready {
        return Err(Conflict::ProjectNotReady.into());
    }
    if !project.owns_task(&task) {
        return Err(Conflict::ProjectReplaced.into());
    }
    tx.conn
        .prepare_cached(
            "INSERT INTO tasks
                 (id, project, kind, agent, state, priority, available_at, notify, body,
                  project_nonce)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            blob(task.id.0),
            task.project_id.as_str(),
            task.work.kind(),
            task.work.agent().map_or("", |agent| agent.as_str()),
            task.state.as_str(),
            9 - u8::from(task.priority),
            task.available_at.as_millis(),
            task.notify,
            body,
            blob(project.nonce),
        ])?;
    queue_entry::insert(tx, &task, false)?;
    turns::refresh(tx, &task.project_id)?;
    if let Some(old) = task.retry_of {
        record_retry(tx, &project, old, task.id)?;
    }
    let subject = transition::subject(task.id);
    audit::record(tx, "task.enqueued", &subject, Some(&task.project_id))?;
    let times = [task.available_at.max(tx.now)];
    let outbox = outbox::write(tx, &task.project_id, task.work.agent(), &times)?;
    Ok(Enqueued { task, outbox })
}

/// Records on a task that it is retried as `new`. Without its record nobody can tell whether it
/// was retried before, so one that has expired is not retried.
fn record_retry(tx: &Tx<'_>, project: &Project, old: TaskId, new: TaskId) -> Result<(), Error> {
    let record = match rows::find_any(tx, old)? {
        Some(Found::Task(record)) => record,
        Some(Found::Corrupt(corrupt)) => return Err(Refusal::NotRetryable(corrupt.state).into()),
        Some(Found::Newer(_)) => return Err(Refusal::NewerRecord.into()),
        None => return Err(rows::task_not_found(old).into()),
    };
    if !project.owns_task(&record.task) {
        return Err(Conflict::ProjectReplaced.into());
    }
    let task = step::record_retry(&record.task, new, tx.now)?;
    tx.conn
        .prepare_cached("UPDATE tasks SET body = ?2 WHERE id = ?1")?
        .execute(params![blob(old.0), tx.context.format.encode(&task)?])?;
    Ok(())
}

pub(super) fn renew(
    tx: &Tx<'_>,
    id: TaskId,
    holder: &Holder,
    events: &EncodedEvents,
    usage: Option<Usage>,
    own_refs: Option<&[RecordedRef]>,
) -> Result<Renewal, Error> {
    let record = rows::find_any(tx, id)?.map(Found::into_record);
    let (task, lease) = match record {
        Some(record) => (record.task, record.lease.ok_or(Refusal::Stale)?),
        None => return Err(Refusal::Stale.into()),
    };
    let progress = Progress { events: &[], usage, own_refs };
    let lease = lease.renewed(holder, progress, tx.now)?;
    transition::update_lease(tx.conn, task.project_id.as_str(), id, &lease)?;
    events::write(tx.conn, id, events)?;
    Ok(Renewal { cancel_requested: lease.cancel_requested, until: lease.until })
}

/// Applies an event. The inner result is returned from a transaction that is committed: an
/// event for a corrupt task ends the task, and its caller learns that it has ended.
pub(super) fn advance(
    tx: &Tx<'_>,
    id: TaskId,
    event: Event,
    events: &EncodedEvents,
    diff: Option<String>,
    shows_status: bool,
) -> Result<PortResult<Advanced>, Error> {
    let Some(found) = rows::find_any(tx, id)? else {
        return Err(rows::task_not_found(id).into());
    };
    let mut record = match found {
        Found::Task(record) => record,
        Found::Corrupt(corrupt) if corrupt.state.is_terminal() => {
            return Err(Refusal::Ended(corrupt.state).into());
        }
        Found::Newer(_) => return Err(Refusal::NewerRecord.into()),
        Found::Corrupt(corrupt) => {
            transition::poison(tx, &corrupt)?;
            return Ok(Err(Refusal::Ended(TaskState::Failed).into()));
        }
    };
    if matches!(event, Event::Claim { .. }) {
        // Only `claim_next` counts the project's slots in the same transaction.
        return Err(Refusal::WrongState(record.task.state).into());
    }
    record.task.shows_status |= shows_status;
    let step = step(&record.task, record.lease.as_ref(), event, tx.now)?;
    let outbox = transition::write(tx, &record, &step)?;
    events::write(tx.conn, id, events)?;
    if let Some(diff) = diff {
        events::write_diff(tx.conn, id, &diff)?;
    }
    Ok(Ok(Advanced { task: step.task, lease: step.lease, outbox }))
}
