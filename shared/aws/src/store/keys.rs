//! API keys. There are few.

use rdev_domain::ids::KeyId;
use rdev_domain::key::ApiKey;
use rdev_domain::ports::{Conflict, PortError, PortResult};

use super::context::{Change, Context};
use super::item::{add_to_list, body, item, millis, text};
use super::writes::Writes;
use super::{audit, indexes};
use crate::error;
use crate::schema::{Key, sortable};

/// The list of all keys.
const LIST: &str = "K";

pub(super) async fn create(change: &Change<'_>, key: &ApiKey) -> PortResult<()> {
    let mut writes = change.context.table.writes();
    let body = serde_json::to_string(key).map_err(error::defect)?;
    let mut record = item(Key::api_key(&key.id), [("body", text(body))]);
    let by = format!("{}#{}", sortable(key.created_at), key.id);
    add_to_list(&mut record, LIST.to_owned(), by);
    writes.put_new(record);
    record_change(change, &mut writes, "key.created", &key.id)?;
    match change.context.table.transact(writes).await? {
        Ok(()) => Ok(()),
        Err(_) => Err(Conflict::IdTaken.into()),
    }
}

pub(super) async fn revoke(change: &Change<'_>, id: &KeyId) -> PortResult<ApiKey> {
    let key = get(change.context, id).await?;
    if key.revoked_at.is_some() {
        return Ok(key);
    }
    let key = ApiKey { revoked_at: Some(change.now), ..key };
    let mut writes = change.context.table.writes();
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
    match change.context.table.transact(writes).await? {
        Ok(()) => Ok(key),
        // Another caller was faster: the key as that call has left it.
        Err(_) => get(change.context, id).await,
    }
}

fn record_change(
    change: &Change<'_>,
    writes: &mut Writes,
    action: &str,
    id: &KeyId,
) -> PortResult<()> {
    let event = change.context.next_id(change.now);
    writes.put(audit::event(change, event, action, format!("key/{id}"), None)?);
    Ok(())
}

pub(super) async fn get(context: &Context, id: &KeyId) -> PortResult<ApiKey> {
    let found = context.table.get(Key::api_key(id)).await?;
    let found = found.ok_or_else(|| PortError::not_found(format!("key \"{id}\"")))?;
    body(&found)
}

pub(super) async fn all(context: &Context) -> PortResult<Vec<ApiKey>> {
    let items = indexes::all_of_list(context, LIST).await?;
    let mut keys: Vec<ApiKey> = items.iter().map(body).collect::<PortResult<_>>()?;
    keys.sort_by(|a, b| (b.created_at, b.id.as_str()).cmp(&(a.created_at, a.id.as_str())));
    Ok(keys)
}
