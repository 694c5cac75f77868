//! Sending the wake-ups whose outbox entries a transaction has written.

use std::time::Duration;

use crate::ids::ProjectId;
use crate::ports::{PortResult, Queue, Store};
use crate::time::Timestamp;
use crate::wake_up::{OutboxEntry, WakeUp};

/// The longest delay that a queue accepts; a later outbox entry waits for the sweep.
pub const MAX_DELAY: Duration = Duration::from_secs(15 * 60);

/// Sends the wake-ups of `outbox` and deletes those entries that were sent.
///
/// Outbox entries that are due later than [`MAX_DELAY`] stay for the sweep. If this fails,
/// nothing is lost: the next sweep sends the remaining entries.
///
/// # Errors
/// The first error of the queue or of the store.
pub async fn send(
    store: &dyn Store,
    queue: &dyn Queue,
    outbox: &[OutboxEntry],
    now: Timestamp,
) -> PortResult<()> {
    let mut sent = Vec::new();
    let mut outcome = Ok(());
    for entry in outbox {
        let delay = entry.send_at.since(now);
        if delay > MAX_DELAY {
            continue;
        }
        outcome = queue.send(&WakeUp { project_id: entry.project_id.clone() }, delay).await;
        if outcome.is_err() {
            break;
        }
        sent.push(entry.clone());
    }
    if !sent.is_empty() {
        store.delete_outbox(&sent).await?;
    }
    outcome
}

/// Sends the wake-ups of a task's end, which has freed a slot, if anything of its project is due;
/// otherwise only deletes the entries. What was queued before the slot was freed is seen here, and
/// what is queued after it has a wake-up of its own, so nothing is left that nobody is told of.
///
/// # Errors
/// The first error of the queue or of the store; the next sweep sends what remains.
pub async fn send_if_due(
    store: &dyn Store,
    queue: &dyn Queue,
    project: &ProjectId,
    outbox: &[OutboxEntry],
    now: Timestamp,
) -> PortResult<()> {
    if store.has_due(project, now).await? {
        send(store, queue, outbox, now).await
    } else {
        store.delete_outbox(outbox).await
    }
}
