//! The queue, in a database of its own: wake-ups that are received, invisible
//! for a while, and back unless deleted.
//!
//! Nothing here waits for the disk: what a power cut takes are hints, and the
//! sweep makes them anew.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rdev_domain::Invalid;
use rdev_domain::outbox::MAX_DELAY;
use rdev_domain::ports::{DeadMessage, PortResult, Queue, QueueStats, Receipt, ReceivedMessage};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::WakeUp;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::database::{Database, Kind};
use crate::failed::Failed;
use crate::lock::DataLock;

pub(crate) const KIND: Kind = Kind {
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
    /// One is told for each message that can be received; all, when one will be later.
    changed: Notify,
    _lock: Arc<DataLock>,
}

enum Taken {
    Message { id: i64, body: String, receive_count: u32 },
    Nothing { next: Option<Timestamp> },
}

/// Passes a notification on when the receiver that got it is dropped before it
/// could look.
struct PassOn<'a> {
    to: &'a Notify,
    armed: bool,
}

impl Drop for PassOn<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.to.notify_one();
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

    /// Makes every received message visible again. Only where all receivers are
    /// known to be dead: at start, under the data folder's lock.
    ///
    /// # Errors
    /// Those of a write.
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

    async fn take(&self) -> PortResult<Taken> {
        let (visibility, max_receives) = (self.visibility, self.max_receives);
        self.database.write(move |conn| take(conn, visibility, max_receives, clock())).await
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
            // Enlisted before looking, so that nothing sent in between is missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let mut pass_on = PassOn { to: &self.changed, armed: true };
            let taken = self.take().await?;
            pass_on.armed = false;
            let next = match taken {
                Taken::Message { id, body, receive_count } => {
                    return Ok(Some(ReceivedMessage {
                        receipt: receipt(id, i64::from(receive_count)),
                        body: WakeUp::decode(&body),
                        receive_count,
                    }));
                }
                Taken::Nothing { next } => next,
            };
            if Instant::now() >= deadline {
                return Ok(None);
            }
            let visible = next.map(|at| {
                // The clock counts whole milliseconds: look after it, not just before.
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
            .write(move |conn| take_dead(conn, limit, visibility, max_receives, clock()))
            .await
    }

    async fn delete_dead(&self, receipt: &Receipt) -> PortResult<()> {
        let Some((id, deliveries)) = parse(receipt) else { return Ok(()) };
        let delete = move |conn: &Connection| {
            conn.prepare_cached("DELETE FROM dead WHERE id = ?1 AND deliveries = ?2")?
                .execute([id, deliveries])?;
            Ok(())
        };
        self.database.write(delete).await
    }

    async fn stats(&self) -> PortResult<QueueStats> {
        let max_receives = self.max_receives;
        self.database.read(move |conn| stats(conn, max_receives, clock())).await
    }
}

/// The queue has a clock of its own, as a remote one has.
fn clock() -> Timestamp {
    SystemTime::now().into()
}

/// Names a message and how often it had been delivered then: one delivery.
fn receipt(id: i64, delivery: i64) -> Receipt {
    Receipt(format!("{id}.{delivery}"))
}

/// A receipt that is none of ours names no delivery.
fn parse(receipt: &Receipt) -> Option<(i64, i64)> {
    let (id, delivery) = receipt.0.split_once('.')?;
    Some((id.parse().ok()?, delivery.parse().ok()?))
}

/// Receives one message. Those that were received too often become dead on the way.
fn take(
    conn: &Connection,
    visibility: Duration,
    max_receives: u32,
    now: Timestamp,
) -> Result<Taken, Failed> {
    let mut first = conn.prepare_cached(
        "SELECT id, body, receive_count, visible_at FROM messages
         ORDER BY visible_at, id LIMIT 1",
    )?;
    loop {
        let found = first
            .query_row([], |row| {
                let at = Timestamp::from_millis(row.get(3)?);
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, u32>(2)?, at))
            })
            .optional()?;
        let (id, body, receive_count) = match found {
            Some((id, body, receive_count, at)) if at <= now => (id, body, receive_count),
            later => return Ok(Taken::Nothing { next: later.map(|(.., at)| at) }),
        };
        if receive_count >= max_receives {
            bury(conn, id, now)?;
            continue;
        }
        let receive_count = receive_count + 1;
        conn.prepare_cached(
            "UPDATE messages SET visible_at = ?2, receive_count = ?3 WHERE id = ?1",
        )?
        .execute(params![id, now.plus(visibility).as_millis(), receive_count])?;
        return Ok(Taken::Message { id, body, receive_count });
    }
}

fn bury(conn: &Connection, id: i64, now: Timestamp) -> Result<(), Failed> {
    conn.prepare_cached(
        "INSERT INTO dead (id, body, sent_at, receive_count, visible_at, deliveries)
         SELECT id, body, sent_at, receive_count, ?2, 0 FROM messages WHERE id = ?1",
    )?
    .execute([id, now.as_millis()])?;
    conn.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([id])?;
    Ok(())
}

fn take_dead(
    conn: &Connection,
    limit: u32,
    visibility: Duration,
    max_receives: u32,
    now: Timestamp,
) -> Result<Vec<DeadMessage>, Failed> {
    let mut spent = conn.prepare_cached(
        "SELECT id FROM messages WHERE visible_at <= ?1 AND receive_count >= ?2 LIMIT 1000",
    )?;
    let spent = spent.query_map(params![now.as_millis(), max_receives], |row| row.get(0))?;
    for id in spent.collect::<rusqlite::Result<Vec<i64>>>()? {
        bury(conn, id, now)?;
    }
    let mut taken = conn.prepare_cached(
        "UPDATE dead SET visible_at = ?2, deliveries = deliveries + 1
         WHERE id IN (SELECT id FROM dead WHERE visible_at <= ?1 ORDER BY id LIMIT ?3)
         RETURNING id, deliveries, body, receive_count, sent_at",
    )?;
    let until = now.plus(visibility).as_millis();
    let taken = taken.query_map(params![now.as_millis(), until, limit], |row| {
        Ok(DeadMessage {
            receipt: receipt(row.get(0)?, row.get(1)?),
            body: row.get(2)?,
            receive_count: row.get(3)?,
            sent_at: Timestamp::from_millis(row.get(4)?),
        })
    })?;
    Ok(taken.collect::<rusqlite::Result<_>>()?)
}

fn stats(conn: &Connection, max_receives: u32, now: Timestamp) -> Result<QueueStats, Failed> {
    let mut all = conn.prepare_cached(
        "SELECT count(*) FILTER (WHERE visible_at <= ?1 AND receive_count < ?2),
                count(*) FILTER (WHERE visible_at > ?1 AND receive_count > 0),
                count(*) FILTER (WHERE visible_at > ?1 AND receive_count = 0),
                count(*) FILTER (WHERE visible_at <= ?1 AND receive_count >= ?2)
                    + (SELECT count(*) FROM dead)
         FROM messages",
    )?;
    let stats = all.query_row(params![now.as_millis(), max_receives], |row| {
        let count = |column| row.get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or(0));
        Ok(QueueStats {
            visible: count(0)?,
            in_flight: count(1)?,
            delayed: count(2)?,
            dead: count(3)?,
        })
    })?;
    Ok(stats)
}
