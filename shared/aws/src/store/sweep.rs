//! Step 11: one page of the minute's sweep, over the sparse index and the outbox entries.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::ports::{PortResult, Swept};
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::task::TaskState;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use rdev_domain::worker::SILENT_AFTER;
use ulid::Ulid;

use super::calls::Query;
use super::item::{Item, broken, get_millis, get_text, key_of, number, text};
use super::projects::{Known, PROVISIONING, SlotsItem, give_up_provisioning};
use super::rows::{Entry, lease_part};
use super::transition::ulid_time;
use super::writes::Writes;
use super::{Change, recover, workers};
use crate::schema::{DUE, DUE_SHARDS, Key, SLOTS, project_of, sortable};

/// How many records of one kind a page takes, so that others get their turn.
const PAGE: usize = 200;

/// An outbox entry this old is not about to be sent by the one who wrote it.
const OUTBOX_OVERDUE: Duration = Duration::from_secs(30);

/// A wake-up for what has been due for so long may have been lost.
const DUE_FOR_LONG: Duration = Duration::from_secs(2 * 60);

/// Whoever provisions a project for so long is dead.
const PROVISIONING_FOR_LONG: Duration = Duration::from_secs(2 * 60);

pub(super) async fn page(change: &Change<'_>) -> PortResult<Swept> {
    let mut swept = Swept::default();
    for shard in 0..DUE_SHARDS {
        let (outbox, more) = overdue_outbox(change, shard).await?;
        swept.outbox.extend(outbox);
        swept.more |= more;
    }
    match change.store.clock.check() {
        Ok(()) => {
            let recovered = dead_leases(change).await?;
            swept.recovered = recovered.count;
            swept.more |= recovered.dead == PAGE;
            swept.outbox.extend(recovered.outbox);
        }
        // The rest needs no exact time.
        Err(error) => tracing::error!(error = %error, "no lease is recovered"),
    }
    let (mut wake, more) = promote(change).await?;
    swept.more |= more;
    swept.offline = workers::silence(change, change.now.minus(SILENT_AFTER)).await?;
    stuck_projects(change).await?;
    if !swept.more {
        // On the last page only, or each page would wake them all again.
        wake.extend(due_for_long(change).await?);
    }
    swept.wake = with_free_slot(change, wake).await?;
    Ok(swept)
}

async fn overdue_outbox(change: &Change<'_>, shard: u128) -> PortResult<(Vec<OutboxEntry>, bool)> {
    // Ids begin with the time to send: what is below the next millisecond is past it.
    let until = change.now.minus(OUTBOX_OVERDUE).plus(Duration::from_millis(1));
    let query = Query {
        keys: "#pk = :pk AND #sk < :until",
        with: vec![
            (":pk", text(format!("O#{shard}"))),
            (":until", text(Ulid::from_parts(ulid_time(until), 0).to_string())),
        ],
        limit: Some(u32::try_from(PAGE).unwrap_or(u32::MAX)),
        ..Query::default()
    };
    let found = change.store.query(query).await?;
    let mut outbox = Vec::with_capacity(found.items.len());
    for item in &found.items {
        let read = || {
            Some(OutboxEntry {
                id: Ulid::from_string(get_text(item, "sk")?).ok()?,
                project_id: get_text(item, "project")?.parse().ok()?,
                send_at: change.store.clock.local(get_millis(item, "send_at")?),
            })
        };
        outbox.push(read().ok_or_else(|| broken(item))?);
    }
    Ok((outbox, found.last.is_some()))
}

/// Looks at every lease there is, as many as there are builds that run, and recovers a page
/// of those that have expired.
async fn dead_leases(change: &Change<'_>) -> PortResult<recover::Recovered> {
    let mut held = Vec::new();
    for shard in 0..DUE_SHARDS {
        for state in [TaskState::Running, TaskState::Pushing] {
            let part = lease_part(state, TaskId(Ulid::from_parts(0, shard)));
            held.extend(keys_in(change, part, None).await?);
        }
    }
    let id = |item: &Item| get_text(item, DUE.2).and_then(|id| id.parse().ok());
    let ids: BTreeSet<TaskId> = held.iter().filter_map(id).collect();
    let ids: Vec<TaskId> = ids.into_iter().collect();
    let mut all = recover::Recovered::default();
    for ids in ids.chunks(100) {
        let recovered = recover::expired(change, ids, PAGE - all.dead).await?;
        all.dead += recovered.dead;
        all.count += recovered.count;
        all.outbox.extend(recovered.outbox);
        if all.dead == PAGE {
            break;
        }
    }
    Ok(all)
}

/// Moves what was parked and is now due to the due part of its queue; the projects, and
/// whether there may be more.
async fn promote(change: &Change<'_>) -> PortResult<(BTreeSet<ProjectId>, bool)> {
    let mut parked = Vec::new();
    for shard in 0..DUE_SHARDS {
        parked.extend(keys_in(change, format!("R#{shard}"), Some(change.now)).await?);
    }
    let more = parked.len() > PAGE;
    parked.truncate(PAGE);
    let mut projects = BTreeSet::new();
    for item in change.store.get_all(parked.iter().map(key_of).collect()).await? {
        let entry = Entry::of(&item)?;
        let (from, project, task) = (entry.place.clone(), entry.project.clone(), entry.task);
        let entry = entry.promoted();
        let mut writes = Writes::new(&change.store.table);
        writes.update(
            Key::task(&project, task),
            "SET #place = :to, #rev = #rev + :one",
            "#place = :from",
            vec![
                (":to", text(entry.place.as_str())),
                (":one", number(1)),
                (":from", text(from.as_str())),
            ],
        );
        writes.delete(Key::entry(&project, &from), "", vec![]);
        writes.put(entry.item());
        // It was claimed or cancelled meanwhile; then there is nothing to do.
        if change.store.transact(writes).await?.is_ok() {
            projects.insert(project);
        }
    }
    Ok((projects, more))
}

async fn stuck_projects(change: &Change<'_>) -> PortResult<()> {
    let since = change.now.minus(PROVISIONING_FOR_LONG);
    let stuck = keys_in(change, PROVISIONING.to_owned(), Some(since)).await?;
    for item in change.store.get_all(stuck.iter().map(key_of).collect()).await? {
        give_up_provisioning(change, &item, since).await?;
    }
    Ok(())
}

/// The projects that have something that has been due for long.
async fn due_for_long(change: &Change<'_>) -> PortResult<BTreeSet<ProjectId>> {
    let since = change.now.minus(DUE_FOR_LONG);
    let mut projects = BTreeSet::new();
    for shard in 0..DUE_SHARDS {
        let due = keys_in(change, format!("Q#{shard}"), Some(since)).await?;
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
    for item in change.store.get_all(keys).await? {
        let Key { pk, sk } = key_of(&item);
        let one = known.entry(pk).or_default();
        if sk == SLOTS {
            one.1 = SlotsItem::of(&item).held.len();
        } else {
            one.0 = Some(Known::of(&item)?.project);
        }
    }
    let free = |(project, held): (Option<Project>, usize)| {
        let project = project.filter(|project| project.state != ProjectState::Deleting)?;
        (held < project.build_limit as usize).then_some(project.id)
    };
    let mut free: Vec<ProjectId> = known.into_values().filter_map(free).collect();
    free.sort();
    Ok(free)
}

/// The keys in a part of the index, those up to a time.
pub(super) async fn keys_in(
    change: &Change<'_>,
    part: String,
    until: Option<Timestamp>,
) -> PortResult<Vec<Item>> {
    let query = || Query {
        index: Some(DUE.0),
        keys: if until.is_some() { "#dpk = :part AND #dsk <= :until" } else { "#dpk = :part" },
        with: [(":part", text(part.as_str()))]
            .into_iter()
            .chain(until.map(|until| (":until", text(format!("{}~", sortable(until))))))
            .collect(),
        ..Query::default()
    };
    change.store.query_all(query).await
}
