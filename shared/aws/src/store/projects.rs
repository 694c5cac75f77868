//! Projects. Each project has a second item for its slots: the tasks that have a lease, how many
//! may have one, and whether the project is closed. Claims and ends of tasks change only that item.

use aws_sdk_dynamodb::types::AttributeValue;
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::{Conflict, PortError, PortResult};
use rdev_domain::project::{Project, ProjectPatch, ProjectState};
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use rdev_domain::turn::Turn;
use rdev_domain::wake_up::OutboxEntry;

use super::context::{Change, Context};
use super::item::{
    Item, Values, add_to_due, add_to_list, body, get_flag, get_millis, get_number, get_text, item,
    millis, number, text,
};
use super::newest::{self, Filter};
use super::table::pause;
use super::writes::Writes;
use super::{audit, outbox, queue_entry, turns};
use crate::error;
use crate::schema::{Key, LIST_SHARDS, list_shard, sortable};

/// The most outbox entries in the transaction of a raised limit. The others are written before.
const OUTBOX_AT_ONCE: usize = 90;

/// How many times an operation is tried that races with another one.
pub(super) const MAX_RACES: u32 = 5;

/// The part of the due index with the projects that are being provisioned or deleted.
pub(super) const UNFINISHED: &str = "V";

/// A project and the rev at which it was read.
pub(super) struct StoredProject {
    pub(super) project: Project,
    pub(super) rev: u64,
}

/// The item of a project's slots.
pub(super) struct SlotsItem {
    /// The tasks that have a lease.
    pub(super) leased: Vec<TaskId>,
    /// How many tasks may have one.
    pub(super) limit: u32,
    /// The project is being deleted.
    pub(super) closed: bool,
    /// When its latest claim was.
    pub(super) served: Option<Timestamp>,
    /// The item is in the index of projects with something due.
    pub(super) waits: bool,
    /// How many entries the due part of its queue has.
    pub(super) queued: i64,
    /// How many entries the later part of its queue has.
    pub(super) parked: i64,
    /// When its entries were counted last; `None`: never, by the version that wrote the item.
    pub(super) counted: Option<Timestamp>,
    pub(super) rev: u64,
}

impl StoredProject {
    pub(super) fn of(item: &Item) -> PortResult<Self> {
        Ok(Self { project: body(item)?, rev: get_number(item, "rev").unwrap_or_default() })
    }
}

impl SlotsItem {
    pub(super) fn of(item: &Item) -> Self {
        let leased = item.get("held").and_then(|ids| ids.as_ss().ok()).into_iter().flatten();
        Self {
            leased: leased.filter_map(|id| id.parse().ok()).collect(),
            limit: get_number(item, "limit").unwrap_or_default(),
            closed: get_flag(item, "closed"),
            served: get_millis(item, "served"),
            waits: get_text(item, "dpk") == Some(turns::PART),
            queued: get_number(item, "queued").unwrap_or_default(),
            parked: get_number(item, "parked").unwrap_or_default(),
            counted: get_millis(item, "counted"),
            rev: get_number(item, "rev").unwrap_or_default(),
        }
    }

    /// How many tasks have a lease.
    pub(super) fn held(&self) -> u32 {
        u32::try_from(self.leased.len()).unwrap_or(u32::MAX)
    }

    /// Whether a task of the project could be claimed.
    pub(super) fn has_free_slot(&self) -> bool {
        !self.closed && self.held() < self.limit
    }

    pub(super) fn turn(&self, project: ProjectId) -> Turn {
        Turn { held: self.held(), served: self.served, project }
    }
}

pub(super) async fn create(change: &Change<'_>, project: &Project) -> PortResult<Project> {
    let context = change.context;
    let mut writes = context.table.writes();
    let mut record = item(Key::project(&project.id), attributes(project, 0)?);
    add_to_list(&mut record, format!("P#{}", list_shard(project.nonce)), project.nonce.to_string());
    if is_unfinished(project.state) {
        add_to_due(&mut record, UNFINISHED.to_owned(), unchanged_since(project));
    }
    let place = writes.put_new(record);
    let mut slots = item(
        Key::slots(&project.id),
        [
            ("limit", number(project.build_limit)),
            ("rev", number(0)),
            ("counted", millis(change.now)),
        ],
    );
    if project.state == ProjectState::Deleting {
        slots.insert("closed".to_owned(), AttributeValue::Bool(true));
    }
    writes.put(slots);
    record_change(change, &mut writes, "project.created", &project.id)?;
    match context.table.transact(writes).await? {
        Ok(()) => Ok(project.clone()),
        Err(cancelled) => {
            let there = cancelled.item(place).map(StoredProject::of).transpose()?;
            match there {
                Some(StoredProject { project: there, .. }) if there.nonce == project.nonce => {
                    Ok(there)
                }
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
    for race in 1..=MAX_RACES {
        let StoredProject { project: before, rev } = find(change.context, id).await?;
        if before.state == ProjectState::Deleting {
            return Err(Conflict::ProjectNotReady.into());
        }
        if !before.is_at(patch.expected.as_ref()) {
            return Err(Conflict::ProjectChanged.into());
        }
        let added = patch.build_limit.map_or(0, |limit| limit.saturating_sub(before.build_limit));
        let patch = patch.clone();
        let limit_changed = patch.build_limit.is_some_and(|limit| limit != before.build_limit);
        let project = before.patched(patch, change.now);
        let agents = match added {
            0 => Vec::new(),
            _ => queue_entry::due_agents(change, id, queue_entry::FAR).await?.for_slots(added),
        };
        let wake_ups: Vec<_> = agents.into_iter().map(|agent| (agent, change.now)).collect();
        let (ahead, wake_ups) = wake_ups.split_at(wake_ups.len().saturating_sub(OUTBOX_AT_ONCE));
        let mut outbox = Vec::new();
        if !ahead.is_empty() {
            // They are too many for one transaction. A superfluous wake-up does no harm, a
            // missing one would.
            let mut writes = change.context.table.writes();
            outbox = outbox::write(change, &mut writes, id, ahead);
            let written = change.context.table.transact(writes).await?;
            debug_assert!(written.is_ok(), "there is no condition");
        }
        let mut writes = change.context.table.writes();
        write(&mut writes, &project, rev)?;
        if limit_changed {
            let limit = vec![(":limit", number(project.build_limit)), (":one", number(1))];
            writes.update(Key::slots(id), "SET #limit = :limit ADD #rev :one", "", limit);
        }
        record_change(change, &mut writes, "project.updated", id)?;
        outbox.extend(outbox::write(change, &mut writes, id, wake_ups));
        if change.context.table.transact(writes).await?.is_ok() {
            return Ok((project, outbox));
        }
        // The sweep sends the entries that were written before: the caller does not get them.
        pause(race).await;
    }
    Err(Conflict::Contended.into())
}

/// Turns a project that has been `provisioning` since `since` or longer into
/// `provisioning_failed`. Returns whether it did.
pub(super) async fn fail_stuck_provisioning(
    change: &Change<'_>,
    item: &Item,
    since: Timestamp,
) -> PortResult<bool> {
    let StoredProject { project, rev } = StoredProject::of(item)?;
    if project.state != ProjectState::Provisioning || project.updated_at > since {
        return Ok(false);
    }
    let state = ProjectState::ProvisioningFailed;
    let project = Project { state, updated_at: change.now, ..project };
    let mut writes = change.context.table.writes();
    write(&mut writes, &project, rev)?;
    record_change(change, &mut writes, "project.provisioning_failed", &project.id)?;
    Ok(change.context.table.transact(writes).await?.is_ok())
}

fn attributes(project: &Project, rev: u64) -> PortResult<[(&'static str, AttributeValue); 3]> {
    let body = serde_json::to_string(project).map_err(error::defect)?;
    Ok([("body", text(body)), ("state", text(project.state.as_str())), ("rev", number(rev))])
}

/// Writes a project that was read at the rev `seen`.
pub(super) fn write(writes: &mut Writes, project: &Project, seen: u64) -> PortResult<()> {
    let [(_, body), (_, state), (_, rev)] = attributes(project, seen + 1)?;
    let mut with: Values =
        vec![(":body", body), (":state", state), (":rev", rev), (":seen", number(seen))];
    let mut update = "SET #body = :body, #state = :state, #rev = :rev".to_owned();
    if is_unfinished(project.state) {
        update.push_str(", #dpk = :part, #dsk = :since");
        with.push((":part", text(UNFINISHED)));
        with.push((":since", text(unchanged_since(project))));
    } else {
        update.push_str(" REMOVE #dpk, #dsk");
    }
    writes.update(Key::project(&project.id), &update, "#rev = :seen", with);
    Ok(())
}

/// Whether somebody provisions or deletes a project in this state.
fn is_unfinished(state: ProjectState) -> bool {
    match state {
        ProjectState::Provisioning | ProjectState::Deleting => true,
        ProjectState::Ready | ProjectState::ProvisioningFailed => false,
    }
}

fn unchanged_since(project: &Project) -> String {
    format!("{}#{}", sortable(project.updated_at), project.id)
}

pub(super) fn record_change(
    change: &Change<'_>,
    writes: &mut Writes,
    action: &str,
    id: &ProjectId,
) -> PortResult<()> {
    let event = change.context.next_id(change.now);
    writes.put(audit::event(change, event, action, format!("project/{id}"), Some(id))?);
    Ok(())
}

pub(super) async fn find(context: &Context, id: &ProjectId) -> PortResult<StoredProject> {
    let item = context.table.get(Key::project(id)).await?;
    StoredProject::of(&item.ok_or_else(|| not_found(id))?)
}

pub(super) async fn get(context: &Context, id: &ProjectId) -> PortResult<Project> {
    Ok(find(context, id).await?.project)
}

pub(super) async fn list(context: &Context, page: &Page) -> PortResult<Listed<Project>> {
    let lists = (0..LIST_SHARDS).map(|shard| format!("P#{shard}")).collect();
    let found = newest::in_lists(context, lists, Filter::default(), page).await?;
    let mut items = Vec::with_capacity(found.keys.len());
    for item in context.table.get_all(found.keys).await? {
        items.push(StoredProject::of(&item)?.project);
    }
    items.sort_by_key(|project| std::cmp::Reverse(project.nonce));
    Ok(Listed { items, next: found.next })
}

/// Whether a task may be queued. Errors: `NotFound`; `Conflict(ProjectNotReady)`;
/// `Conflict(ProjectReplaced)`.
pub(super) async fn check_takes(context: &Context, task: &Task) -> PortResult<()> {
    let project = get(context, &task.project_id).await?;
    if project.state != ProjectState::Ready {
        return Err(Conflict::ProjectNotReady.into());
    }
    if !project.owns_task(task) {
        return Err(Conflict::ProjectReplaced.into());
    }
    Ok(())
}

pub(super) fn not_found(id: &ProjectId) -> PortError {
    PortError::not_found(format!("project \"{id}\""))
}
