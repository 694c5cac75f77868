//! The queue: wake-ups, at least once, in no order.

use std::time::Duration;

use async_trait::async_trait;

use super::PortResult;
use crate::time::Timestamp;
use crate::wake_up::{Undecodable, WakeUp};

/// How long a received message stays invisible, unless configured otherwise.
pub const VISIBILITY: Duration = Duration::from_secs(60);

/// How often a message is received before it goes to the dead-letter queue,
/// unless configured otherwise.
pub const MAX_RECEIVES: u32 = 10;

/// Carries wake-ups, with SQS's promises and no others: at least once, no
/// order, a message that is received is invisible for [`VISIBILITY`]
/// and comes back unless deleted, one that was received
/// [`MAX_RECEIVES`] times goes to the dead-letter queue. It has a clock
/// of its own, as a remote queue has.
///
/// Where runners differ, an agent has a queue of its own: [`Queue::send`] goes to the queue of the
/// wake-up's agent, and every other method is about the queue that this runner receives from, but
/// for the dead-letter queue, which all share, and [`Queue::stats`], which counts all.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Sends a wake-up that becomes visible after `delay` (at most 15 min).
    async fn send(&self, wake_up: &WakeUp, delay: Duration) -> PortResult<()>;

    /// Waits up to `wait` for a message (at most 20 s).
    async fn receive(&self, wait: Duration) -> PortResult<Option<ReceivedMessage>>;

    /// Deletes a received message. A stale receipt never fails; whether it
    /// deletes a message that was delivered again since is not to be relied on.
    async fn delete(&self, receipt: &Receipt) -> PortResult<()>;

    /// Makes a received message visible again after `after`; a stale receipt is nothing.
    async fn set_visibility(&self, receipt: &Receipt, after: Duration) -> PortResult<()>;

    /// Takes up to `limit` messages from the dead-letter queue; each comes back
    /// unless [`Queue::delete_dead`] follows.
    async fn receive_dead(&self, limit: u32) -> PortResult<Vec<DeadMessage>>;

    /// Deletes a dead message after it was recorded.
    async fn delete_dead(&self, receipt: &Receipt) -> PortResult<()>;

    /// Roughly how many messages there are, in all queues.
    async fn stats(&self) -> PortResult<QueueStats>;
}

/// Names one delivery of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt(pub String);

/// A message as it was received this time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// What to name when deleting it.
    pub receipt: Receipt,
    /// What it says.
    pub body: Result<WakeUp, Undecodable>,
    /// How often it was received, this time included.
    pub receive_count: u32,
}

/// A message in the dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadMessage {
    /// What to name when deleting it.
    pub receipt: Receipt,
    /// Its text.
    pub body: String,
    /// How often it was received before it came here.
    pub receive_count: u32,
    /// When it was first sent.
    pub sent_at: Timestamp,
}

/// Roughly how many messages there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStats {
    /// Can be received now.
    pub visible: u64,
    /// Received and not deleted.
    pub in_flight: u64,
    /// Not visible yet.
    pub delayed: u64,
    /// In the dead-letter queue.
    pub dead: u64,
}
