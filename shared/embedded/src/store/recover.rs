//! Step 7: a task whose lease has expired returns to the queue.

use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::lease::CLOCK_SLACK;
use rdev_domain::step::{Event, Refusal, step};
use rdev_domain::wake_up::OutboxEntry;
use rusqlite::{OptionalExtension, Params, params};

use super::rows::{self, CorruptTask, Found, blob};
use super::transaction::Tx;
use super::{transition, turns};
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
pub(super) fn expired(tx: &Tx<'_>, limit: usize) -> Result<(usize, Vec<OutboxEntry>), Error> {
    // There are as many leases as running tasks. Those of newer records are left alone, and the
    // others are not to wait behind them.
    let ids = leased(
        tx,
        "SELECT task FROM leases WHERE until < ?1",
        params![tx.now.minus(CLOCK_SLACK).as_millis()],
    )?;
    let (mut recovered, mut outbox) = (0, Vec::new());
    for id in ids {
        if recovered == limit {
            break;
        }
        if let Some(entries) = recover_or_end(tx, id, false)? {
            recovered += 1;
            outbox.extend(entries);
        }
    }
    Ok((recovered, outbox))
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
        outbox.extend(recover_or_end(tx, id, proved_dead)?.into_iter().flatten());
    }
    Ok(outbox)
}

/// Recovers a task, or ends it as `poison` if that fails because of its record. `None` if neither
/// is possible.
fn recover_or_end(
    tx: &Tx<'_>,
    id: TaskId,
    proved_dead: bool,
) -> Result<Option<Vec<OutboxEntry>>, Error> {
    if let Some(recovered) = tx.alone(id, || recover_one(tx, id, proved_dead))? {
        return Ok(recovered);
    }
    let ended = tx.alone(id, || match rows::find_any(tx, id)? {
        Some(Found::Task(record)) => transition::poison(tx, &CorruptTask::of(&record)).map(Some),
        _ => Ok(None),
    });
    Ok(ended?.flatten())
}

/// Recovers a task. `None` if it was renewed, or if a newer program wrote its record: that program
/// recovers it.
fn recover_one(
    tx: &Tx<'_>,
    id: TaskId,
    proved_dead: bool,
) -> Result<Option<Vec<OutboxEntry>>, Error> {
    match rows::find_any(tx, id)? {
        Some(Found::Task(record)) => {
            let lease = record.lease.as_ref().ok_or(Refusal::Stale)?;
            let (seen, heartbeat) = (record.task.fence, lease.heartbeat);
            let event = Event::Recover { seen, heartbeat, proved_dead };
            let step = match step(&record.task, Some(lease), event, tx.now) {
                Err(Refusal::Alive) => return Ok(None),
                step => step?,
            };
            transition::write(tx, &record, &step).map(Some)
        }
        Some(Found::Corrupt(corrupt)) => transition::poison(tx, &corrupt).map(Some),
        Some(Found::Newer(_)) => Ok(None),
        None => {
            // A lease of nothing would take a slot for ever.
            let project = tx
                .conn
                .prepare_cached("DELETE FROM leases WHERE task = ?1 RETURNING project")?
                .query_row([blob(id.0)], |row| rows::parsed(row, 0))
                .optional()?;
            if let Some(project) = project {
                turns::refresh(tx, &project)?;
            }
            Ok(None)
        }
    }
}
