//! The audit log. Each project has a partition of its own, so that its part of the log is one
//! query. The whole log is a list in the index.

use rdev_domain::audit::AuditEvent;
use rdev_domain::ids::ProjectId;
use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::{AuditFilter, PortResult};
use ulid::Ulid;

use super::context::{Change, Context};
use super::item::{Item, add_to_list, body, expired, item, seconds, text};
use super::newest::{self, Filter};
use crate::error;
use crate::schema::{EXPIRES_AT, Key, LIST_SHARDS, audit_partition, list_shard};

/// The item which records that the actor of the change has done `action` to `subject`.
pub(super) fn event(
    change: &Change<'_>,
    id: Ulid,
    action: &str,
    subject: String,
    project: Option<&ProjectId>,
) -> PortResult<Item> {
    event_with(change, id, action, subject, project, None)
}

/// Like [`event`], with what else is to be known of it.
pub(super) fn event_with(
    change: &Change<'_>,
    id: Ulid,
    action: &str,
    subject: String,
    project: Option<&ProjectId>,
    detail: Option<&str>,
) -> PortResult<Item> {
    let event = AuditEvent {
        id,
        at: change.now,
        actor: change.by.name(),
        action: action.to_owned(),
        subject,
        project_id: project.cloned(),
        detail: detail.map(str::to_owned),
        request_id: change.by.request_id.clone(),
    };
    let body = serde_json::to_string(&event).map_err(error::defect)?;
    let mut item = item(Key::audit(project, id), [("body", text(body))]);
    if let Some(at) = change.context.retention.audit_expires_at(change.now) {
        item.insert(EXPIRES_AT.to_owned(), seconds(at));
    }
    add_to_list(&mut item, format!("A#{}", list_shard(id)), id.to_string());
    Ok(item)
}

pub(super) async fn list(
    context: &Context,
    filter: &AuditFilter,
    page: &Page,
) -> PortResult<Listed<AuditEvent>> {
    let Some(project) = &filter.project else {
        let lists = (0..LIST_SHARDS).map(|shard| format!("A#{shard}")).collect();
        let found = newest::in_lists(context, lists, Filter::default(), page).await?;
        let items = events_of(context, &context.table.get_all(found.keys).await?)?;
        return Ok(Listed { items, next: found.next });
    };
    let pk = audit_partition(Some(project));
    let items = newest::in_partition(context, pk, page).await?;
    Ok(Listed::from_one_more(events_of(context, &items)?, page, |event| event.id))
}

fn events_of(context: &Context, items: &[Item]) -> PortResult<Vec<AuditEvent>> {
    let latest = context.latest();
    let mut events = Vec::with_capacity(items.len());
    for item in items.iter().filter(|item| !expired(item, latest)) {
        events.push(body::<AuditEvent>(item)?);
    }
    events.sort_by_key(|event| std::cmp::Reverse(event.id));
    Ok(events)
}
