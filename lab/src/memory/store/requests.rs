//! Step 13: idempotent requests. And the keys that requests come with.

use rdev_domain::ids::KeyId;
use rdev_domain::key::ApiKey;
use rdev_domain::ports::{Conflict, PortError, PortResult};
use rdev_domain::request::{Begun, IN_FLIGHT, RequestKey, StoredAnswer, expires_at};
use rdev_domain::time::Timestamp;
use ulid::Ulid;

use super::transaction::{State, Tx};

/// A request that has begun.
#[derive(Debug, Clone)]
pub(super) struct Request {
    body_sha256: String,
    nonce: Ulid,
    in_flight_until: Timestamp,
    answer: Option<StoredAnswer>,
    pub(super) expires_at: Timestamp,
}

pub(super) fn begin(tx: &mut Tx<'_>, key: &RequestKey, body_sha256: &str, nonce: Ulid) -> Begun {
    let (now, in_flight_until) = (tx.now, tx.now.plus(IN_FLIGHT));
    let found = tx.state.requests.get_mut(&key.0).filter(|request| request.expires_at > now);
    let Some(request) = found else {
        let expires_at = expires_at(now, tx.state.retention.idempotency_days);
        let body_sha256 = body_sha256.to_owned();
        let request = Request { body_sha256, nonce, in_flight_until, answer: None, expires_at };
        tx.state.requests.insert(key.0.clone(), request);
        return Begun::Go { nonce, resumed: false };
    };
    if request.body_sha256 != body_sha256 {
        return Begun::OtherBody;
    }
    if let Some(answer) = &request.answer {
        return Begun::Replay(answer.clone());
    }
    if request.in_flight_until > now {
        return Begun::InFlight;
    }
    request.in_flight_until = in_flight_until;
    Begun::Go { nonce: request.nonce, resumed: true }
}

pub(super) fn finish(state: &mut State, key: &RequestKey, answer: &StoredAnswer) {
    if let Some(request) = state.requests.get_mut(&key.0) {
        request.answer = Some(answer.clone());
    }
}

pub(super) fn release(tx: &mut Tx<'_>, key: &RequestKey) {
    if let Some(request) = tx.state.requests.get_mut(&key.0) {
        request.in_flight_until = tx.now;
    }
}

pub(super) fn create_key(tx: &mut Tx<'_>, key: &ApiKey) -> PortResult<()> {
    if tx.state.keys.contains_key(&key.id) {
        return Err(Conflict::IdTaken.into());
    }
    tx.state.keys.insert(key.id.clone(), key.clone());
    tx.record("key.created", format!("key/{}", key.id), None);
    Ok(())
}

pub(super) fn key(state: &State, id: &KeyId) -> PortResult<ApiKey> {
    state.keys.get(id).cloned().ok_or_else(|| PortError::not_found(format!("key \"{id}\"")))
}

pub(super) fn keys(state: &State) -> Vec<ApiKey> {
    let mut all: Vec<ApiKey> = state.keys.values().rev().cloned().collect();
    all.sort_by_key(|key| std::cmp::Reverse(key.created_at));
    all
}

pub(super) fn revoke_key(tx: &mut Tx<'_>, id: &KeyId) -> PortResult<ApiKey> {
    let before = key(tx.state, id)?;
    if before.revoked_at.is_some() {
        return Ok(before);
    }
    let revoked = ApiKey { revoked_at: Some(tx.now), ..before };
    tx.state.keys.insert(id.clone(), revoked.clone());
    tx.record("key.revoked", format!("key/{id}"), None);
    Ok(revoked)
}
