//! Step 13: idempotent requests.

use rdev_domain::ports::PortResult;
use rdev_domain::request::{Begun, IN_FLIGHT, RequestKey, StoredAnswer, expires_at};
use ulid::Ulid;

use super::context::Change;
use super::item::{Item, corrupt, get_millis, get_text, item, millis, number, seconds, text};
use crate::error;
use crate::schema::{EXPIRES_AT, Key};

pub(super) async fn begin(
    change: &Change<'_>,
    key: &RequestKey,
    body_sha256: &str,
    nonce: Ulid,
) -> PortResult<Begun> {
    let expires_at = expires_at(change.now, change.context.retention.idempotency_days);
    let until = change.now.plus(IN_FLIGHT);
    let new = item(
        Key::request(key),
        [
            ("body_sha256", text(body_sha256)),
            ("nonce", text(nonce.to_string())),
            // The caller that may work: it can recognise itself after a lost answer.
            ("taker", text(nonce.to_string())),
            ("in_flight_until", millis(until)),
            (EXPIRES_AT, seconds(expires_at)),
        ],
    );
    let now = vec![(":now", number(change.now.as_millis().div_euclid(1000)))];
    let condition = "attribute_not_exists(#pk) OR #expires_at <= :now";
    let there = match change.context.table.put_if(new, condition, now).await? {
        Ok(()) => return Ok(Begun::Go { nonce, resumed: false }),
        Err(Some(there)) => there,
        // It was deleted in between.
        Err(None) => return Ok(Begun::InFlight),
    };
    if is_mine(&there, nonce) {
        return Ok(Begun::Go { nonce, resumed: false });
    }
    if get_text(&there, "body_sha256") != Some(body_sha256) {
        return Ok(Begun::OtherBody);
    }
    if let Some(answer) = get_text(&there, "answer") {
        return Ok(Begun::Replay(serde_json::from_str(answer).map_err(error::defect)?));
    }
    let in_flight = get_millis(&there, "in_flight_until").ok_or_else(|| corrupt(&there))?;
    if in_flight > change.now {
        return Ok(Begun::InFlight);
    }
    let first = get_text(&there, "nonce").and_then(|nonce| Ulid::from_string(nonce).ok());
    let first = first.ok_or_else(|| corrupt(&there))?;
    let with = vec![
        (":until", millis(until)),
        (":seen", millis(in_flight)),
        (":taker", text(nonce.to_string())),
    ];
    let taken = change.context.table.update(
        Key::request(key),
        "SET #in_flight_until = :until, #taker = :taker",
        "#in_flight_until = :seen AND attribute_not_exists(#answer)",
        with,
    );
    Ok(match taken.await? {
        Ok(_) => Begun::Go { nonce: first, resumed: true },
        Err(Some(there)) if is_mine(&there, nonce) => Begun::Go { nonce: first, resumed: true },
        Err(_) => Begun::InFlight,
    })
}

fn is_mine(there: &Item, nonce: Ulid) -> bool {
    get_text(there, "taker") == Some(nonce.to_string().as_str()) && !there.contains_key("answer")
}

pub(super) async fn finish(
    change: &Change<'_>,
    key: &RequestKey,
    answer: &StoredAnswer,
) -> PortResult<()> {
    let answer = text(serde_json::to_string(answer).map_err(error::defect)?);
    let with = vec![(":answer", answer)];
    // A request that has expired needs no answer.
    let done = change.context.table.update(
        Key::request(key),
        "SET #answer = :answer",
        "attribute_exists(#pk)",
        with,
    );
    done.await.map(drop)
}

pub(super) async fn release(change: &Change<'_>, key: &RequestKey) -> PortResult<()> {
    let with = vec![(":now", millis(change.now))];
    let done = change.context.table.update(
        Key::request(key),
        "SET #in_flight_until = :now",
        "attribute_exists(#pk)",
        with,
    );
    done.await.map(drop)
}
