//! Writing the result of a step of the state machine.
//!
//! All other records follow from the task before and after the step: its queue entry, its
//! lease (which is one of the project's slots), the outbox entries, the audit event, and
//! when its commit status is due, and when the task has ended its expiry time and the webhook
//! delivery.

use rdev_domain::ids::TaskId;
use rdev_domain::lease::Lease;
use rdev_domain::ports::TaskRecord;
use rdev_domain::result::Usage;
use rdev_domain::step::Step;
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use rusqlite::{Connection, params};

use super::queue_entry::{self, Entry};
use super::rows::{CorruptTask, blob, signed};
use super::transaction::Tx;
use super::{audit, deliveries, outbox, statuses, turns};
use crate::error::Error;

/// Writes `step`, which was computed from `before`. Returns the new outbox entries.
pub(super) fn write(
    tx: &Tx<'_>,
    before: &TaskRecord,
    step: &Step,
) -> Result<Vec<OutboxEntry>, Error> {
    let task = &step.task;
    update(tx, task, &tx.context.format.encode(task)?)?;
    if before.task.queue_place(before.lease.is_some(), tx.now).is_some() {
        queue_entry::delete(tx.conn, &Entry::of(&before.task))?;
    }
    queue_entry::insert(tx, task, step.lease.is_some())?;
    write_lease(tx.conn, task, before.lease.as_ref(), step.lease.as_ref())?;
    if before.lease.is_some() != step.lease.is_some()
        || before.task.queue_place(before.lease.is_some(), tx.now)
            != task.queue_place(step.lease.is_some(), tx.now)
    {
        turns::refresh(tx, &task.project_id)?;
    }
    // Before the audit event: after a restart, new ids are greater than its id.
    if !before.task.state.is_terminal() {
        deliveries::create(tx, task)?;
    }
    audit::record(tx, step.action, &subject(task.id), Some(&task.project_id))?;
    outbox::write(tx, &task.project_id, task.work.agent(), &step.wake_ups)
}

/// Ends a task whose record is corrupt as `poison`. Nothing is read from its body, which is
/// kept in a column of its own.
pub(super) fn poison(tx: &Tx<'_>, corrupt: &CorruptTask) -> Result<Vec<OutboxEntry>, Error> {
    let mut task = corrupt.rebuild();
    queue_entry::delete(tx.conn, &Entry::of_corrupt(corrupt))?;
    write_lease(tx.conn, &task, corrupt.lease.as_ref(), None)?;
    turns::refresh(tx, &task.project_id)?;
    tx.conn
        .prepare_cached("UPDATE tasks SET unreadable = coalesce(unreadable, body) WHERE id = ?1")?
        .execute([blob(task.id.0)])?;
    task.state = TaskState::Failed;
    task.updated_at = tx.now;
    task.finished_at = Some(tx.now);
    update(tx, &task, &tx.context.format.encode(&task)?)?;
    tracing::error!(task = %task.id, project = %task.project_id, "a task's record cannot be read");
    deliveries::create(tx, &task)?;
    audit::record(tx, "task.failed", &subject(task.id), Some(&task.project_id))?;
    let wake_ups = if corrupt.lease.is_some() { &[tx.now][..] } else { &[] };
    outbox::write(tx, &task.project_id, task.work.agent(), wake_ups)
}

/// The name of a task in the audit log.
pub(super) fn subject(id: TaskId) -> String {
    format!("task/{id}")
}

fn update(tx: &Tx<'_>, task: &Task, body: &str) -> Result<(), Error> {
    let ended = task.state.is_terminal();
    let retention = &tx.context.retention;
    let expires_at = ended.then(|| retention.task_expires_at(task, tx.now)).flatten();
    let events_expire_at = ended.then(|| retention.events_expire_at(tx.now)).flatten();
    // Events do not outlive their task.
    let events_expire_at = match (expires_at, events_expire_at) {
        (Some(task), Some(events)) => Some(task.min(events)),
        (task, events) => task.or(events),
    };
    tx.conn
        .prepare_cached(
            "UPDATE tasks SET state = ?2, available_at = ?3, expires_at = ?4,
                              events_expire_at = ?5, body = ?6, status_due_at = ?7
             WHERE id = ?1",
        )?
        .execute(params![
            blob(task.id.0),
            task.state.as_str(),
            task.available_at.as_millis(),
            expires_at.map(Timestamp::as_millis),
            events_expire_at.map(Timestamp::as_millis),
            body,
            statuses::due_at(task),
        ])?;
    Ok(())
}

fn write_lease(
    conn: &Connection,
    task: &Task,
    before: Option<&Lease>,
    after: Option<&Lease>,
) -> Result<(), Error> {
    let project = task.project_id.as_str();
    match (before, after) {
        (None, Some(lease)) => {
            conn.prepare_cached(
                "INSERT INTO leases
                     (project, task, fence, owner, heartbeat, until, cancel_requested, usage,
                      own_refs)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                project,
                blob(task.id.0),
                signed(lease.fence.0),
                lease.owner.as_str(),
                signed(lease.heartbeat),
                lease.until.as_millis(),
                lease.cancel_requested,
                usage(lease)?,
                own_refs(lease)?,
            ])?;
        }
        (Some(before), Some(lease)) if before != lease => {
            update_lease(conn, project, task.id, lease)?
        }
        (Some(_), None) => {
            conn.prepare_cached("DELETE FROM leases WHERE project = ?1 AND task = ?2")?
                .execute(params![project, blob(task.id.0)])?;
        }
        _ => {}
    }
    Ok(())
}

/// Updates the columns that may change during a lease.
pub(super) fn update_lease(
    conn: &Connection,
    project: &str,
    task: TaskId,
    lease: &Lease,
) -> Result<(), Error> {
    conn.prepare_cached(
        "UPDATE leases SET heartbeat = ?3, until = ?4, cancel_requested = ?5, usage = ?6,
                           own_refs = ?7
         WHERE project = ?1 AND task = ?2",
    )?
    .execute(params![
        project,
        blob(task.0),
        signed(lease.heartbeat),
        lease.until.as_millis(),
        lease.cancel_requested,
        usage(lease)?,
        own_refs(lease)?,
    ])?;
    Ok(())
}

fn own_refs(lease: &Lease) -> Result<Option<String>, Error> {
    Ok(lease.own_refs.as_ref().map(serde_json::to_string).transpose()?)
}

fn usage(lease: &Lease) -> Result<Option<String>, Error> {
    if lease.usage == Usage::default() {
        return Ok(None);
    }
    Ok(Some(serde_json::to_string(&lease.usage)?))
}
