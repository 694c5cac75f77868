//! Step 13: idempotent requests.

use rdev_domain::request::{Begun, IN_FLIGHT, RequestKey, StoredAnswer, expires_at};
use rdev_domain::time::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension, params};
use ulid::Ulid;

use super::rows::{self, blob};
use super::transaction::Tx;
use crate::error::Error;

struct Record {
    body_sha256: String,
    nonce: Ulid,
    in_flight_until: Timestamp,
    answer: Option<StoredAnswer>,
}

pub(super) fn begin(
    tx: &Tx<'_>,
    key: &RequestKey,
    body_sha256: &str,
    nonce: Ulid,
) -> Result<Begun, Error> {
    let until = tx.now.plus(IN_FLIGHT).as_millis();
    let Some(record) = find(tx, key)? else {
        let expires_at = expires_at(tx.now, tx.context.retention.idempotency_days);
        // It replaces a record that has expired.
        tx.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO requests
                     (key, body_sha256, nonce, in_flight_until, answer, expires_at)
                 VALUES (?1, ?2, ?3, ?4, NULL, ?5)",
            )?
            .execute(params![key.0, body_sha256, blob(nonce), until, expires_at.as_millis()])?;
        return Ok(Begun::Go { nonce, resumed: false });
    };
    if record.body_sha256 != body_sha256 {
        return Ok(Begun::OtherBody);
    }
    if let Some(answer) = record.answer {
        return Ok(Begun::Replay(answer));
    }
    if record.in_flight_until > tx.now {
        return Ok(Begun::InFlight);
    }
    tx.conn
        .prepare_cached("UPDATE requests SET in_flight_until = ?2 WHERE key = ?1")?
        .execute(params![key.0, until])?;
    Ok(Begun::Go { nonce: record.nonce, resumed: true })
}

pub(super) fn finish(tx: &Tx<'_>, key: &RequestKey, answer: &StoredAnswer) -> Result<(), Error> {
    tx.conn
        .prepare_cached("UPDATE requests SET answer = ?2 WHERE key = ?1")?
        .execute(params![key.0, serde_json::to_string(answer)?])?;
    Ok(())
}

pub(super) fn release(tx: &Tx<'_>, key: &RequestKey) -> Result<(), Error> {
    tx.conn
        .prepare_cached("UPDATE requests SET in_flight_until = ?2 WHERE key = ?1")?
        .execute(params![key.0, tx.now.as_millis()])?;
    Ok(())
}

fn find(tx: &Tx<'_>, key: &RequestKey) -> Result<Option<Record>, Error> {
    let mut one = tx.conn.prepare_cached(
        "SELECT body_sha256, nonce, in_flight_until, answer FROM requests
         WHERE key = ?1 AND expires_at > ?2",
    )?;
    let found = one.query_row(params![key.0, tx.now.as_millis()], |row| {
        let answered = row.get_ref(3)? != ValueRef::Null;
        Ok(Record {
            body_sha256: row.get(0)?,
            nonce: rows::ulid(row, 1)?,
            in_flight_until: Timestamp::from_millis(row.get(2)?),
            answer: if answered { Some(rows::body(row, 3)?) } else { None },
        })
    });
    Ok(found.optional()?)
}
