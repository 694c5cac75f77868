//! The audit log: one partition for each project, so that its part of the log is one query;
//! all of it by the index of lists.

use rdev_domain::audit::AuditEvent;
use rdev_domain::ids::ProjectId;
use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::{AuditFilter, PortResult};
use ulid::Ulid;

use super::item::{Item, body, expired, item, listed, seconds, text};
use super::lists::{bound, newest};
use super::{Change, DynamoStore};
use crate::error;
use crate::schema::{EXPIRES_AT, Key, LIST_SHARDS, audit_partition, list_shard};

/// Says that the change's actor did `action` on `subject`.
pub(super) fn event(
    change: &Change<'_>,
    id: Ulid,
    action: &str,
    subject: String,
    project: Option<&ProjectId>,
) -> PortResult<Item> {
    let event = AuditEvent {
        id,
        at: change.now,
        actor: change.by.name(),
        action: action.to_owned(),
        subject,
        project_id: project.cloned(),
        request_id: change.by.request_id.clone(),
    };
    let body = serde_json::to_string(&event).map_err(error::defect)?;
    let mut item = item(Key::audit(project, id), [("body", text(body))]);
    if let Some(at) = change.store.retention.audit_expires_at(change.now) {
        item.insert(EXPIRES_AT.to_owned(), seconds(at));
    }
    listed(&mut item, format!("A#{}", list_shard(id)), id.to_string());
    Ok(item)
}

impl DynamoStore {
    pub(super) async fn list_audit(
        &self,
        filter: &AuditFilter,
        page: &Page,
    ) -> PortResult<Listed<AuditEvent>> {
        let Some(project) = &filter.project else {
            let lists = (0..LIST_SHARDS).map(|shard| format!("A#{shard}")).collect();
            let found = newest(self, lists, "", vec![], page).await?;
            let items = self.events_of(&self.get_all(found.keys).await?)?;
            return Ok(Listed { items, next: found.next });
        };
        let pk = audit_partition(Some(project));
        let items = self.newest_of(pk, bound(page), page.limit + 1).await?;
        Ok(Listed::from_one_more(self.events_of(&items)?, page, |event| event.id))
    }

    fn events_of(&self, items: &[Item]) -> PortResult<Vec<AuditEvent>> {
        let latest = self.latest();
        let mut events = Vec::with_capacity(items.len());
        for item in items.iter().filter(|item| !expired(item, latest)) {
            events.push(body::<AuditEvent>(item)?);
        }
        events.sort_by_key(|event| std::cmp::Reverse(event.id));
        Ok(events)
    }
}
