//! Step 7: turning dead leases into queue entries.

use rdev_domain::ids::TaskId;
use rdev_domain::ports::PortResult;
use rdev_domain::step::{Event, step};
use rdev_domain::wake_up::OutboxEntry;

use super::Change;
use super::events::Encoded;
use super::item::get_text;
use super::rows::{self, Found};
use super::transition;
use crate::schema::Key;

/// What came of looking at leases.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// How many had expired.
    pub(super) dead: usize,
    /// How many of these were recovered here and not by somebody else.
    pub(super) count: u64,
    pub(super) outbox: Vec<OutboxEntry>,
}

/// Recovers those of the tasks whose leases have expired, at most `most`.
pub(super) async fn expired(
    change: &Change<'_>,
    held: &[TaskId],
    most: usize,
) -> PortResult<Recovered> {
    let leases = held.iter().map(|&id| Key::lease(id)).collect();
    let mut recovered = Recovered::default();
    for item in change.store.get_all(leases).await? {
        if recovered.dead == most || !rows::lease(&item)?.expired(change.now) {
            continue;
        }
        recovered.dead += 1;
        let project = get_text(&item, "project").and_then(|project| project.parse().ok());
        let task = get_text(&item, "dsk").and_then(|task| task.parse().ok());
        let (Some(project), Some(task)) = (project, task) else { continue };
        let Some(row) = change.store.read_of(&project, task).await? else { continue };
        let outbox = match &row.found {
            Found::Task(record) => {
                let Some(lease) = &record.lease else { continue };
                let (seen, heartbeat) = (record.task.fence, lease.heartbeat);
                let event = Event::Recover { seen, heartbeat, proved_dead: false };
                // It was renewed since.
                let Ok(step) = step(&record.task, Some(lease), event, change.now) else {
                    continue;
                };
                let log = Encoded::default();
                let written = transition::write(change, &row, step, &log, true).await?;
                written.map(|written| written.outbox)
            }
            Found::Unreadable(unreadable) => transition::poison(change, &row, unreadable).await?,
        };
        if let Some(outbox) = outbox {
            change.store.held.forget(task);
            recovered.count += 1;
            recovered.outbox.extend(outbox);
        }
    }
    Ok(recovered)
}
