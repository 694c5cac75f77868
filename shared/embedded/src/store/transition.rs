//! Writing what a step of the state machine returns.
//!
//! Everything beside the task follows from the record before and after: the
//! queue entry it leaves and the one it enters, the lease that appears (a slot
//! taken), changes or goes (a slot freed), the outbox entries, the audit event, and when
//! it ends the time it expires.

use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::lease::Lease;
use rdev_domain::ports::TaskRecord;
use rdev_domain::result::Usage;
use rdev_domain::step::Step;
use rdev_domain::task::{QueuePlace, Task, TaskState};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use rusqlite::{Connection, params};

use super::rows::{Unreadable, blob, signed};
use super::{Tx, audit, deliveries};
use crate::failed::Failed;

/// A task's entry in its project's queue.
pub(super) struct Entry<'a> {
    project: &'a ProjectId,
    agent: &'a str,
    rank: u8,
    priority: u8,
    task: TaskId,
    at: Timestamp,
}

impl<'a> Entry<'a> {
    fn of(task: &'a Task) -> Self {
        let push = task.state == TaskState::Pushing;
        let agent = if push { None } else { task.work.agent() };
        Self {
            project: &task.project_id,
            agent: agent.map_or("", |agent| agent.as_str()),
            rank: u8::from(!push),
            priority: 9 - u8::from(task.priority),
            task: task.id,
            at: task.available_at,
        }
    }
}

/// Writes `step`, which was made from `before`; the outbox entries it has written.
pub(super) fn write(
    tx: &Tx<'_>,
    before: &TaskRecord,
    step: &Step,
) -> Result<Vec<OutboxEntry>, Failed> {
    let task = &step.task;
    update(tx, task, &serde_json::to_string(task)?)?;
    if before.task.queue_place(before.lease.is_some(), tx.now).is_some() {
        leave_queue(tx.conn, &Entry::of(&before.task))?;
    }
    enter_queue(tx, task, step.lease.is_some())?;
    write_lease(tx.conn, task, before.lease.as_ref(), step.lease.as_ref())?;
    // Before the audit event: its id is the one that later ids go on from.
    if !before.task.state.is_terminal() {
        deliveries::announce(tx, task)?;
    }
    audit::record(tx, step.action, &subject(task.id), Some(&task.project_id))?;
    write_outbox(tx, &task.project_id, &step.wake_ups)
}

/// Ends a task that cannot be read as `poison`: a raw write that asks nothing
/// of its body, which is kept aside.
pub(super) fn poison(tx: &Tx<'_>, unreadable: &Unreadable) -> Result<Vec<OutboxEntry>, Failed> {
    let mut task = unreadable.rebuild();
    let rank = if task.state == TaskState::Pushing { 0 } else { 1 };
    let entry = Entry {
        project: &unreadable.project,
        agent: if rank == 0 { "" } else { &unreadable.agent },
        rank,
        priority: unreadable.priority,
        task: task.id,
        at: task.available_at,
    };
    leave_queue(tx.conn, &entry)?;
    write_lease(tx.conn, &task, unreadable.lease.as_ref(), None)?;
    tx.conn
        .prepare_cached("UPDATE tasks SET unreadable = coalesce(unreadable, body) WHERE id = ?1")?
        .execute([blob(task.id.0)])?;
    task.state = TaskState::Failed;
    task.updated_at = tx.now;
    task.finished_at = Some(tx.now);
    update(tx, &task, &serde_json::to_string(&task)?)?;
    tracing::error!(task = %task.id, project = %task.project_id, "a task's record cannot be read");
    deliveries::announce(tx, &task)?;
    audit::record(tx, "task.failed", &subject(task.id), Some(&task.project_id))?;
    let freed = if unreadable.lease.is_some() { &[tx.now][..] } else { &[] };
    write_outbox(tx, &task.project_id, freed)
}

/// What the audit log calls a task.
pub(super) fn subject(id: TaskId) -> String {
    format!("task/{id}")
}

fn update(tx: &Tx<'_>, task: &Task, body: &str) -> Result<(), Failed> {
    let ended = task.state.is_terminal();
    let retention = &tx.shared.retention;
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
                              events_expire_at = ?5, body = ?6 WHERE id = ?1",
        )?
        .execute(params![
            blob(task.id.0),
            task.state.as_str(),
            task.available_at.as_millis(),
            expires_at.map(Timestamp::as_millis),
            events_expire_at.map(Timestamp::as_millis),
            body,
        ])?;
    Ok(())
}

/// Gives a task the queue entry it is to have, if any.
pub(super) fn enter_queue(tx: &Tx<'_>, task: &Task, held: bool) -> Result<(), Failed> {
    let insert = match task.queue_place(held, tx.now) {
        None => return Ok(()),
        Some(QueuePlace::Due { .. }) => {
            "INSERT INTO due (project, agent, rank, priority, task, since)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        }
        Some(QueuePlace::Later { .. }) => {
            "INSERT INTO later (project, agent, rank, priority, task, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        }
    };
    let Entry { project, agent, rank, priority, task, at } = Entry::of(task);
    tx.conn.prepare_cached(insert)?.execute(params![
        project.as_str(),
        agent,
        rank,
        priority,
        blob(task.0),
        at.as_millis()
    ])?;
    Ok(())
}

/// Removes an entry from the part of the queue that it is in: what was for
/// later when it was written may have been moved since.
fn leave_queue(conn: &Connection, entry: &Entry<'_>) -> Result<(), Failed> {
    let Entry { project, agent, rank, priority, task, at } = entry;
    let removed = conn
        .prepare_cached(
            "DELETE FROM due WHERE project = ?1 AND agent = ?2 AND rank = ?3 AND priority = ?4
                                   AND task = ?5",
        )?
        .execute(params![project.as_str(), agent, rank, priority, blob(task.0)])?;
    if removed == 0 {
        conn.prepare_cached("DELETE FROM later WHERE project = ?1 AND at = ?2 AND task = ?3")?
            .execute(params![project.as_str(), at.as_millis(), blob(task.0)])?;
    }
    Ok(())
}

fn write_lease(
    conn: &Connection,
    task: &Task,
    before: Option<&Lease>,
    after: Option<&Lease>,
) -> Result<(), Failed> {
    let project = task.project_id.as_str();
    match (before, after) {
        (None, Some(lease)) => {
            conn.prepare_cached(
                "INSERT INTO leases
                     (project, task, fence, owner, heartbeat, until, cancel_requested, usage)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
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

/// Changes what may change of a lease while it is held.
pub(super) fn update_lease(
    conn: &Connection,
    project: &str,
    task: TaskId,
    lease: &Lease,
) -> Result<(), Failed> {
    conn.prepare_cached(
        "UPDATE leases SET heartbeat = ?3, until = ?4, cancel_requested = ?5, usage = ?6
         WHERE project = ?1 AND task = ?2",
    )?
    .execute(params![
        project,
        blob(task.0),
        signed(lease.heartbeat),
        lease.until.as_millis(),
        lease.cancel_requested,
        usage(lease)?,
    ])?;
    Ok(())
}

fn usage(lease: &Lease) -> Result<Option<String>, Failed> {
    if lease.usage == Usage::default() {
        return Ok(None);
    }
    Ok(Some(serde_json::to_string(&lease.usage)?))
}

/// Writes an outbox entry for each time at which the project is to be woken.
pub(super) fn write_outbox(
    tx: &Tx<'_>,
    project: &ProjectId,
    times: &[Timestamp],
) -> Result<Vec<OutboxEntry>, Failed> {
    let mut insert =
        tx.conn.prepare_cached("INSERT INTO marks (send_at, id, project) VALUES (?1, ?2, ?3)")?;
    let mut outbox = Vec::with_capacity(times.len());
    for &send_at in times {
        let id = tx.shared.next_id(tx.now);
        insert.execute(params![send_at.as_millis(), blob(id), project.as_str()])?;
        outbox.push(OutboxEntry { id, project_id: project.clone(), send_at });
    }
    Ok(outbox)
}

/// Deletes outbox entries; each deletes only itself.
pub(super) fn delete_outbox(conn: &Connection, outbox: &[OutboxEntry]) -> Result<(), Failed> {
    let mut delete = conn.prepare_cached("DELETE FROM marks WHERE send_at = ?1 AND id = ?2")?;
    for entry in outbox {
        delete.execute(params![entry.send_at.as_millis(), blob(entry.id)])?;
    }
    Ok(())
}
