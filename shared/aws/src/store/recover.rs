//! Step 7: a task whose lease has expired returns to the queue.

use rdev_domain::ids::TaskId;
use rdev_domain::ports::PortResult;
use rdev_domain::step::{Event, step};
use rdev_domain::wake_up::OutboxEntry;

use super::context::Change;
use super::events::EncodedRecord;
use super::item::get_text;
use super::lookup;
use super::rows::{self, Found};
use super::transition::{self, LeaseCondition};
use crate::schema::Key;

/// The result of [`expired`].
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// How many leases had expired.
    pub(super) expired: usize,
    /// How many of them this call has recovered, and not another process.
    pub(super) count: u64,
    pub(super) outbox: Vec<OutboxEntry>,
}

/// Recovers up to `limit` of the tasks: those whose leases have expired.
pub(super) async fn expired(
    change: &Change<'_>,
    leased: &[TaskId],
    limit: usize,
) -> PortResult<Recovered> {
    let leases = leased.iter().map(|&id| Key::lease(id)).collect();
    let mut recovered = Recovered::default();
    for item in change.context.table.get_all(leases).await? {
        if recovered.expired == limit || !rows::lease(&item)?.expired(change.now) {
            continue;
        }
        recovered.expired += 1;
        let project = get_text(&item, "project").and_then(|project| project.parse().ok());
        let task = get_text(&item, "dsk").and_then(|task| task.parse().ok());
        let (Some(project), Some(task)) = (project, task) else { continue };
        let Some(row) = lookup::task_of(change.context, &project, task).await? else { continue };
        let outbox = match &row.found {
            Found::Task(record) => {
                let Some(lease) = &record.lease else { continue };
                let (seen, heartbeat) = (record.task.fence, lease.heartbeat);
                let event = Event::Recover { seen, heartbeat, proved_dead: false };
                // It was renewed meanwhile.
                let Ok(step) = step(&record.task, Some(lease), event, change.now) else {
                    continue;
                };
                let no_events = EncodedRecord::default();
                let written = transition::write(
                    change,
                    &row,
                    step,
                    &no_events,
                    LeaseCondition::LastHeartbeat,
                )
                .await?;
                written.map(|written| written.outbox)
            }
            Found::Corrupt(corrupt) => transition::poison(change, &row, corrupt).await?,
            // The newer program that wrote it recovers it.
            Found::Newer(_) => {
                recovered.expired -= 1;
                continue;
            }
        };
        if let Some(outbox) = outbox {
            change.context.leases.remove(task);
            recovered.count += 1;
            recovered.outbox.extend(outbox);
        }
    }
    Ok(recovered)
}
