//! API keys. There are few.

use rdev_domain::ids::KeyId;
use rdev_domain::key::ApiKey;
use rdev_domain::ports::{Conflict, PortError, PortResult};

use super::calls::Query;
use super::item::{Item, body, item, key_of, listed, millis, text};
use super::writes::Writes;
use super::{Change, DynamoStore, audit};
use crate::error;
use crate::schema::{Key, LISTS, sortable};

/// The list of all keys.
const LIST: &str = "K";

pub(super) async fn create(change: &Change<'_>, key: &ApiKey) -> PortResult<()> {
    let mut writes = Writes::new(&change.store.table);
    let body = serde_json::to_string(key).map_err(error::defect)?;
    let mut record = item(Key::api_key(&key.id), [("body", text(body))]);
    let by = format!("{}#{}", sortable(key.created_at), key.id);
    listed(&mut record, LIST.to_owned(), by);
    writes.put_new(record);
    record_change(change, &mut writes, "key.created", &key.id)?;
    match change.store.transact(writes).await? {
        Ok(()) => Ok(()),
        Err(_) => Err(Conflict::IdTaken.into()),
    }
}

pub(super) async fn revoke(change: &Change<'_>, id: &KeyId) -> PortResult<ApiKey> {
    let key = change.store.read_key(id).await?;
    if key.revoked_at.is_some() {
        return Ok(key);
    }
    let key = ApiKey { revoked_at: Some(change.now), ..key };
    let mut writes = Writes::new(&change.store.table);
    writes.update(
        Key::api_key(id),
        "SET #body = :body, #revoked_at = :now",
        "attribute_exists(#pk) AND attribute_not_exists(#revoked_at)",
        vec![
            (":body", text(serde_json::to_string(&key).map_err(error::defect)?)),
            (":now", millis(change.now)),
        ],
    );
    record_change(change, &mut writes, "key.revoked", id)?;
    match change.store.transact(writes).await? {
        Ok(()) => Ok(key),
        // Somebody else was faster: as they left it.
        Err(_) => change.store.read_key(id).await,
    }
}

fn record_change(
    change: &Change<'_>,
    writes: &mut Writes,
    action: &str,
    id: &KeyId,
) -> PortResult<()> {
    let event = change.store.next_id(change.now);
    writes.put(audit::event(change, event, action, format!("key/{id}"), None)?);
    Ok(())
}

impl DynamoStore {
    pub(super) async fn read_key(&self, id: &KeyId) -> PortResult<ApiKey> {
        let found = self.get(Key::api_key(id)).await?;
        let found = found.ok_or_else(|| PortError::not_found(format!("key \"{id}\"")))?;
        body(&found)
    }

    pub(super) async fn list_keys(&self) -> PortResult<Vec<ApiKey>> {
        let items = self.list(LIST).await?;
        let mut keys: Vec<ApiKey> = items.iter().map(body).collect::<PortResult<_>>()?;
        keys.sort_by(|a, b| (b.created_at, b.id.as_str()).cmp(&(a.created_at, a.id.as_str())));
        Ok(keys)
    }

    /// Everything in a list that is short by nature.
    pub(super) async fn list(&self, list: &'static str) -> PortResult<Vec<Item>> {
        let found = self.query_all(|| Query {
            index: Some(LISTS.0),
            keys: "#lpk = :list",
            with: vec![(":list", text(list))],
            ..Query::default()
        });
        self.get_all(found.await?.iter().map(key_of).collect()).await
    }
}
