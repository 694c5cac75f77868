//! Step 11: one page of the sweep, which runs every minute, over the due index and the outbox.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::ports::{PortResult, Swept};
use rdev_domain::project::{ABANDONED_AFTER, Project, ProjectState};
use rdev_domain::task::TaskState;
use rdev_domain::time::Timestamp;
use rdev_domain::worker::SILENT_AFTER;
use ulid::Ulid;

use super::context::Change;
use super::indexes::due_keys;
use super::item::{Item, get_text, key_of};
use super::projects::{SlotsItem, StoredProject, UNFINISHED, fail_stuck_provisioning};
use super::rows::lease_part;
use super::{outbox, project_delete, queue_entry, recover, workers};
use crate::error::alone;
use crate::schema::{DUE, DUE_SHARDS, Key, SLOTS, project_of};

/// The most records of one kind in a page.
const PAGE: usize = 200;

/// If a task has been due for this long, its wake-up may have been lost.
const DUE_FOR_LONG: Duration = Duration::from_secs(2 * 60);

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
        wake.extend(due_for_long(change).await?);
    }
    swept.wake = with_free_slot(change, wake).await?;
    Ok(swept)
}

/// Reads all leases, as many as tasks run, and recovers a page of those that have expired.
pub(super) async fn expired_leases(change: &Change<'_>) -> PortResult<recover::Recovered> {
    let mut leases = Vec::new();
    for shard in 0..DUE_SHARDS {
        for state in [TaskState::Running, TaskState::Pushing] {
            let part = lease_part(state, TaskId(Ulid::from_parts(0, shard)));
            leases.extend(due_keys(change.context, part, None).await?);
        }
    }
    let id = |item: &Item| get_text(item, DUE.2).and_then(|id| id.parse().ok());
    let ids: BTreeSet<TaskId> = leases.iter().filter_map(id).collect();
    let ids: Vec<TaskId> = ids.into_iter().collect();
    let mut all = recover::Recovered::default();
    for ids in ids.chunks(100) {
        let recovered = recover::expired(change, ids, PAGE - all.expired).await?;
        all.expired += recovered.expired;
        all.count += recovered.count;
        all.outbox.extend(recovered.outbox);
        if all.expired == PAGE {
            break;
        }
    }
    Ok(all)
}

/// Fails the projects whose provisioning was abandoned, and takes those whose deletion was.
async fn abandoned_projects(change: &Change<'_>) -> PortResult<Vec<Project>> {
    let since = change.now.minus(ABANDONED_AFTER);
    let abandoned = due_keys(change.context, UNFINISHED.to_owned(), Some(since)).await?;
    let mut deleting = Vec::new();
    for item in change.context.table.get_all(abandoned.iter().map(key_of).collect()).await? {
        let key = key_of(&item);
        let taken = take_over(change, &item, since).await;
        deleting.extend(alone(&key, taken)?.flatten());
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

/// The projects with a task that has been due for long.
async fn due_for_long(change: &Change<'_>) -> PortResult<BTreeSet<ProjectId>> {
    let since = change.now.minus(DUE_FOR_LONG);
    let mut projects = BTreeSet::new();
    for shard in 0..DUE_SHARDS {
        let due = due_keys(change.context, format!("Q#{shard}"), Some(since)).await?;
        projects.extend(due.iter().filter_map(|item| project_of(get_text(item, "pk")?)));
    }
    Ok(projects)
}

async fn with_free_slot(
    change: &Change<'_>,
    projects: BTreeSet<ProjectId>,
) -> PortResult<Vec<ProjectId>> {
    let keys = projects.iter().flat_map(|id| [Key::project(id), Key::slots(id)]).collect();
    let mut known = HashMap::<String, (Option<Project>, usize)>::new();
    for item in change.context.table.get_all(keys).await? {
        let Key { pk, sk } = key_of(&item);
        let one = known.entry(pk.clone()).or_default();
        if sk == SLOTS {
            one.1 = SlotsItem::of(&item).leased.len();
        } else {
            let key = Key { pk, sk };
            one.0 = alone(&key, StoredProject::of(&item))?.map(|stored| stored.project);
        }
    }
    let free = |(project, leased): (Option<Project>, usize)| {
        let project = project.filter(|project| project.state != ProjectState::Deleting)?;
        (leased < project.build_limit as usize).then_some(project.id)
    };
    let mut free: Vec<ProjectId> = known.into_values().filter_map(free).collect();
    free.sort();
    Ok(free)
}
