//! Step 11: one page of the sweep, which runs every minute, over the due index and the outbox. It
//! costs what it finds, a key for each task and worker that lives, and one item for each project
//! with something due; never what waits in a queue.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::ports::{PortResult, Swept};
use rdev_domain::project::{ABANDONED_AFTER, Project, ProjectState};
use rdev_domain::task::TaskState;
use rdev_domain::time::Timestamp;
use rdev_domain::worker::SILENT_AFTER;
use ulid::Ulid;

use super::context::Change;
use super::indexes::{self, Pages};
use super::item::{Item, get_millis, get_text, key_of};
use super::projects::{SlotsItem, StoredProject, UNFINISHED, fail_stuck_provisioning};
use super::rows::lease_part;
use super::table::Query;
use super::{counts, outbox, project_delete, queue_entry, recover, turns, walk, workers};
use crate::error::alone;
use crate::schema::{DUE, DUE_SHARDS, Key, SLOTS, project_of};

/// The most records of one kind in a page.
const PAGE: usize = 200;

/// If a task has been due for this long, its wake-up may have been lost.
const DUE_FOR_LONG: Duration = Duration::from_secs(2 * 60);

/// How many projects are looked at at the same time.
const LOOKS_AT_ONCE: usize = 8;

/// How many entries of a queue are looked at: those that are claimed first, which are nearly always
/// the oldest.
const LOOKED_AT: u32 = 100;

pub(super) async fn page(change: &Change<'_>) -> PortResult<Swept> {
    let mut swept = Swept::default();
    for shard in 0..DUE_SHARDS {
        let (outbox, more) = outbox::overdue(change, shard, PAGE).await?;
        swept.outbox.extend(outbox);
        swept.more |= more;
    }
    match change.context.clock.check() {
        Ok(()) => {
            let recovered = expired_leases(change).await?;
            swept.recovered = recovered.count;
            swept.more |= recovered.expired == PAGE;
            swept.outbox.extend(recovered.outbox);
        }
        // Everything else does not depend on an exact time.
        Err(error) => tracing::error!(error = %error, "no lease is recovered"),
    }
    let (mut wake, more) = queue_entry::promote(change, PAGE).await?;
    swept.more |= more;
    swept.offline = workers::mark_offline(change, change.now.minus(SILENT_AFTER)).await?;
    swept.deleting = abandoned_projects(change).await?;
    if !swept.more {
        // On the last page only: otherwise each page would wake the same projects again.
        walk::step(change).await?;
        wake.extend(due_for_long(change).await?);
    }
    for project in with_free_slot(change, wake).await? {
        let due = queue_entry::due_agents(change, &project, queue_entry::FAR).await?;
        swept.wake.extend(due.wake_ups(&project));
    }
    Ok(swept)
}

/// Reads all leases, as many as tasks run, and recovers a page of those that have expired.
pub(super) async fn expired_leases(change: &Change<'_>) -> PortResult<recover::Recovered> {
    let id = |item: &Item| get_text(item, DUE.2).and_then(|id| id.parse().ok());
    let mut all = recover::Recovered::default();
    for state in [TaskState::Running, TaskState::Pushing] {
        for shard in 0..DUE_SHARDS {
            let part = lease_part(state, TaskId(Ulid::from_parts(0, shard)));
            let mut pages = Pages::of(change.context, indexes::due(part, None));
            while let Some(leases) = pages.next().await? {
                let ids: Vec<TaskId> = leases.iter().filter_map(id).collect();
                let recovered = recover::expired(change, &ids, PAGE - all.expired).await?;
                all.expired += recovered.expired;
                all.count += recovered.count;
                all.outbox.extend(recovered.outbox);
                if all.expired == PAGE {
                    return Ok(all);
                }
            }
        }
    }
    Ok(all)
}

/// Fails the projects whose provisioning was abandoned, and takes those whose deletion was.
async fn abandoned_projects(change: &Change<'_>) -> PortResult<Vec<Project>> {
    let since = change.now.minus(ABANDONED_AFTER);
    let mut deleting = Vec::new();
    let abandoned = indexes::due(UNFINISHED.to_owned(), Some(since));
    let mut pages = Pages::of(change.context, abandoned);
    while let Some(keys) = pages.next().await? {
        for item in change.context.table.get_all(keys.iter().map(key_of).collect()).await? {
            let key = key_of(&item);
            let taken = take_over(change, &item, since).await;
            deleting.extend(alone(&key, taken)?.flatten());
        }
    }
    Ok(deleting)
}

async fn take_over(
    change: &Change<'_>,
    item: &Item,
    since: Timestamp,
) -> PortResult<Option<Project>> {
    if fail_stuck_provisioning(change, item, since).await? {
        return Ok(None);
    }
    project_delete::take_abandoned(change, item, since).await
}

/// The projects with a free slot and a task that has been due for long. It costs one item for each
/// project with something due, and a query for each of them that has a free slot.
async fn due_for_long(change: &Change<'_>) -> PortResult<BTreeSet<ProjectId>> {
    let context = change.context;
    let mut found = BTreeSet::new();
    let mut counted = 0;
    let mut pages = Pages::of(context, indexes::due(turns::PART.to_owned(), None));
    while let Some(keys) = pages.next().await? {
        let waiting = context.table.get_all(keys.iter().map(key_of).collect()).await?;
        for item in &waiting {
            let slots = SlotsItem::of(item);
            if counted < counts::MAX_COUNTED
                && counts::is_old(&slots, change.now)
                && let Some(project) = project_of(&key_of(item).pk)
            {
                counts::count(change, &project, &slots).await?;
                counted += 1;
            }
        }
        let looks = stream::iter(waiting).map(|item| look_at(change, item));
        let projects: Vec<_> = looks.buffer_unordered(LOOKS_AT_ONCE).try_collect().await?;
        found.extend(projects.into_iter().flatten());
    }
    Ok(found)
}

/// Looks at the queue of a project by the item of its slots. Returns the project if it has a free
/// slot, and something of it has been due for long.
async fn look_at(change: &Change<'_>, item: Item) -> PortResult<Option<ProjectId>> {
    let Some(project) = project_of(&key_of(&item).pk) else { return Ok(None) };
    let slots = SlotsItem::of(&item);
    if !slots.has_free_slot() {
        return Ok(None);
    }
    let query = Query { limit: Some(LOOKED_AT), ..Query::between(&project, "Q#", "Q$") };
    let due = change.context.table.query(query).await?;
    if due.items.is_empty() {
        turns::mark_idle(change.context, &project, &slots).await?;
        return Ok(None);
    }
    let since = change.now.minus(DUE_FOR_LONG);
    let for_long = |item| get_millis(item, "at").is_some_and(|at| at <= since);
    // A wake-up too many does no harm, and the runners have not come through a queue that long.
    Ok((due.items.iter().any(for_long) || due.last.is_some()).then_some(project))
}

async fn with_free_slot(
    change: &Change<'_>,
    projects: BTreeSet<ProjectId>,
) -> PortResult<Vec<ProjectId>> {
    let free = |(project, leased): (Option<Project>, usize)| {
        let project = project.filter(|project| project.state != ProjectState::Deleting)?;
        (leased < project.build_limit as usize).then_some(project.id)
    };
    let keys: Vec<Key> =
        projects.iter().flat_map(|id| [Key::project(id), Key::slots(id)]).collect();
    let mut with_free_slot: Vec<ProjectId> = Vec::new();
    // Both items of a project are in one chunk.
    for keys in keys.chunks(100) {
        let mut known = HashMap::<String, (Option<Project>, usize)>::new();
        for item in change.context.table.get_all(keys.to_vec()).await? {
            let Key { pk, sk } = key_of(&item);
            let one = known.entry(pk.clone()).or_default();
            if sk == SLOTS {
                one.1 = SlotsItem::of(&item).leased.len();
            } else {
                let key = Key { pk, sk };
                one.0 = alone(&key, StoredProject::of(&item))?.map(|stored| stored.project);
            }
        }
        with_free_slot.extend(known.into_values().filter_map(free));
    }
    with_free_slot.sort();
    Ok(with_free_slot)
}
