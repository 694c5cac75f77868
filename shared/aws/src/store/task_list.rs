//! Reading tasks: one, or a page of them.

use std::collections::HashMap;

use rdev_domain::ids::TaskId;
use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::{PortResult, TaskFilter, TaskRecord};

use super::context::Context;
use super::item::{Item, expired, get_number, get_text, key_of, text};
use super::lookup;
use super::newest::{self, Filter};
use super::projects::StoredProject;
use super::rows::{self, Row};
use crate::schema::{Key, LIST_SHARDS, ulid_of};

pub(super) async fn task(context: &Context, id: TaskId) -> PortResult<TaskRecord> {
    let latest = context.latest();
    let row = lookup::task(context, id).await?;
    let row = row.filter(|row| row.expires_at.is_none_or(|at| at > latest));
    Ok(row.ok_or_else(|| lookup::task_not_found(id))?.into_record())
}

pub(super) async fn tasks(
    context: &Context,
    filter: &TaskFilter,
    page: &Page,
) -> PortResult<Listed<TaskRecord>> {
    let (mut conditions, mut with) = (Vec::new(), Vec::new());
    if let Some(state) = filter.state {
        conditions.push("#state = :state");
        with.push((":state", text(state.as_str())));
    }
    if filter.builds_only {
        conditions.push("#kind = :kind");
        with.push((":kind", text("build")));
    }
    let owner = match &filter.project {
        Some(project) => context.table.get(Key::project(project)).await?,
        None => None,
    };
    let owner = owner.as_ref().map(StoredProject::of).transpose()?.map(|stored| stored.project);
    if let Some(owner) = &owner {
        conditions.push("(#project_nonce = :owner OR attribute_not_exists(#project_nonce))");
        with.push((":owner", text(owner.nonce.to_string())));
    }
    let conditions = Filter { condition: conditions.join(" AND "), with };
    let (items, next) = match &filter.project {
        Some(project) => newest::in_project(context, project, "T#", conditions, page).await?,
        None => {
            let lists = (0..LIST_SHARDS).map(|shard| format!("T#{shard}")).collect();
            let found = newest::in_lists(context, lists, conditions, page).await?;
            (context.table.get_all(found.keys).await?, found.next)
        }
    };
    let mut records = with_leases(context, items).await?;
    // The index may not have the newest state of a task.
    records.retain(|record| {
        filter.state.is_none_or(|state| record.task.state == state)
            && (!filter.builds_only || record.task.work.kind() == "build")
            && owner.as_ref().is_none_or(|project| project.owns_task(&record.task))
    });
    records.sort_by_key(|record| std::cmp::Reverse(record.task.id));
    Ok(Listed { items: records, next })
}

/// Reads the tasks of these items, each with its lease, without those that have expired.
async fn with_leases(context: &Context, items: Vec<Item>) -> PortResult<Vec<TaskRecord>> {
    let latest = context.latest();
    let id = |item: &Item| get_text(item, "sk").and_then(ulid_of).map(TaskId);
    let has_lease = |item: &&Item| get_number::<u64>(item, "held").is_some();
    let keys = items.iter().filter(has_lease).filter_map(id).map(Key::lease).collect();
    let mut leases = HashMap::new();
    for item in context.table.get_all(keys).await? {
        leases.insert(key_of(&item), rows::lease(&item)?);
    }
    let mut records = Vec::with_capacity(items.len());
    for item in items.into_iter().filter(|item| !expired(item, latest)) {
        let lease = id(&item).and_then(|id| leases.remove(&Key::lease(id)));
        let row = match id(&item) {
            // The task has changed between the two reads.
            Some(id)
                if !lookup::lease_matches(&item, lease.as_ref().map(|stored| &stored.lease)) =>
            {
                lookup::task(context, id).await?
            }
            _ => Some(Row::of(&item, lease, context.format)?),
        };
        records.extend(row.map(Row::into_record));
    }
    Ok(records)
}
