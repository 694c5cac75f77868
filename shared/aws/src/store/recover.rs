//! Step 7: a task whose lease has expired returns to the queue.

use rdev_domain::ids::TaskId;
use rdev_domain::ports::PortResult;
use rdev_domain::step::{Event, step};
use rdev_domain::wake_up::OutboxEntry;

use super::context::Change;
use super::events::EncodedRecord;
use super::item::{Item, corrupt, get_text, key_of};
use super::lookup;
use super::rows::{self, CorruptTask, Found};
use super::transition::{self, LeaseCondition};
use crate::error::alone;
use crate::schema::{DUE, Key};

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
        if recovered.expired == limit {
            break;
        }
        let key = key_of(&item);
        // A record that cannot be read, or whose write is refused, stops no other.
        let found = match rows::lease(&item) {
            Ok(lease) if !lease.lease.expired(change.now) => continue,
            Ok(_) => alone(&key, one(change, &item).await)?,
            Err(error) => alone(&key, Err(error))?,
        };
        match found {
            Some(One::Recovered(outbox)) => {
                recovered.expired += 1;
                recovered.count += 1;
                recovered.outbox.extend(outbox);
            }
            Some(One::Raced) => recovered.expired += 1,
            Some(One::Newer) | None => {}
        }
    }
    Ok(recovered)
}

/// What became of one expired lease.
enum One {
    Recovered(Vec<OutboxEntry>),
    /// Another process has changed the task.
    Raced,
    /// The newer program that wrote the record recovers it.
    Newer,
}

/// Recovers the task of a lease, or ends it as `poison` if its write is refused.
async fn one(change: &Change<'_>, lease: &Item) -> PortResult<One> {
    let project = get_text(lease, "project").and_then(|project| project.parse().ok());
    let task = get_text(lease, DUE.2).and_then(|task| task.parse().ok());
    let (Some(project), Some(task)) = (project, task) else { return Err(corrupt(lease)) };
    let Some(row) = lookup::task_of(change.context, &project, task).await? else {
        return Ok(One::Raced);
    };
    let outbox = match &row.found {
        Found::Task(record) => {
            let Some(lease) = &record.lease else { return Ok(One::Raced) };
            let (seen, heartbeat) = (record.task.fence, lease.heartbeat);
            let event = Event::Recover { seen, heartbeat, proved_dead: false };
            // It was renewed meanwhile.
            let Ok(step) = step(&record.task, Some(lease), event, change.now) else {
                return Ok(One::Raced);
            };
            let no_events = EncodedRecord::default();
            let condition = LeaseCondition::LastHeartbeat;
            let written = transition::write(change, &row, step, &no_events, condition).await;
            match alone(&Key::task(&project, task), written)? {
                Some(written) => written.map(|written| written.outbox),
                None => transition::poison(change, &row, &CorruptTask::of(record)).await?,
            }
        }
        Found::Corrupt(corrupt) => transition::poison(change, &row, corrupt).await?,
        Found::Newer(_) => return Ok(One::Newer),
    };
    Ok(match outbox {
        Some(outbox) => {
            change.context.leases.remove(task);
            One::Recovered(outbox)
        }
        None => One::Raced,
    })
}
