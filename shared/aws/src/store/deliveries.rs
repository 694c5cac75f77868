//! Webhook deliveries. One that is to be sent is in the index of due records. One that has ended
//! is not, and expires.

use futures_util::future::try_join_all;
use rdev_domain::ids::ProjectId;
use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::PortResult;
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use rdev_domain::webhook::{KEPT, WebhookDelivery};
use ulid::Ulid;

use super::context::{Change, Context};
use super::item::{add_to_due, body, expired, get_text, item, key_of, seconds, text};
use super::newest::{self, Filter};
use super::projects::StoredProject;
use super::table::Query;
use super::writes::Writes;
use crate::error::{self, alone};
use crate::schema::{DUE, DUE_SHARDS, Key, due_shard, sortable};

/// Adds to the writes the delivery that reports the end of a task, if the task asks for one.
pub(super) fn create(change: &Change<'_>, task: &Task, writes: &mut Writes) -> PortResult<()> {
    if !task.notify {
        return Ok(());
    }
    let id = change.context.next_id(change.now);
    let Some(delivery) = WebhookDelivery::of(task, id, change.now) else { return Ok(()) };
    let of_it = [("body", text(encoded(&delivery)?))];
    let mut record = item(Key::delivery(&delivery.project_id, id), of_it);
    if let Some(at) = delivery.next_at {
        add_to_due(&mut record, part(due_shard(id)), place(&delivery, at));
    }
    writes.put(record);
    Ok(())
}

pub(super) async fn due(
    context: &Context,
    now: Timestamp,
    limit: u32,
) -> PortResult<Vec<WebhookDelivery>> {
    let until = format!("{}~", sortable(now));
    let shards = (0..DUE_SHARDS).map(|shard| {
        context.table.query(Query {
            index: Some(DUE.0),
            keys: "#dpk = :part AND #dsk <= :until",
            with: vec![(":part", text(part(shard))), (":until", text(until.as_str()))],
            limit: Some(limit),
            ..Query::default()
        })
    });
    let found = try_join_all(shards).await?;
    let mut found: Vec<_> = found.into_iter().flat_map(|found| found.items).collect();
    found.sort_by(|a, b| get_text(a, DUE.2).cmp(&get_text(b, DUE.2)));
    found.truncate(limit as usize);
    let items = context.table.get_all(found.iter().map(key_of).collect()).await?;
    let mut deliveries: Vec<WebhookDelivery> = Vec::with_capacity(items.len());
    for item in &items {
        let key = key_of(item);
        match alone(&key, body(item))? {
            Some(delivery) => deliveries.push(delivery),
            // It can never be sent, and is not to stand before the others.
            None => {
                let ended = vec![(":at", seconds(now.plus(KEPT)))];
                let end = "SET #expires_at = :at REMOVE #dpk, #dsk";
                let _ = context.table.update(key, end, "attribute_exists(#pk)", ended).await?;
            }
        }
    }
    // The index may not have the newest state of a delivery.
    deliveries.retain(|delivery| delivery.next_at.is_some_and(|at| at <= now));
    deliveries.sort_by_key(|delivery| (delivery.next_at, delivery.id));
    Ok(deliveries)
}

pub(super) async fn update(
    context: &Context,
    before: &WebhookDelivery,
    after: &WebhookDelivery,
) -> PortResult<bool> {
    let key = Key::delivery(&before.project_id, before.id);
    let Some(there) = context.table.get(key.clone()).await? else { return Ok(false) };
    if body::<WebhookDelivery>(&there)? != *before {
        return Ok(false);
    }
    // The stored text: another version may have encoded the same delivery differently.
    let seen = get_text(&there, "body").unwrap_or_default();
    let nonce = Ulid::generate().to_string();
    let mut set = "SET #body = :body, #nonce = :nonce".to_owned();
    let mut with = vec![
        (":seen", text(seen)),
        (":body", text(encoded(after)?)),
        (":nonce", text(nonce.as_str())),
    ];
    match after.next_at {
        Some(at) => {
            set.push_str(", #dpk = :part, #dsk = :place REMOVE #expires_at");
            with.push((":part", text(part(due_shard(before.id)))));
            with.push((":place", text(place(before, at))));
        }
        None => {
            set.push_str(", #expires_at = :expires_at REMOVE #dpk, #dsk");
            with.push((":expires_at", seconds(after.updated_at.plus(KEPT))));
        }
    }
    Ok(match context.table.update(key, &set, "#body = :seen", with).await? {
        Ok(_) => true,
        // After a lost answer, the condition fails because this very write has been applied.
        Err(there) => {
            let there = there.as_ref().and_then(|item| get_text(item, "nonce"));
            there == Some(nonce.as_str())
        }
    })
}

pub(super) async fn list(
    context: &Context,
    project: &ProjectId,
    page: &Page,
) -> PortResult<Listed<WebhookDelivery>> {
    let (items, next) = newest::in_project(context, project, "V#", Filter::default(), page).await?;
    let latest = context.latest();
    let kept = items.iter().filter(|item| !expired(item, latest));
    let mut kept: Vec<WebhookDelivery> = kept.map(body).collect::<PortResult<_>>()?;
    let owner = context.table.get(Key::project(project)).await?;
    if let Some(owner) = owner.as_ref().map(StoredProject::of).transpose()? {
        kept.retain(|one| owner.project.owns(one.project_nonce, one.task_id.0));
    }
    Ok(Listed { items: kept, next })
}

/// A part of the index of due records.
fn part(shard: u128) -> String {
    format!("N#{shard}")
}

fn place(delivery: &WebhookDelivery, at: Timestamp) -> String {
    format!("{}#{}", sortable(at), delivery.id)
}

fn encoded(delivery: &WebhookDelivery) -> PortResult<String> {
    serde_json::to_string(delivery).map_err(error::defect)
}
