//! The outbox: wake-ups that are to be sent, written in the transaction that makes them
//! necessary.

use std::time::Duration;

use rdev_domain::ids::ProjectId;
use rdev_domain::spec::AgentName;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use rusqlite::{Connection, params};

use super::queue_entry;
use super::rows::{self, blob};
use super::transaction::Tx;
use crate::error::Error;

/// The process that wrote an outbox entry this old will not send it.
pub(super) const OVERDUE_AFTER: Duration = Duration::from_secs(30);

/// Writes an outbox entry for each time at which a wake-up for the project is to be sent.
pub(super) fn write(
    tx: &Tx<'_>,
    project: &ProjectId,
    agent: Option<AgentName>,
    times: &[Timestamp],
) -> Result<Vec<OutboxEntry>, Error> {
    let mut insert = tx.conn.prepare_cached(
        "INSERT INTO marks (send_at, id, project, agent) VALUES (?1, ?2, ?3, ?4)",
    )?;
    let queue = agent.map_or("", |agent| agent.as_str());
    let mut outbox = Vec::with_capacity(times.len());
    for &send_at in times {
        let id = tx.context.next_id(tx.now);
        insert.execute(params![send_at.as_millis(), blob(id), project.as_str(), queue])?;
        outbox.push(OutboxEntry { id, project_id: project.clone(), agent, send_at });
    }
    Ok(outbox)
}

/// Deletes exactly these outbox entries.
pub(super) fn delete(conn: &Connection, outbox: &[OutboxEntry]) -> Result<(), Error> {
    let mut delete = conn.prepare_cached("DELETE FROM marks WHERE send_at = ?1 AND id = ?2")?;
    for entry in outbox {
        delete.execute(params![entry.send_at.as_millis(), blob(entry.id)])?;
    }
    Ok(())
}

/// The first `limit` entries that their writers should have sent by now.
pub(super) fn overdue(tx: &Tx<'_>, limit: u32) -> Result<Vec<OutboxEntry>, Error> {
    let mut overdue = tx.conn.prepare_cached(
        "SELECT send_at, id, project, agent FROM marks WHERE send_at <= ?1
         ORDER BY send_at, id LIMIT ?2",
    )?;
    let until = tx.now.minus(OVERDUE_AFTER).as_millis();
    let mut rows = overdue.query(params![until, limit])?;
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let (send_at, id) = (Timestamp::from_millis(row.get(0)?), rows::ulid(row, 1)?);
        match rows::parsed(row, 2) {
            Ok(project_id) => {
                let agent = queue_entry::agent(&row.get::<_, String>(3)?);
                found.push(OutboxEntry { send_at, id, project_id, agent });
            }
            Err(error) => unreadable.push((send_at, id, error)),
        }
    }
    drop(rows);
    for (send_at, id, error) in unreadable {
        // It names no project that could be woken.
        tracing::error!(entry = %id, %error, "an outbox entry cannot be read and is deleted");
        let mut delete =
            tx.conn.prepare_cached("DELETE FROM marks WHERE send_at = ?1 AND id = ?2")?;
        delete.execute(params![send_at.as_millis(), blob(id)])?;
    }
    Ok(found)
}
