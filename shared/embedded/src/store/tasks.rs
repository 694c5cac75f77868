//! Steps 1 and 4 to 10: enqueue, renew, and every other event of a task.

use rdev_domain::ids::TaskId;
use rdev_domain::lease::Holder;
use rdev_domain::ports::{Advanced, Conflict, Enqueued, PortError, PortResult, Renewal};
use rdev_domain::project::ProjectState;
use rdev_domain::result::Usage;
use rdev_domain::step::{Event, Refusal, step};
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;
use rusqlite::params;

use super::events::Encoded;
use super::rows::{self, Found, blob};
use super::{Tx, audit, events, projects, transition};
use crate::failed::Failed;

/// A new task, encoded before it comes to the thread that writes.
pub(super) struct New {
    task: Task,
    body: String,
}

impl New {
    pub(super) fn of(task: Task) -> PortResult<Self> {
        let body =
            serde_json::to_string(&task).map_err(|error| PortError::broken("the task", error))?;
        Ok(Self { task, body })
    }
}

/// Every task, expired or not.
const ALL: Timestamp = Timestamp::from_millis(i64::MIN);

pub(super) fn enqueue(tx: &Tx<'_>, new: New) -> Result<Enqueued, Failed> {
    let New { task, body } = new;
    if let Some(found) = rows::find(tx.conn, task.id, ALL)? {
        let there = found.into_record().task;
        if there.lineage != task.lineage || there.project_id != task.project_id {
            return Err(Conflict::IdTaken.into());
        }
        return Ok(Enqueued { task: there, outbox: Vec::new() });
    }
    if projects::state(tx.conn, &task.project_id)? != ProjectState::Ready {
        return Err(Conflict::ProjectNotReady.into());
    }
    tx.conn
        .prepare_cached(
            "INSERT INTO tasks
                 (id, project, kind, agent, state, priority, available_at, notify, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
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
        ])?;
    transition::enter_queue(tx, &task, false)?;
    if let Some(old) = task.retry_of {
        set_retried_as(tx, old, task.id)?;
    }
    let subject = transition::subject(task.id);
    audit::record(tx, "task.enqueued", &subject, Some(&task.project_id))?;
    let outbox = transition::write_outbox(tx, &task.project_id, &[task.available_at.max(tx.now)])?;
    Ok(Enqueued { task, outbox })
}

/// Notes on a task that it was retried. One that has expired meanwhile needs no note.
fn set_retried_as(tx: &Tx<'_>, old: TaskId, new: TaskId) -> Result<(), Failed> {
    let Some(Found::Task(record)) = rows::find(tx.conn, old, ALL)? else { return Ok(()) };
    let task = Task { retried_as: Some(new), updated_at: tx.now, ..record.task };
    tx.conn
        .prepare_cached("UPDATE tasks SET body = ?2 WHERE id = ?1")?
        .execute(params![blob(old.0), serde_json::to_string(&task)?])?;
    Ok(())
}

pub(super) fn renew(
    tx: &Tx<'_>,
    id: TaskId,
    holder: &Holder,
    events: &Encoded,
    usage: Option<Usage>,
) -> Result<Renewal, Failed> {
    let record = rows::find(tx.conn, id, ALL)?.map(Found::into_record);
    let (task, lease) = match record {
        Some(record) => (record.task, record.lease.ok_or(Refusal::Stale)?),
        None => return Err(Refusal::Stale.into()),
    };
    let lease = lease.renewed(holder, usage, tx.now)?;
    transition::update_lease(tx.conn, task.project_id.as_str(), id, &lease)?;
    events::write(tx.conn, id, events)?;
    Ok(Renewal { cancel_requested: lease.cancel_requested, until: lease.until })
}

/// Applies an event. The inner result is an answer whose transaction stands:
/// whoever touches a task that cannot be read ends it, and hears that it has ended.
pub(super) fn advance(
    tx: &Tx<'_>,
    id: TaskId,
    event: Event,
    events: &Encoded,
    diff: Option<String>,
) -> Result<PortResult<Advanced>, Failed> {
    let Some(found) = rows::find(tx.conn, id, ALL)? else {
        return Err(not_found(id).into());
    };
    let record = match found {
        Found::Task(record) => record,
        Found::Unreadable(unreadable) if unreadable.state.is_terminal() => {
            return Err(Refusal::Ended(unreadable.state).into());
        }
        Found::Unreadable(unreadable) => {
            transition::poison(tx, &unreadable)?;
            return Ok(Err(Refusal::Ended(TaskState::Failed).into()));
        }
    };
    if matches!(event, Event::Claim { .. }) {
        // Only claim_next counts the project's slots in the same transaction.
        return Err(Refusal::WrongState(record.task.state).into());
    }
    let step = step(&record.task, record.lease.as_ref(), event, tx.now)?;
    let outbox = transition::write(tx, &record, &step)?;
    events::write(tx.conn, id, events)?;
    if let Some(diff) = diff {
        events::write_diff(tx.conn, id, &diff)?;
    }
    Ok(Ok(Advanced { task: step.task, lease: step.lease, outbox }))
}

/// There is no such task.
pub(super) fn not_found(id: TaskId) -> PortError {
    PortError::not_found(format!("task \"{id}\""))
}
