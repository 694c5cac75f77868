//! The commit statuses of tasks that are still to be sent to the forge.

use rdev_domain::commit_status::ShownStatus;
use rdev_domain::ids::TaskId;
use rdev_domain::record::Format;
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use rusqlite::{Connection, params};

use super::rows::{self, FROM_TASKS, Found, blob};
use crate::error::Error;

/// When the task's status is sent next.
pub(super) fn due_at(task: &Task) -> Option<i64> {
    task.commit_status.as_ref()?.next_at.map(Timestamp::as_millis)
}

pub(super) fn due(
    conn: &Connection,
    now: Timestamp,
    limit: u32,
    format: Format,
) -> Result<Vec<Task>, Error> {
    let mut due = conn.prepare_cached(&format!(
        "SELECT {FROM_TASKS} WHERE t.status_due_at <= ?1 ORDER BY t.status_due_at, t.id"
    ))?;
    let mut rows = due.query([now.as_millis()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()?
        && found.len() < limit as usize
    {
        // What cannot be read is not sent. What a newer program has written, that one sends.
        if let Found::Task(record) = rows::found(row, format)? {
            found.push(record.task);
        }
    }
    Ok(found)
}

pub(super) fn update(
    conn: &Connection,
    id: TaskId,
    before: Option<&ShownStatus>,
    after: &ShownStatus,
    format: Format,
) -> Result<Option<Task>, Error> {
    let Some(Found::Task(record)) = rows::find(conn, id, Timestamp::MIN, format)? else {
        return Ok(None);
    };
    if record.task.commit_status.as_ref() != before {
        return Ok(None);
    }
    let task = Task { commit_status: Some(after.clone()), ..record.task };
    conn.prepare_cached("UPDATE tasks SET status_due_at = ?2, body = ?3 WHERE id = ?1")?
        .execute(params![blob(id.0), due_at(&task), format.encode(&task)?])?;
    Ok(Some(task))
}
