//! Workers. A heartbeat is one write, which moves nothing in an index.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use rdev_domain::ids::WorkerId;
use rdev_domain::ports::{PortError, PortResult};
use rdev_domain::time::Timestamp;
use rdev_domain::worker::{Worker, WorkerStatus};

use super::item::{Item, body, get_flag, get_millis, get_text, key_of, millis, seconds, text};
use super::sweep::keys_in;
use super::writes::Writes;
use super::{Change, DynamoStore, audit};
use crate::error;
use crate::schema::Key;

/// The list of all workers, and the part of the index with those that are not offline.
const LIST: &str = "W";

/// A worker that was silent for so long is not listed any more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) async fn heartbeat(change: &Change<'_>, worker: &Worker) -> PortResult<bool> {
    let worker = Worker { last_heartbeat_at: change.now, ..worker.clone() };
    let mut update = "SET #body = :body, #status = :status, #last_heartbeat_at = :now, \
                      #expires_at = :expires_at, #lpk = :list, #lsk = :id"
        .to_owned();
    update.push_str(match worker.status {
        WorkerStatus::Offline => " REMOVE #dpk, #dsk",
        _ => ", #dpk = :list, #dsk = :id",
    });
    let with = vec![
        (":body", text(serde_json::to_string(&worker).map_err(error::defect)?)),
        (":status", text(worker.status.as_str())),
        (":now", millis(change.now)),
        (":expires_at", seconds(change.now.plus(FORGOTTEN_AFTER))),
        (":list", text(LIST)),
        (":id", text(worker.id.as_str())),
    ];
    let after = change.store.update(Key::worker(&worker.id), &update, "", with).await?;
    Ok(after.is_ok_and(|after| get_flag(&after, "drain")))
}

pub(super) async fn set_drain(
    change: &Change<'_>,
    id: &WorkerId,
    drain: bool,
) -> PortResult<Worker> {
    let found = change.store.get(Key::worker(id)).await?;
    let mut found = found.ok_or_else(|| not_found(id))?;
    if get_flag(&found, "drain") != drain {
        let mut writes = Writes::new(&change.store.table);
        let flag = AttributeValue::Bool(drain);
        writes.update(
            Key::worker(id),
            "SET #drain = :drain",
            "attribute_exists(#pk)",
            vec![(":drain", flag.clone())],
        );
        let action = if drain { "worker.drain" } else { "worker.resume" };
        let event = change.store.next_id(change.now);
        writes.put(audit::event(change, event, action, format!("worker/{id}"), None)?);
        if change.store.transact(writes).await?.is_err() {
            return Err(not_found(id));
        }
        found.insert("drain".to_owned(), flag);
    }
    shown(&found)
}

/// Turns those that were last heard of at `since` or earlier `offline`; how many.
pub(super) async fn silence(change: &Change<'_>, since: Timestamp) -> PortResult<u64> {
    let awake = keys_in(change, LIST.to_owned(), None).await?;
    let mut silenced = 0;
    for item in change.store.get_all(awake.iter().map(key_of).collect()).await? {
        let Some(heard) = get_millis(&item, "last_heartbeat_at").filter(|&at| at <= since) else {
            continue;
        };
        let turned = change.store.update(
            key_of(&item),
            "SET #status = :offline REMOVE #dpk, #dsk",
            "#last_heartbeat_at = :heard AND #status <> :offline",
            vec![(":offline", text(WorkerStatus::Offline.as_str())), (":heard", millis(heard))],
        );
        silenced += u64::from(turned.await?.is_ok());
    }
    Ok(silenced)
}

fn shown(item: &Item) -> PortResult<Worker> {
    let mut worker: Worker = body(item)?;
    if get_text(item, "status") == Some(WorkerStatus::Offline.as_str()) {
        worker.status = WorkerStatus::Offline;
    } else if get_flag(item, "drain") {
        worker.status = WorkerStatus::Draining;
    }
    Ok(worker)
}

impl DynamoStore {
    pub(super) async fn read_worker(&self, id: &WorkerId) -> PortResult<Worker> {
        let found = self.get(Key::worker(id)).await?;
        shown(&found.ok_or_else(|| not_found(id))?)
    }

    pub(super) async fn list_workers(&self) -> PortResult<Vec<Worker>> {
        let since = self.latest().minus(FORGOTTEN_AFTER);
        let mut workers = Vec::new();
        for item in self.list(LIST).await? {
            let worker = shown(&item)?;
            if worker.last_heartbeat_at > since {
                workers.push(worker);
            }
        }
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(workers)
    }
}

fn not_found(id: &WorkerId) -> PortError {
    PortError::not_found(format!("worker \"{id}\""))
}
