//! Workers. A heartbeat is one write, which does not change the index.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use rdev_domain::ids::WorkerId;
use rdev_domain::ports::{PortError, PortResult};
use rdev_domain::time::Timestamp;
use rdev_domain::worker::{Worker, WorkerStatus};

use super::audit;
use super::context::{Change, Context};
use super::indexes::{self, Pages};
use super::item::{Item, body, get_flag, get_millis, get_text, key_of, millis, seconds, text};
use crate::error;
use crate::schema::Key;

/// The list of all workers, and the part of the due index with those that are not offline.
const LIST: &str = "W";

/// A worker that has sent no heartbeat for this long is no longer listed.
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
    let after = change.context.table.update(Key::worker(&worker.id), &update, "", with).await?;
    Ok(after.is_ok_and(|after| get_flag(&after, "drain")))
}

pub(super) async fn set_drain(
    change: &Change<'_>,
    id: &WorkerId,
    drain: bool,
) -> PortResult<Worker> {
    let found = change.context.table.get(Key::worker(id)).await?;
    let mut found = found.ok_or_else(|| not_found(id))?;
    if get_flag(&found, "drain") != drain {
        let mut writes = change.context.table.writes();
        let flag = AttributeValue::Bool(drain);
        writes.update(
            Key::worker(id),
            "SET #drain = :drain",
            "attribute_exists(#pk)",
            vec![(":drain", flag.clone())],
        );
        let action = if drain { "worker.drain" } else { "worker.resume" };
        let event = change.context.next_id(change.now);
        writes.put(audit::event(change, event, action, format!("worker/{id}"), None)?);
        if change.context.table.transact(writes).await?.is_err() {
            return Err(not_found(id));
        }
        found.insert("drain".to_owned(), flag);
    }
    worker_of(&found)
}

/// Marks the workers whose last heartbeat was at `since` or earlier as `offline`. Returns how
/// many.
pub(super) async fn mark_offline(change: &Change<'_>, since: Timestamp) -> PortResult<u64> {
    let mut changed = 0;
    let mut pages = Pages::of(change.context, indexes::due(LIST.to_owned(), None));
    while let Some(online) = pages.next().await? {
        for item in change.context.table.get_all(online.iter().map(key_of).collect()).await? {
            let Some(heartbeat) = get_millis(&item, "last_heartbeat_at").filter(|&at| at <= since)
            else {
                continue;
            };
            let with = vec![
                (":offline", text(WorkerStatus::Offline.as_str())),
                (":heard", millis(heartbeat)),
            ];
            let set = "SET #status = :offline REMOVE #dpk, #dsk";
            let unheard = "#last_heartbeat_at = :heard AND #status <> :offline";
            let update = change.context.table.update(key_of(&item), set, unheard, with);
            changed += u64::from(update.await?.is_ok());
        }
    }
    Ok(changed)
}

fn worker_of(item: &Item) -> PortResult<Worker> {
    let mut worker: Worker = body(item)?;
    if get_text(item, "status") == Some(WorkerStatus::Offline.as_str()) {
        worker.status = WorkerStatus::Offline;
    } else if get_flag(item, "drain") {
        worker.status = WorkerStatus::Draining;
    }
    Ok(worker)
}

pub(super) async fn get(context: &Context, id: &WorkerId) -> PortResult<Worker> {
    let found = context.table.get(Key::worker(id)).await?;
    worker_of(&found.ok_or_else(|| not_found(id))?)
}

pub(super) async fn all(context: &Context) -> PortResult<Vec<Worker>> {
    let since = context.latest().minus(FORGOTTEN_AFTER);
    let mut workers = Vec::new();
    for item in indexes::all_of_list(context, LIST).await? {
        let worker = worker_of(&item)?;
        if worker.last_heartbeat_at > since {
            workers.push(worker);
        }
    }
    workers.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(workers)
}

fn not_found(id: &WorkerId) -> PortError {
    PortError::not_found(format!("worker \"{id}\""))
}
