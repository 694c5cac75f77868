//! API keys.

use rdev_domain::ids::KeyId;
use rdev_domain::key::ApiKey;
use rdev_domain::ports::{Conflict, PortError};
use rusqlite::{Connection, OptionalExtension, params};

use super::transaction::Tx;
use super::{audit, rows};
use crate::error::Error;

pub(super) fn create(tx: &Tx<'_>, key: &ApiKey) -> Result<(), Error> {
    let written = tx
        .conn
        .prepare_cached(
            "INSERT INTO keys (id, created_at, body) VALUES (?1, ?2, ?3)
             ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![
            key.id.as_str(),
            key.created_at.as_millis(),
            serde_json::to_string(key)?
        ])?;
    if written == 0 {
        return Err(Conflict::IdTaken.into());
    }
    record(tx, "key.created", &key.id)
}

pub(super) fn get(conn: &Connection, id: &KeyId) -> Result<ApiKey, Error> {
    let mut one = conn.prepare_cached("SELECT body FROM keys WHERE id = ?1")?;
    let found = one.query_row([id.as_str()], |row| rows::body(row, 0)).optional()?;
    found.ok_or_else(|| PortError::not_found(format!("key \"{id}\"")).into())
}

pub(super) fn all(conn: &Connection) -> Result<Vec<ApiKey>, Error> {
    let mut all = conn.prepare_cached("SELECT body FROM keys ORDER BY created_at DESC, id DESC")?;
    let all = all.query_map([], |row| rows::body(row, 0))?;
    Ok(all.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn revoke(tx: &Tx<'_>, id: &KeyId) -> Result<ApiKey, Error> {
    let key = get(tx.conn, id)?;
    if key.revoked_at.is_some() {
        return Ok(key);
    }
    let key = ApiKey { revoked_at: Some(tx.now), ..key };
    tx.conn
        .prepare_cached("UPDATE keys SET body = ?2 WHERE id = ?1")?
        .execute(params![id.as_str(), serde_json::to_string(&key)?])?;
    record(tx, "key.revoked", id)?;
    Ok(key)
}

fn record(tx: &Tx<'_>, action: &str, id: &KeyId) -> Result<(), Error> {
    audit::record(tx, action, &format!("key/{id}"), None)
}
