//! Sending the wake-ups whose outbox entries a transaction has written.

use std::time::Duration;

use crate::ports::{PortResult, Queue, Store};
use crate::task::Task;
use crate::time::Timestamp;
use crate::wake_up::OutboxEntry;

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
        outcome = queue.send(&entry.wake_up(), delay).await;
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

/// Sends the wake-ups of a transaction that has taken the lease from `task`, and so freed a slot of
/// its project: one for each agent that the project's due tasks need. What was queued before the
/// slot was freed is seen here, and what is queued after it has a wake-up of its own, so nothing is
/// left that nobody is told of. If nothing is due, only the entries are deleted.
///
/// # Errors
/// The first error of the queue or of the store; the next sweep sends what remains.
pub async fn send_for_slot(
    store: &dyn Store,
    queue: &dyn Queue,
    task: &Task,
    outbox: &[OutboxEntry],
    now: Timestamp,
) -> PortResult<()> {
    let for_slot = |entry: &OutboxEntry| task.state.is_terminal() || entry.send_at <= now;
    let (freed, later): (Vec<_>, Vec<_>) = outbox.iter().cloned().partition(for_slot);
    if !freed.is_empty() {
        let due = store.due_agents(&task.project_id, now).await?;
        for wake_up in due.wake_ups(&task.project_id) {
            queue.send(&wake_up, Duration::ZERO).await?;
        }
        // The runner that is free now can do the next task of this agent, however far behind it
        // stands.
        let unseen = |entry: &&OutboxEntry| due.more && !due.agents.contains(&entry.agent);
        for entry in freed.iter().filter(unseen) {
            queue.send(&entry.wake_up(), Duration::ZERO).await?;
        }
        store.delete_outbox(&freed).await?;
    }
    send(store, queue, &later, now).await
}
