//! Projects. Beside a project stands the item of its slots: the tasks that are held, how many
//! may be, and whether it is closed. Claims and ends of tasks change only that one.

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::{StreamExt, TryStreamExt, stream};
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::{Conflict, PortError, PortResult};
use rdev_domain::project::{Project, ProjectPatch, ProjectState};
use rdev_domain::step::{Event, step};
use rdev_domain::task::TaskState;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;

use super::calls::{Query, pause};
use super::events::Encoded;
use super::item::{Item, Values, body, due, get_number, get_text, item, listed, number, text};
use super::lists::newest;
use super::rows::{Entry, Found};
use super::transition::{self, write_outbox};
use super::writes::Writes;
use super::{Change, DynamoStore, audit, domains};
use crate::error;
use crate::schema::{Key, LIST_SHARDS, SLOTS, list_shard, partition, sortable};

/// The most outbox entries that one raised limit writes.
const MAX_MARKS: u32 = 100;

/// The outbox entries that go into the transaction of a raised limit; the rest goes ahead of it.
const OUTBOX_AT_ONCE: usize = 90;

/// How often a lost race is run again before the caller is told.
pub(super) const RACES: u32 = 5;

/// How many queued tasks are cancelled at once.
const CANCELLED_AT_ONCE: usize = 8;

/// The part of the index where projects are that are being provisioned.
pub(super) const PROVISIONING: &str = "V";

/// A project as it was read.
pub(super) struct Known {
    pub(super) project: Project,
    pub(super) rev: u64,
}

/// The item of a project's slots.
pub(super) struct SlotsItem {
    /// The tasks that have a lease.
    pub(super) held: Vec<TaskId>,
    rev: u64,
}

impl Known {
    pub(super) fn of(item: &Item) -> PortResult<Self> {
        Ok(Self { project: body(item)?, rev: get_number(item, "rev").unwrap_or_default() })
    }
}

impl SlotsItem {
    pub(super) fn of(item: &Item) -> Self {
        let held = item.get("held").and_then(|held| held.as_ss().ok()).into_iter().flatten();
        Self {
            held: held.filter_map(|id| id.parse().ok()).collect(),
            rev: get_number(item, "rev").unwrap_or_default(),
        }
    }
}

pub(super) async fn create(change: &Change<'_>, project: &Project) -> PortResult<Project> {
    let store = change.store;
    let mut writes = Writes::new(&store.table);
    let mut record = item(Key::project(&project.id), attributes(project, 0)?);
    listed(&mut record, format!("P#{}", list_shard(project.nonce)), project.nonce.to_string());
    if project.state == ProjectState::Provisioning {
        due(&mut record, PROVISIONING.to_owned(), provisioning_since(project));
    }
    let place = writes.put_new(record);
    let mut slots =
        item(Key::slots(&project.id), [("limit", number(project.build_limit)), ("rev", number(0))]);
    if project.state == ProjectState::Deleting {
        slots.insert("closed".to_owned(), AttributeValue::Bool(true));
    }
    writes.put(slots);
    record_change(change, &mut writes, "project.created", &project.id)?;
    match store.transact(writes).await? {
        Ok(()) => Ok(project.clone()),
        Err(lost) => {
            let there = lost.item(place).map(Known::of).transpose()?;
            match there {
                Some(Known { project: there, .. }) if there.nonce == project.nonce => Ok(there),
                _ => Err(Conflict::ProjectExists.into()),
            }
        }
    }
}

pub(super) async fn update(
    change: &Change<'_>,
    id: &ProjectId,
    patch: &ProjectPatch,
) -> PortResult<(Project, Vec<OutboxEntry>)> {
    for race in 1..=RACES {
        let Known { project: before, rev } = change.store.known(id).await?;
        if before.state == ProjectState::Deleting {
            return Err(Conflict::ProjectNotReady.into());
        }
        let added = patch.build_limit.map_or(0, |limit| limit.saturating_sub(before.build_limit));
        let patch = patch.clone();
        let limit_changed = patch.build_limit.is_some_and(|limit| limit != before.build_limit);
        let project = before.patched(patch, change.now);
        let times = vec![change.now; added.min(MAX_MARKS) as usize];
        let (ahead, times) = times.split_at(times.len().saturating_sub(OUTBOX_AT_ONCE));
        let mut outbox = Vec::new();
        if !ahead.is_empty() {
            // More than a transaction takes. A wake-up too many does no harm; one that is
            // missing would.
            let mut writes = Writes::new(&change.store.table);
            outbox = write_outbox(change, &mut writes, id, ahead);
            let written = change.store.transact(writes).await?;
            debug_assert!(written.is_ok(), "there is no condition");
        }
        let mut writes = Writes::new(&change.store.table);
        write(&mut writes, &project, rev)?;
        if limit_changed {
            let limit = vec![(":limit", number(project.build_limit)), (":one", number(1))];
            writes.update(Key::slots(id), "SET #limit = :limit ADD #rev :one", "", limit);
        }
        record_change(change, &mut writes, "project.updated", id)?;
        outbox.extend(write_outbox(change, &mut writes, id, times));
        if change.store.transact(writes).await?.is_ok() {
            return Ok((project, outbox));
        }
        // What was written ahead is not told to anybody, and so is sent by the sweep.
        pause(race).await;
    }
    Err(Conflict::Contended.into())
}

/// Gives up a project that was `provisioning` at `since` or before; whether it did.
pub(super) async fn give_up_provisioning(
    change: &Change<'_>,
    item: &Item,
    since: Timestamp,
) -> PortResult<bool> {
    let Known { project, rev } = Known::of(item)?;
    if project.state != ProjectState::Provisioning || project.updated_at > since {
        return Ok(false);
    }
    let state = ProjectState::ProvisioningFailed;
    let project = Project { state, updated_at: change.now, ..project };
    let mut writes = Writes::new(&change.store.table);
    write(&mut writes, &project, rev)?;
    record_change(change, &mut writes, "project.provisioning_failed", &project.id)?;
    Ok(change.store.transact(writes).await?.is_ok())
}

/// Shuts a project and cancels what is queued.
pub(super) async fn begin_delete(change: &Change<'_>, id: &ProjectId) -> PortResult<Project> {
    let project = shut(change, id).await?;
    cancel_queued(change, id).await?;
    Ok(project)
}

async fn shut(change: &Change<'_>, id: &ProjectId) -> PortResult<Project> {
    let store = change.store;
    for race in 1..=RACES {
        let (known, slots) = store.project_and_slots(id).await?;
        if !slots.held.is_empty() || is_pushing(store, id).await? {
            return Err(Conflict::TasksRunning.into());
        }
        let Known { project, rev } = known;
        if project.state == ProjectState::Deleting {
            return Ok(project);
        }
        let project = Project { state: ProjectState::Deleting, updated_at: change.now, ..project };
        let mut writes = Writes::new(&store.table);
        write(&mut writes, &project, rev)?;
        // Whoever held a task since we looked, and left an unowned push, has changed this.
        writes.update(
            Key::slots(id),
            "SET #closed = :closed, #rev = :rev",
            "#rev = :seen AND attribute_not_exists(#held)",
            vec![
                (":closed", AttributeValue::Bool(true)),
                (":rev", number(slots.rev + 1)),
                (":seen", number(slots.rev)),
            ],
        );
        record_change(change, &mut writes, "project.deleting", id)?;
        if store.transact(writes).await?.is_ok() {
            return Ok(project);
        }
        pause(race).await;
    }
    Err(Conflict::Contended.into())
}

pub(super) async fn forget(change: &Change<'_>, id: &ProjectId) -> PortResult<()> {
    let Known { project, rev } = change.store.known(id).await?;
    if project.state != ProjectState::Deleting {
        return Err(Conflict::ProjectNotReady.into());
    }
    // A crash may have ended the cancelling half-way.
    cancel_queued(change, id).await?;
    domains::forget_all(change, id).await?;
    let mut writes = Writes::new(&change.store.table);
    writes.delete(Key::webhook(id), "", vec![]);
    writes.delete(Key::project(id), "#rev = :seen", vec![(":seen", number(rev))]);
    writes.delete(Key::slots(id), "", vec![]);
    record_change(change, &mut writes, "project.deleted", id)?;
    match change.store.transact(writes).await? {
        Ok(()) => Ok(()),
        // Nothing leaves `deleting` but another one of these.
        Err(_) => Err(not_found(id)),
    }
}

/// Whether there is an unowned push: it may be half done.
async fn is_pushing(store: &DynamoStore, id: &ProjectId) -> PortResult<bool> {
    let pushes = |from: &'static str, to: &'static str| Query {
        keys: "#pk = :pk AND #sk BETWEEN :from AND :to",
        filter: "#rank = :push",
        with: vec![
            (":pk", text(partition(id))),
            (":from", text(from)),
            (":to", text(to)),
            (":push", number(0)),
        ],
        ..Query::default()
    };
    let due = store.query_all(|| pushes("Q#0#", "Q#0$"));
    let later = store.query_all(|| pushes("R#", "R$"));
    let (due, later) = tokio::try_join!(due, later)?;
    Ok(!due.is_empty() || !later.is_empty())
}

async fn cancel_queued(change: &Change<'_>, id: &ProjectId) -> PortResult<()> {
    let queued = change
        .store
        .query_all(|| Query {
            keys: "#pk = :pk AND #sk BETWEEN :from AND :to",
            with: vec![(":pk", text(partition(id))), (":from", text("Q#")), (":to", text("R$"))],
            ..Query::default()
        })
        .await?;
    stream::iter(queued)
        .map(|entry| async move { cancel(change, Entry::of(&entry)?).await })
        .buffer_unordered(CANCELLED_AT_ONCE)
        .try_collect::<()>()
        .await
}

async fn cancel(change: &Change<'_>, entry: Entry) -> PortResult<()> {
    for race in 1..=RACES {
        let Some(row) = change.store.read_of(&entry.project, entry.task).await? else {
            return Ok(());
        };
        let done = match &row.found {
            Found::Task(record) if record.task.state == TaskState::Queued => {
                let step = step(&record.task, record.lease.as_ref(), Event::Cancel, change.now)?;
                let log = Encoded::default();
                transition::write(change, &row, step, &log, false).await?.is_some()
            }
            Found::Unreadable(unreadable) if !unreadable.state.is_terminal() => {
                transition::poison(change, &row, unreadable).await?.is_some()
            }
            // A push that nobody holds: not ours to end.
            Found::Task(record) if !record.task.state.is_terminal() => {
                return Err(Conflict::TasksRunning.into());
            }
            Found::Task(_) | Found::Unreadable(_) => true,
        };
        if done {
            return Ok(());
        }
        pause(race).await;
    }
    Err(Conflict::Contended.into())
}

fn attributes(project: &Project, rev: u64) -> PortResult<[(&'static str, AttributeValue); 3]> {
    let body = serde_json::to_string(project).map_err(error::defect)?;
    Ok([("body", text(body)), ("state", text(project.state.as_str())), ("rev", number(rev))])
}

/// Writes a project that was read at `seen`.
pub(super) fn write(writes: &mut Writes, project: &Project, seen: u64) -> PortResult<()> {
    let [(_, body), (_, state), (_, rev)] = attributes(project, seen + 1)?;
    let mut with: Values =
        vec![(":body", body), (":state", state), (":rev", rev), (":seen", number(seen))];
    let mut update = "SET #body = :body, #state = :state, #rev = :rev".to_owned();
    if project.state == ProjectState::Provisioning {
        update.push_str(", #dpk = :part, #dsk = :since");
        with.push((":part", text(PROVISIONING)));
        with.push((":since", text(provisioning_since(project))));
    } else {
        update.push_str(" REMOVE #dpk, #dsk");
    }
    writes.update(Key::project(&project.id), &update, "#rev = :seen", with);
    Ok(())
}

fn provisioning_since(project: &Project) -> String {
    format!("{}#{}", sortable(project.updated_at), project.id)
}

pub(super) fn record_change(
    change: &Change<'_>,
    writes: &mut Writes,
    action: &str,
    id: &ProjectId,
) -> PortResult<()> {
    let event = change.store.next_id(change.now);
    writes.put(audit::event(change, event, action, format!("project/{id}"), Some(id))?);
    Ok(())
}

impl DynamoStore {
    pub(super) async fn known(&self, id: &ProjectId) -> PortResult<Known> {
        let item = self.get(Key::project(id)).await?;
        Known::of(&item.ok_or_else(|| not_found(id))?)
    }

    async fn project_and_slots(&self, id: &ProjectId) -> PortResult<(Known, SlotsItem)> {
        let (mut known, mut slots) = (None, None);
        for item in self.get_all(vec![Key::project(id), Key::slots(id)]).await? {
            if get_text(&item, "sk") == Some(SLOTS) {
                slots = Some(SlotsItem::of(&item));
            } else {
                known = Some(Known::of(&item)?);
            }
        }
        let known = known.ok_or_else(|| not_found(id))?;
        Ok((known, slots.unwrap_or(SlotsItem { held: Vec::new(), rev: 0 })))
    }

    pub(super) async fn list_projects(&self, page: &Page) -> PortResult<Listed<Project>> {
        let lists = (0..LIST_SHARDS).map(|shard| format!("P#{shard}")).collect();
        let found = newest(self, lists, "", vec![], page).await?;
        let mut items = Vec::with_capacity(found.keys.len());
        for item in self.get_all(found.keys).await? {
            items.push(Known::of(&item)?.project);
        }
        items.sort_by_key(|project| std::cmp::Reverse(project.nonce));
        Ok(Listed { items, next: found.next })
    }
}

pub(super) fn not_found(id: &ProjectId) -> PortError {
    PortError::not_found(format!("project \"{id}\""))
}
