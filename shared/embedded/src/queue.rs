//! The queue, in a database of its own. A received message is invisible for a
//! while, and visible again unless it is deleted.
//!
//! No write waits for the disk: messages are hints, and the sweep sends those
//! again that a power cut has destroyed.

mod messages;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rdev_domain::Invalid;
use rdev_domain::outbox::MAX_DELAY;
use rdev_domain::ports::{DeadMessage, PortResult, Queue, QueueStats, Receipt, ReceivedMessage};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::WakeUp;
use rusqlite::{Connection, params};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::database::{Database, Schema};
use crate::lock::DataLock;
use messages::{Received, parse, receipt};

pub(crate) const SCHEMA: Schema = Schema {
    what: "the queue",
    migrations: &[include_str!("../migrations/queue-1.sql")],
    durable: false,
};

/// The longest wait of one [`Queue::receive`].
const MAX_WAIT: Duration = Duration::from_secs(20);

/// Wake-ups in `queue.db`.
#[derive(Debug)]
pub struct SqliteQueue {
    database: Database,
    visibility: Duration,
    max_receives: u32,
    /// Wakes one receiver for each message that can be received now, and all of them
    /// when a message becomes visible later.
    changed: Notify,
    _lock: Arc<DataLock>,
}

/// Wakes another receiver when this one is dropped before it has looked for the
/// message that it was woken for.
struct NotifyOnDrop<'a> {
    notify: &'a Notify,
    armed: bool,
}

impl Drop for NotifyOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.notify.notify_one();
        }
    }
}

impl SqliteQueue {
    pub(crate) fn new(
        database: Database,
        visibility: Duration,
        max_receives: u32,
        lock: Arc<DataLock>,
    ) -> Self {
        Self { database, visibility, max_receives, changed: Notify::new(), _lock: lock }
    }

    /// Makes every received message visible again. Call this only where all receivers
    /// are known to be dead: at start, under the data folder's lock.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn return_received(&self) -> PortResult<()> {
        let update = move |conn: &Connection| {
            let now = clock().as_millis();
            conn.execute(
                "UPDATE messages SET visible_at = ?1 WHERE receive_count > 0 AND visible_at > ?1",
                [now],
            )?;
            Ok(())
        };
        self.database.write(update).await?;
        self.changed.notify_waiters();
        Ok(())
    }

    async fn receive_now(&self) -> PortResult<Received> {
        let (visibility, max_receives) = (self.visibility, self.max_receives);
        self.database
            .write(move |conn| messages::receive(conn, visibility, max_receives, clock()))
            .await
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn send(&self, wake_up: &WakeUp, delay: Duration) -> PortResult<()> {
        if delay > MAX_DELAY {
            return Err(Invalid::new("delay", "must be at most 15 minutes").into());
        }
        let body = wake_up.encode();
        let insert = move |conn: &Connection| {
            let now = clock();
            conn.prepare_cached(
                "INSERT INTO messages (body, sent_at, visible_at, receive_count)
                 VALUES (?1, ?2, ?3, 0)",
            )?
            .execute(params![body, now.as_millis(), now.plus(delay).as_millis()])?;
            Ok(())
        };
        self.database.write(insert).await?;
        if delay.is_zero() {
            self.changed.notify_one();
        } else {
            self.changed.notify_waiters();
        }
        Ok(())
    }

    async fn receive(&self, wait: Duration) -> PortResult<Option<ReceivedMessage>> {
        let deadline = Instant::now() + wait.min(MAX_WAIT);
        loop {
            // Registered before the look, so that a message sent in between is not missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let mut notify_on_drop = NotifyOnDrop { notify: &self.changed, armed: true };
            let received = self.receive_now().await?;
            notify_on_drop.armed = false;
            let next_at = match received {
                Received::Message { id, body, receive_count } => {
                    return Ok(Some(ReceivedMessage {
                        receipt: receipt(id, i64::from(receive_count)),
                        body: WakeUp::decode(&body),
                        receive_count,
                    }));
                }
                Received::Nothing { next_at } => next_at,
            };
            if Instant::now() >= deadline {
                return Ok(None);
            }
            let visible = next_at.map(|at| {
                // The clock counts whole milliseconds: wait until after it, not until just before.
                Instant::now() + at.since(clock()) + Duration::from_millis(1)
            });
            let until = visible.map_or(deadline, |at| at.min(deadline));
            tokio::select! {
                () = &mut changed => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    async fn delete(&self, receipt: &Receipt) -> PortResult<()> {
        let Some((id, receive_count)) = parse(receipt) else { return Ok(()) };
        let delete = move |conn: &Connection| {
            conn.prepare_cached("DELETE FROM messages WHERE id = ?1 AND receive_count = ?2")?
                .execute([id, receive_count])?;
            Ok(())
        };
        self.database.write(delete).await
    }

    async fn set_visibility(&self, receipt: &Receipt, after: Duration) -> PortResult<()> {
        let Some((id, receive_count)) = parse(receipt) else { return Ok(()) };
        let update = move |conn: &Connection| {
            conn.prepare_cached(
                "UPDATE messages SET visible_at = ?3 WHERE id = ?1 AND receive_count = ?2",
            )?
            .execute([id, receive_count, clock().plus(after).as_millis()])?;
            Ok(())
        };
        self.database.write(update).await?;
        self.changed.notify_waiters();
        Ok(())
    }

    async fn receive_dead(&self, limit: u32) -> PortResult<Vec<DeadMessage>> {
        let (visibility, max_receives) = (self.visibility, self.max_receives);
        self.database
            .write(move |conn| {
                messages::receive_dead(conn, limit, visibility, max_receives, clock())
            })
            .await
    }

    async fn delete_dead(&self, receipt: &Receipt) -> PortResult<()> {
        let Some((id, receive_count)) = parse(receipt) else { return Ok(()) };
        let delete = move |conn: &Connection| {
            conn.prepare_cached("DELETE FROM dead WHERE id = ?1 AND deliveries = ?2")?
                .execute([id, receive_count])?;
            Ok(())
        };
        self.database.write(delete).await
    }

    async fn stats(&self) -> PortResult<QueueStats> {
        let max_receives = self.max_receives;
        self.database.read(move |conn| messages::stats(conn, max_receives, clock())).await
    }
}

/// The queue has its own clock, as a remote queue has.
fn clock() -> Timestamp {
    SystemTime::now().into()
}
