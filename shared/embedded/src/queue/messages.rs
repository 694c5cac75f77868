//! The statements of the queue: receiving, dead letters, counts.

use std::time::Duration;

use rdev_domain::ports::{DeadMessage, QueueStats, Receipt};
use rdev_domain::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::Error;

/// The result of [`receive`].
pub(super) enum Received {
    Message {
        id: i64,
        body: String,
        receive_count: u32,
    },
    /// No message is visible. The next one becomes visible at `next_at`.
    Nothing {
        next_at: Option<Timestamp>,
    },
}

/// A receipt names a message and how many times it had been received then.
pub(super) fn receipt(id: i64, receive_count: i64) -> Receipt {
    Receipt(format!("{id}.{receive_count}"))
}

/// Reads a receipt of [`receipt`]. `None` for any other text, which matches no message.
pub(super) fn parse(receipt: &Receipt) -> Option<(i64, i64)> {
    let (id, receive_count) = receipt.0.split_once('.')?;
    Some((id.parse().ok()?, receive_count.parse().ok()?))
}

/// Receives one message. Moves those that were received too often to the dead letters.
pub(super) fn receive(
    conn: &Connection,
    visibility: Duration,
    max_receives: u32,
    now: Timestamp,
) -> Result<Received, Error> {
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
            later => return Ok(Received::Nothing { next_at: later.map(|(.., at)| at) }),
        };
        if receive_count >= max_receives {
            move_to_dead(conn, id, now)?;
            continue;
        }
        let receive_count = receive_count + 1;
        conn.prepare_cached(
            "UPDATE messages SET visible_at = ?2, receive_count = ?3 WHERE id = ?1",
        )?
        .execute(params![id, now.plus(visibility).as_millis(), receive_count])?;
        return Ok(Received::Message { id, body, receive_count });
    }
}

fn move_to_dead(conn: &Connection, id: i64, now: Timestamp) -> Result<(), Error> {
    conn.prepare_cached(
        "INSERT INTO dead (id, body, sent_at, receive_count, visible_at, deliveries)
         SELECT id, body, sent_at, receive_count, ?2, 0 FROM messages WHERE id = ?1",
    )?
    .execute([id, now.as_millis()])?;
    conn.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([id])?;
    Ok(())
}

pub(super) fn receive_dead(
    conn: &Connection,
    limit: u32,
    visibility: Duration,
    max_receives: u32,
    now: Timestamp,
) -> Result<Vec<DeadMessage>, Error> {
    let mut spent = conn.prepare_cached(
        "SELECT id FROM messages WHERE visible_at <= ?1 AND receive_count >= ?2 LIMIT 1000",
    )?;
    let spent = spent.query_map(params![now.as_millis(), max_receives], |row| row.get(0))?;
    for id in spent.collect::<rusqlite::Result<Vec<i64>>>()? {
        move_to_dead(conn, id, now)?;
    }
    let mut received = conn.prepare_cached(
        "UPDATE dead SET visible_at = ?2, deliveries = deliveries + 1
         WHERE id IN (SELECT id FROM dead WHERE visible_at <= ?1 ORDER BY id LIMIT ?3)
         RETURNING id, deliveries, body, receive_count, sent_at",
    )?;
    let until = now.plus(visibility).as_millis();
    let received = received.query_map(params![now.as_millis(), until, limit], |row| {
        Ok(DeadMessage {
            receipt: receipt(row.get(0)?, row.get(1)?),
            body: row.get(2)?,
            receive_count: row.get(3)?,
            sent_at: Timestamp::from_millis(row.get(4)?),
        })
    })?;
    Ok(received.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn stats(
    conn: &Connection,
    max_receives: u32,
    now: Timestamp,
) -> Result<QueueStats, Error> {
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
