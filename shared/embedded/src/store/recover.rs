//! Step 7: turning dead leases into queue entries.

use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::lease::CLOCK_SLACK;
use rdev_domain::step::{Event, Refusal, step};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use rusqlite::{Params, params};

use super::rows::{self, Found};
use super::{Tx, transition};
use crate::failed::Failed;

/// Recovers the expired leases of a project.
pub(super) fn expired_of(tx: &Tx<'_>, project: &ProjectId) -> Result<Vec<OutboxEntry>, Failed> {
    let ids = held(
        tx,
        "SELECT task FROM leases WHERE project = ?1 AND until < ?2",
        params![project.as_str(), tx.now.minus(CLOCK_SLACK).as_millis()],
    )?;
    recover(tx, &ids, false)
}

/// Recovers up to `limit` expired leases; how many, and their outbox entries.
pub(super) fn expired(tx: &Tx<'_>, limit: u32) -> Result<(usize, Vec<OutboxEntry>), Failed> {
    let ids = held(
        tx,
        "SELECT task FROM leases WHERE until < ?1 LIMIT ?2",
        params![tx.now.minus(CLOCK_SLACK).as_millis(), limit],
    )?;
    Ok((ids.len(), recover(tx, &ids, false)?))
}

/// Recovers every lease: their holders are known to be dead.
pub(super) fn everything(tx: &Tx<'_>) -> Result<Vec<OutboxEntry>, Failed> {
    let ids = held(tx, "SELECT task FROM leases", [])?;
    recover(tx, &ids, true)
}

fn held(tx: &Tx<'_>, sql: &str, params: impl Params) -> Result<Vec<TaskId>, Failed> {
    let mut held = tx.conn.prepare_cached(sql)?;
    let ids = held.query_map(params, |row| rows::ulid(row, 0).map(TaskId))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

fn recover(tx: &Tx<'_>, ids: &[TaskId], proved_dead: bool) -> Result<Vec<OutboxEntry>, Failed> {
    let mut outbox = Vec::new();
    for &id in ids {
        let found = rows::find(tx.conn, id, Timestamp::from_millis(i64::MIN))?;
        match found {
            Some(Found::Task(record)) => {
                let lease = record.lease.as_ref().ok_or(Refusal::Stale)?;
                let event = Event::Recover {
                    seen: record.task.fence,
                    heartbeat: lease.heartbeat,
                    proved_dead,
                };
                let step = step(&record.task, Some(lease), event, tx.now)?;
                outbox.extend(transition::write(tx, &record, &step)?);
            }
            Some(Found::Unreadable(unreadable)) => {
                outbox.extend(transition::poison(tx, &unreadable)?);
            }
            None => return Err(rusqlite::Error::QueryReturnedNoRows.into()),
        }
    }
    Ok(outbox)
}
