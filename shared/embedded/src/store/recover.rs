//! Step 7: a task whose lease has expired returns to the queue.

use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::lease::CLOCK_SLACK;
use rdev_domain::step::{Event, Refusal, step};
use rdev_domain::wake_up::OutboxEntry;
use rusqlite::{Params, params};

use super::rows::{self, Found};
use super::transaction::Tx;
use super::transition;
use crate::error::Error;

/// Recovers the expired leases of a project.
pub(super) fn expired_of(tx: &Tx<'_>, project: &ProjectId) -> Result<Vec<OutboxEntry>, Error> {
    let ids = leased(
        tx,
        "SELECT task FROM leases WHERE project = ?1 AND until < ?2",
        params![project.as_str(), tx.now.minus(CLOCK_SLACK).as_millis()],
    )?;
    recover(tx, &ids, false)
}

/// Recovers up to `limit` expired leases. Returns how many, and their outbox entries.
pub(super) fn expired(tx: &Tx<'_>, limit: u32) -> Result<(usize, Vec<OutboxEntry>), Error> {
    let ids = leased(
        tx,
        "SELECT task FROM leases WHERE until < ?1 LIMIT ?2",
        params![tx.now.minus(CLOCK_SLACK).as_millis(), limit],
    )?;
    Ok((ids.len(), recover(tx, &ids, false)?))
}

/// Recovers every lease. All holders must be known to be dead.
pub(super) fn everything(tx: &Tx<'_>) -> Result<Vec<OutboxEntry>, Error> {
    let ids = leased(tx, "SELECT task FROM leases", [])?;
    recover(tx, &ids, true)
}

fn leased(tx: &Tx<'_>, sql: &str, params: impl Params) -> Result<Vec<TaskId>, Error> {
    let mut leases = tx.conn.prepare_cached(sql)?;
    let ids = leases.query_map(params, |row| rows::ulid(row, 0).map(TaskId))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

fn recover(tx: &Tx<'_>, ids: &[TaskId], proved_dead: bool) -> Result<Vec<OutboxEntry>, Error> {
    let mut outbox = Vec::new();
    for &id in ids {
        let found = rows::find_any(tx.conn, id)?;
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
            Some(Found::Corrupt(corrupt)) => {
                outbox.extend(transition::poison(tx, &corrupt)?);
            }
            None => return Err(rusqlite::Error::QueryReturnedNoRows.into()),
        }
    }
    Ok(outbox)
}
