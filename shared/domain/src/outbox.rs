//! Sending the wake-ups whose marks a transaction has written.

use std::time::Duration;

use crate::ports::{PortResult, Queue, Store};
use crate::time::Timestamp;
use crate::wake_up::{Mark, WakeUp};

/// The longest delay a queue takes; a mark further ahead waits for the sweep.
pub const MAX_DELAY: Duration = Duration::from_secs(15 * 60);

/// Sends the wake-ups of `marks` and deletes the marks that were sent.
///
/// Marks further ahead than [`MAX_DELAY`] stay for the sweep. When this fails
/// nothing is lost: the marks that are left are sent by the next sweep.
///
/// # Errors
/// The first error of the queue or of the store.
pub async fn send(
    store: &dyn Store,
    queue: &dyn Queue,
    marks: &[Mark],
    now: Timestamp,
) -> PortResult<()> {
    let mut sent = Vec::new();
    let mut outcome = Ok(());
    for mark in marks {
        let delay = mark.send_at.since(now);
        if delay > MAX_DELAY {
            continue;
        }
        outcome = queue.send(&WakeUp { project_id: mark.project_id.clone() }, delay).await;
        if outcome.is_err() {
            break;
        }
        sent.push(mark.clone());
    }
    if !sent.is_empty() {
        store.delete_marks(&sent).await?;
    }
    outcome
}
