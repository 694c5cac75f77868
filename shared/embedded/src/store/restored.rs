//! What a store that was restored from a backup forgets and remembers.
//!
//! Other systems, above all the remote repositories, have gone on since the backup was made.

use rdev_domain::audit::Actor;
use rdev_domain::ids::ProjectId;
use rdev_domain::retention::Retention;
use rdev_domain::spec::AgentName;
use rdev_domain::time::Timestamp;
use rusqlite::Connection;

use super::transaction::{Context, Tx};
use super::{audit, outbox, queue_entry, rows};
use crate::error::Error;

/// By how much fences grow, so that the refs of the new life are named otherwise than those of the
/// life that went on after the backup. Names that meet all the same do no harm: only a recorded
/// value is adopted.
const FENCES: i64 = 1000;

/// What was marked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Marked {
    /// How many tasks had not ended.
    pub(crate) unfinished: u64,
}

/// Prepares a restored store, in one transaction:
///
/// * Each task that may run (again) is marked: its branch is searched before any agent runs. Those
///   that failed or were cancelled are too, because a retry inherits the mark.
/// * Fences grow.
/// * The commit status of a task that did not succeed is not sent any more.
/// * Each project with a due task gets an outbox entry, which the first sweep sends: the queue,
///   with its wake-ups, is in no backup. What is due later the sweep finds when it is.
/// * Workers and their drains are forgotten. Leases end when the folder is opened, as those of any
///   earlier process do.
pub(crate) fn mark(conn: &Connection, now: Timestamp) -> Result<Marked, Error> {
    let transaction = conn.unchecked_transaction()?;
    // A body that is no JSON fails as `poison` when it is claimed.
    let unfinished = transaction.execute(
        "UPDATE tasks SET body = json_set(body, '$.restored', json('true'),
                                          '$.fence', json_extract(body, '$.fence') + ?1)
         WHERE state IN ('queued', 'running', 'pushing')
           AND json_valid(body) AND json_type(body, '$.fence') = 'integer'",
        [FENCES],
    )?;
    transaction.execute(
        "UPDATE tasks SET body = json_set(body, '$.restored', json('true'))
         WHERE state IN ('failed', 'cancelled') AND json_valid(body)",
        [],
    )?;
    // Of a task that succeeded the word is true for ever. A retry that the backup does not know may
    // have said something else since of one that did not.
    transaction.execute(
        "UPDATE tasks SET status_due_at = NULL,
                          body = json_remove(
                              json_set(body, '$.commit_status.shown', 'given_up',
                                       '$.commit_status.error', ?1),
                              '$.commit_status.next_at')
         WHERE status_due_at IS NOT NULL AND state <> 'succeeded' AND json_valid(body)",
        ["rdev was restored from a backup before the forge had taken it"],
    )?;
    transaction.execute("UPDATE leases SET fence = fence + ?1", [FENCES])?;
    transaction.execute("DELETE FROM workers", [])?;
    let context = Context::new(Retention::default(), audit::last_id(&transaction)?);
    let by = Actor::maintenance();
    let tx = Tx { conn: &transaction, context: &context, by: &by, now };
    for (project, agent) in due(&tx)? {
        outbox::write(&tx, &project, agent, &[now.minus(outbox::OVERDUE_AFTER)])?;
    }
    audit::record(&tx, "installation.restored", "installation", None)?;
    transaction.commit()?;
    Ok(Marked { unfinished: unfinished as u64 })
}

/// The projects with something due, with each agent that it needs.
fn due(tx: &Tx<'_>) -> Result<Vec<(ProjectId, Option<AgentName>)>, Error> {
    let mut due = tx.conn.prepare("SELECT DISTINCT project, agent FROM due")?;
    let due = due.query_map([], |row| {
        Ok((rows::parsed(row, 0)?, queue_entry::agent(&row.get::<_, String>(1)?)))
    })?;
    Ok(due.collect::<rusqlite::Result<_>>()?)
}
