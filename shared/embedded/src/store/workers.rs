//! Workers.

use std::time::Duration;

use rdev_domain::ids::WorkerId;
use rdev_domain::ports::PortError;
use rdev_domain::time::Timestamp;
use rdev_domain::worker::{Worker, WorkerStatus};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::transaction::Tx;
use super::{audit, rows};
use crate::error::Error;

/// A worker that has sent no heartbeat for this long is deleted.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn heartbeat(tx: &Tx<'_>, worker: Worker) -> Result<bool, Error> {
    let worker = Worker { last_heartbeat_at: tx.now, ..worker };
    let mut upsert = tx.conn.prepare_cached(
        "INSERT INTO workers (id, status, drain, last_heartbeat_at, body) VALUES (?1, ?2, 0, ?3, ?4)
         ON CONFLICT (id) DO UPDATE SET status = excluded.status, body = excluded.body,
             last_heartbeat_at = excluded.last_heartbeat_at
         RETURNING drain",
    )?;
    let values = params![
        worker.id.as_str(),
        worker.status.as_str(),
        tx.now.as_millis(),
        serde_json::to_string(&worker)?
    ];
    Ok(upsert.query_row(values, |row| row.get(0))?)
}

pub(super) fn get(conn: &Connection, id: &WorkerId) -> Result<Worker, Error> {
    let mut one = conn.prepare_cached("SELECT body, status, drain FROM workers WHERE id = ?1")?;
    let found = one.query_row([id.as_str()], worker).optional()?;
    found.ok_or_else(|| not_found(id).into())
}

pub(super) fn all(conn: &Connection, latest: Timestamp) -> Result<Vec<Worker>, Error> {
    let since = latest.minus(FORGOTTEN_AFTER).as_millis();
    let mut all = conn.prepare_cached(
        "SELECT body, status, drain FROM workers WHERE last_heartbeat_at > ?1 ORDER BY id",
    )?;
    let all = all.query_map([since], worker)?;
    Ok(all.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn set_drain(tx: &Tx<'_>, id: &WorkerId, drain: bool) -> Result<Worker, Error> {
    let changed = tx
        .conn
        .prepare_cached("UPDATE workers SET drain = ?2 WHERE id = ?1 AND drain <> ?2")?
        .execute(params![id.as_str(), drain])?;
    let worker = get(tx.conn, id)?;
    if changed > 0 {
        let action = if drain { "worker.drain" } else { "worker.resume" };
        audit::record(tx, action, &format!("worker/{id}"), None)?;
    }
    Ok(worker)
}

/// Marks the workers whose last heartbeat was at `since` or earlier as `offline`. Returns
/// how many.
pub(super) fn mark_offline(tx: &Tx<'_>, since: Timestamp) -> Result<u64, Error> {
    let offline = WorkerStatus::Offline.as_str();
    let changed = tx
        .conn
        .prepare_cached(
            "UPDATE workers SET status = ?1 WHERE status <> ?1 AND last_heartbeat_at <= ?2",
        )?
        .execute(params![offline, since.as_millis()])?;
    Ok(changed as u64)
}

fn worker(row: &Row<'_>) -> rusqlite::Result<Worker> {
    let mut worker: Worker = rows::body(row, 0)?;
    let offline = row.get_ref(1)?.as_str()? == WorkerStatus::Offline.as_str();
    let drain: bool = row.get(2)?;
    if offline {
        worker.status = WorkerStatus::Offline;
    } else if drain {
        worker.status = WorkerStatus::Draining;
    }
    Ok(worker)
}

fn not_found(id: &WorkerId) -> PortError {
    PortError::not_found(format!("worker \"{id}\""))
}
