//! Step 11: one page of the minute's sweep.

use std::collections::BTreeSet;
use std::time::Duration;

use rdev_domain::ids::ProjectId;
use rdev_domain::ports::Swept;
use rdev_domain::project::ProjectState;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use rdev_domain::worker::SILENT_AFTER;
use rusqlite::{OptionalExtension, params};

use super::rows::{self, blob};
use super::{Tx, claim, projects, recover, retention, workers};
use crate::failed::Failed;

/// How many records of one kind a page takes, so that others get their turn.
const PAGE: u32 = 500;

/// An outbox entry this old is not about to be sent by the one who wrote it.
const OUTBOX_OVERDUE: Duration = Duration::from_secs(30);

/// A wake-up for what has been due for so long may have been lost.
const DUE_FOR_LONG: Duration = Duration::from_secs(2 * 60);

/// Whoever provisions a project for so long is dead.
const PROVISIONING_FOR_LONG: Duration = Duration::from_secs(2 * 60);

pub(super) fn page(tx: &Tx<'_>) -> Result<Swept, Failed> {
    let mut swept = Swept { outbox: overdue_outbox(tx)?, ..Swept::default() };
    swept.more |= swept.outbox.len() == PAGE as usize;

    let (recovered, outbox) = recover::expired(tx, PAGE)?;
    swept.recovered = recovered as u64;
    swept.more |= recovered == PAGE as usize;
    swept.outbox.extend(outbox);

    let (mut wake, more) = promote(tx)?;
    swept.more |= more;
    swept.offline = workers::silence(tx, tx.now.minus(SILENT_AFTER))?;
    swept.more |= projects::give_up_provisioning(tx, tx.now.minus(PROVISIONING_FOR_LONG), PAGE)?;
    let (expired, more) = retention::purge(tx, PAGE)?;
    swept.expired = expired;
    swept.more |= more;

    if !swept.more {
        // On the last page only, or each page would wake them all again.
        wake.extend(due_for_long(tx)?);
    }
    for project in wake {
        if has_free_slot(tx, &project)? {
            swept.wake.push(project);
        }
    }
    Ok(swept)
}

fn overdue_outbox(tx: &Tx<'_>) -> Result<Vec<OutboxEntry>, Failed> {
    let mut overdue = tx.conn.prepare_cached(
        "SELECT send_at, id, project FROM marks WHERE send_at <= ?1 ORDER BY send_at, id LIMIT ?2",
    )?;
    let until = tx.now.minus(OUTBOX_OVERDUE).as_millis();
    let overdue = overdue.query_map(params![until, PAGE], |row| {
        Ok(OutboxEntry {
            send_at: Timestamp::from_millis(row.get(0)?),
            id: rows::ulid(row, 1)?,
            project_id: rows::parsed(row, 2)?,
        })
    })?;
    Ok(overdue.collect::<rusqlite::Result<_>>()?)
}

/// Moves what was parked and is now due to the due part of its queue; the
/// projects, and whether there may be more.
fn promote(tx: &Tx<'_>) -> Result<(BTreeSet<ProjectId>, bool), Failed> {
    let mut parked = tx.conn.prepare_cached(
        "SELECT project, at, task FROM later WHERE at <= ?1 ORDER BY at LIMIT ?2",
    )?;
    let parked = parked
        .query_map(params![tx.now.as_millis(), PAGE], |row| {
            Ok((rows::parsed::<ProjectId>(row, 0)?, row.get::<_, i64>(1)?, rows::ulid(row, 2)?))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let more = parked.len() == PAGE as usize;
    let mut projects = BTreeSet::new();
    for (project, at, task) in parked {
        let key = params![project.as_str(), at, blob(task)];
        tx.conn
            .prepare_cached(
                "INSERT INTO due (project, agent, rank, priority, task, since)
                 SELECT project, agent, rank, priority, task, at FROM later
                 WHERE project = ?1 AND at = ?2 AND task = ?3",
            )?
            .execute(key)?;
        tx.conn
            .prepare_cached("DELETE FROM later WHERE project = ?1 AND at = ?2 AND task = ?3")?
            .execute(key)?;
        projects.insert(project);
    }
    Ok((projects, more))
}

/// The projects whose oldest due task has been due for long: two look-ups for
/// each project that has anything due.
fn due_for_long(tx: &Tx<'_>) -> Result<Vec<ProjectId>, Failed> {
    let mut next = tx
        .conn
        .prepare_cached("SELECT project FROM due WHERE project > ?1 ORDER BY project LIMIT 1")?;
    let since = tx.now.minus(DUE_FOR_LONG);
    let mut found = Vec::new();
    let mut last = String::new();
    while let Some(project) =
        next.query_row([&last], |row| rows::parsed::<ProjectId>(row, 0)).optional()?
    {
        last = project.as_str().to_owned();
        if claim::due_since(tx, &project, since)? {
            found.push(project);
        }
    }
    Ok(found)
}

fn has_free_slot(tx: &Tx<'_>, id: &ProjectId) -> Result<bool, Failed> {
    Ok(match projects::find(tx.conn, id)? {
        Some(project) if project.state != ProjectState::Deleting => {
            claim::slots_taken(tx, id)? < project.build_limit
        }
        _ => false,
    })
}
