//! Step 11: one page of the sweep, which runs every minute.

use std::time::Duration;

use rdev_domain::ids::ProjectId;
use rdev_domain::ports::Swept;
use rdev_domain::project::{ABANDONED_AFTER, ProjectState};
use rdev_domain::worker::SILENT_AFTER;
use rusqlite::OptionalExtension;

use super::transaction::Tx;
use super::{claim, outbox, project_delete, projects, queue_entry, recover, retention, workers};
use crate::error::Error;

/// The most records of one kind in a page: other transactions run between two pages.
pub(super) const PAGE: u32 = 500;

/// If a task has been due for this long, its wake-up may have been lost.
const DUE_FOR_LONG: Duration = Duration::from_secs(2 * 60);

pub(super) fn page(tx: &Tx<'_>) -> Result<Swept, Error> {
    let mut swept = Swept { outbox: outbox::overdue(tx, PAGE)?, ..Swept::default() };
    swept.more |= swept.outbox.len() == PAGE as usize;

    let (recovered, outbox) = recover::expired(tx, PAGE as usize)?;
    swept.recovered = recovered as u64;
    swept.more |= recovered == PAGE as usize;
    swept.outbox.extend(outbox);

    let (mut wake, more) = queue_entry::promote(tx, PAGE)?;
    swept.more |= more;
    swept.offline = workers::mark_offline(tx, tx.now.minus(SILENT_AFTER))?;
    let abandoned = tx.now.minus(ABANDONED_AFTER);
    swept.more |= projects::fail_stuck_provisioning(tx, abandoned, PAGE)?;
    let (deleting, more) = project_delete::take_abandoned(tx, abandoned, PAGE)?;
    swept.deleting = deleting;
    swept.more |= more;
    let (expired, more) = retention::purge(tx, PAGE)?;
    swept.expired = expired;
    swept.more |= more;

    if !swept.more {
        // On the last page only: otherwise each page would wake the same projects again.
        wake.extend(due_for_long(tx)?);
    }
    for project in wake {
        if tx.alone(&project, || has_free_slot(tx, &project))?.unwrap_or(false) {
            let due = queue_entry::due_agents(tx.conn, &project, tx.now)?;
            swept.wake.extend(due.wake_ups(&project));
        }
    }
    Ok(swept)
}

/// The projects whose oldest due task has been due for long. It costs two lookups for each
/// project that has a due task.
fn due_for_long(tx: &Tx<'_>) -> Result<Vec<ProjectId>, Error> {
    let mut next = tx
        .conn
        .prepare_cached("SELECT project FROM due WHERE project > ?1 ORDER BY project LIMIT 1")?;
    let since = tx.now.minus(DUE_FOR_LONG);
    let mut found = Vec::new();
    let mut last = String::new();
    while let Some(project) = next.query_row([&last], |row| row.get::<_, String>(0)).optional()? {
        // A name that is none has no project that could be woken.
        if let Ok(id) = project.parse::<ProjectId>()
            && queue_entry::due_since(tx, &id, since)?
        {
            found.push(id);
        }
        last = project;
    }
    Ok(found)
}

fn has_free_slot(tx: &Tx<'_>, id: &ProjectId) -> Result<bool, Error> {
    Ok(match projects::find(tx.conn, id)? {
        Some(project) if project.state != ProjectState::Deleting => {
            claim::leased_tasks(tx, id)? < project.build_limit
        }
        _ => false,
    })
}
