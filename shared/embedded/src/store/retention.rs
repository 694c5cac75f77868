//! Deleting what has expired, a page at a time.

use rdev_domain::time::Timestamp;
use rusqlite::{Connection, params};

use super::transaction::Tx;
use super::workers::FORGOTTEN_AFTER;
use crate::error::Error;

/// The most events that one page deletes. Events are small and many.
const MAX_EVENTS: usize = 5000;

/// Deletes up to `limit` expired records of each kind. Returns how many, and whether there
/// may be more.
pub(super) fn purge(tx: &Tx<'_>, limit: u32) -> Result<(u64, bool), Error> {
    let (mut deleted, mut more) = purge_logs(tx.conn, limit, tx.now)?;
    for (sql, until) in [
        // Only after its events: the row is what says that there are events to delete.
        (
            "DELETE FROM tasks WHERE row IN (
                 SELECT row FROM tasks WHERE expires_at <= ?1 AND events_expire_at IS NULL LIMIT ?2)",
            tx.now,
        ),
        (
            "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE expires_at <= ?1 LIMIT ?2)",
            tx.now,
        ),
        (
            "DELETE FROM deliveries
             WHERE id IN (SELECT id FROM deliveries WHERE expires_at <= ?1 LIMIT ?2)",
            tx.now,
        ),
        (
            "DELETE FROM pipelines WHERE (project, sha) IN
                 (SELECT project, sha FROM pipelines WHERE expires_at <= ?1 LIMIT ?2)",
            tx.now,
        ),
        (
            "DELETE FROM requests
             WHERE key IN (SELECT key FROM requests WHERE expires_at <= ?1 LIMIT ?2)",
            tx.now,
        ),
        (
            "DELETE FROM workers
             WHERE id IN (SELECT id FROM workers WHERE last_heartbeat_at <= ?1 LIMIT ?2)",
            tx.now.minus(FORGOTTEN_AFTER),
        ),
    ] {
        let n = tx.conn.prepare_cached(sql)?.execute(params![until.as_millis(), limit])?;
        deleted += n as u64;
        more |= n == limit as usize;
    }
    Ok((deleted, more))
}

/// Deletes events and diffs of tasks whose log has expired. Returns the number of these tasks,
/// and whether there may be more.
fn purge_logs(conn: &Connection, limit: u32, now: Timestamp) -> Result<(u64, bool), Error> {
    let tasks = conn
        .prepare_cached("SELECT row, id FROM tasks WHERE events_expire_at <= ?1 LIMIT ?2")?
        .query_map(params![now.as_millis(), limit], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<(i64, [u8; 16])>>>()?;
    let mut remaining = MAX_EVENTS;
    let mut deleted = 0;
    for (row, task) in &tasks {
        let events = conn
            .prepare_cached(
                "DELETE FROM events
                 WHERE task = ?1 AND seq IN (SELECT seq FROM events WHERE task = ?1 LIMIT ?2)",
            )?
            .execute(params![task, i64::try_from(remaining).unwrap_or(i64::MAX)])?;
        remaining -= events;
        if remaining == 0 {
            return Ok((deleted, true));
        }
        let diffs = conn.prepare_cached("DELETE FROM diffs WHERE task = ?1")?.execute([task])?;
        conn.prepare_cached("UPDATE tasks SET events_expire_at = NULL WHERE row = ?1")?
            .execute([row])?;
        deleted += u64::from(events + diffs > 0);
    }
    Ok((deleted, tasks.len() == limit as usize))
}
