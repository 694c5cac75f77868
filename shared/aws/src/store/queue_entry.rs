//! The entries of a project's queue. Its two parts are what is due, and what is due later.

use std::collections::BTreeSet;

use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::ports::PortResult;
use rdev_domain::spec::AgentName;
use rdev_domain::task::{Priority, QueuePlace, Task, TaskState, rank};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::DueAgents;
use ulid::Ulid;

use super::context::Change;
use super::counts::{self, Moved};
use super::indexes::{self, Pages};
use super::item::{
    Item, add_to_due, corrupt, get_millis, get_number, get_text, item, key_of, millis, number, text,
};
use super::table::Query;
use crate::error::alone;
use crate::schema::{self, DUE_SHARDS, Key, due_shard, sortable};

/// The sort key of the queue entry of a task, if its state gives it one.
pub(super) fn place_of(task: &Task, leased: bool, now: Timestamp) -> Option<String> {
    Some(match task.queue_place(leased, now)? {
        QueuePlace::Due { class, rank, id } => due_place(class, rank, id.0),
        QueuePlace::Later { at, id } => format!("R#{}#{id}", sortable(at)),
    })
}

fn due_place(class: u8, rank: Timestamp, id: Ulid) -> String {
    format!("Q#{class}#{}#{id}", sortable(rank))
}

/// Whether a queue entry's sort key is in the due part of the queue.
pub(super) fn is_due(place: &str) -> bool {
    place.starts_with("Q#")
}

/// The item of the queue entry in this place.
pub(super) fn new_entry(task: &Task, place: &str) -> Item {
    let push = task.state == TaskState::Pushing;
    let agent = if push { None } else { task.work.agent() };
    let entry = Entry {
        project: task.project_id.clone(),
        place: place.to_owned(),
        task: task.id,
        agent: agent.map(|agent| agent.as_str().to_owned()),
        class: u8::from(!push),
        priority: task.priority,
        at: task.available_at,
    };
    entry.item()
}

/// An entry of a project's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) project: ProjectId,
    pub(super) place: String,
    pub(super) task: TaskId,
    /// The agent that a runner must offer.
    pub(super) agent: Option<String>,
    /// 0 for an unowned push, 1 for the rest.
    pub(super) class: u8,
    priority: Priority,
    /// The time at which it has become due, or will.
    pub(super) at: Timestamp,
}

impl Entry {
    pub(super) fn of(item: &Item) -> PortResult<Self> {
        let key = key_of(item);
        let read = || {
            Some(Self {
                project: schema::project_of(&key.pk)?,
                task: TaskId(schema::ulid_of(&key.sk)?),
                agent: get_text(item, "agent").map(str::to_owned),
                class: get_number(item, "rank")?,
                // Stored as 9 - priority.
                priority: get_number::<u8>(item, "priority")
                    .and_then(|sorted| Priority::try_from(9 - sorted.min(9)).ok())?,
                at: get_millis(item, "at")?,
                place: key.sk.clone(),
            })
        };
        read().ok_or_else(|| corrupt(item))
    }

    pub(super) fn item(&self) -> Item {
        let mut item = item(
            Key::queue_entry(&self.project, &self.place),
            [
                ("rank", number(self.class)),
                ("priority", number(9 - u8::from(self.priority))),
                ("at", millis(self.at)),
            ],
        );
        if let Some(agent) = &self.agent {
            item.insert("agent".to_owned(), text(agent));
        }
        let part = if is_due(&self.place) { "Q" } else { "R" };
        let by = format!("{}#{}", sortable(self.at), self.task);
        add_to_due(&mut item, format!("{part}#{}", due_shard(self.task.0)), by);
        item
    }

    /// The same entry in the due part of the queue.
    pub(super) fn promoted(self) -> Self {
        Self { place: due_place(self.class, self.rank(), self.task.0), ..self }
    }

    /// The agent, if this program knows it. A newer program's runners find what it is for.
    pub(super) fn agent(&self) -> Option<AgentName> {
        self.agent.as_deref().and_then(|agent| agent.parse().ok())
    }

    fn rank(&self) -> Timestamp {
        rank(self.at, self.priority)
    }

    /// The least entry is claimed first. Entries that an earlier version wrote have another sort
    /// key, but the same order.
    pub(super) fn order(&self) -> (u8, Timestamp, TaskId) {
        (self.class, self.rank(), self.task)
    }
}

/// How much of a queue is looked at when a slot is freed: as much as a claim looks at first.
pub(super) const AT_A_GLANCE: u32 = 100;

/// How much of it is looked at when it matters that many tasks for an absent agent hide no others.
pub(super) const FAR: u32 = 500;

/// The agents of the first `limit` due tasks of the project.
pub(super) async fn due_agents(
    change: &Change<'_>,
    project: &ProjectId,
    limit: u32,
) -> PortResult<DueAgents> {
    let to = format!("R#{}~", sortable(change.now));
    let query = Query { limit: Some(limit), ..Query::between(project, "Q#", &to) };
    let found = change.context.table.query(query).await?;
    // The clock may have gone back since an entry became due.
    let due = |item: &&Item| get_millis(item, "at").is_none_or(|at| at <= change.now);
    let agent = |item: &Item| get_text(item, "agent").and_then(|agent| agent.parse().ok());
    let due: DueAgents = found.items.iter().filter(due).map(agent).collect();
    Ok(DueAgents { more: found.last.is_some(), ..due })
}

/// Moves up to `limit` entries that have become due to the due part of their queues. Returns the
/// projects, and whether there may be more. An entry that cannot be moved stops no other.
pub(super) async fn promote(
    change: &Change<'_>,
    limit: usize,
) -> PortResult<(BTreeSet<ProjectId>, bool)> {
    let mut projects = BTreeSet::new();
    let mut moved = 0;
    for shard in 0..DUE_SHARDS {
        let due = indexes::due(format!("R#{shard}"), Some(change.now));
        let mut pages = Pages::of(change.context, due);
        while let Some(keys) = pages.next().await? {
            for item in change.context.table.get_all(keys.iter().map(key_of).collect()).await? {
                if moved == limit {
                    return Ok((projects, true));
                }
                let project = alone(&key_of(&item), promote_one(change, &item).await)?.flatten();
                moved += usize::from(project.is_some());
                projects.extend(project);
            }
        }
    }
    Ok((projects, false))
}

/// Whether an entry of the due part has the sort key that an earlier version gave it: it sorts
/// behind all others, and a claim may not read so far.
pub(super) fn is_misplaced(item: &Item) -> bool {
    let place = get_text(item, "sk").unwrap_or_default();
    is_due(place)
        && place
            .split('#')
            .nth(2)
            .is_some_and(|rank| rank.len() < sortable(Timestamp::from_millis(0)).len())
}

/// Moves an entry to its place in the due part. Returns its project, or `None` if the task was
/// claimed or cancelled meanwhile.
pub(super) async fn promote_one(change: &Change<'_>, item: &Item) -> PortResult<Option<ProjectId>> {
    let entry = Entry::of(item)?;
    let (from, project, task) = (entry.place.clone(), entry.project.clone(), entry.task);
    let entry = entry.promoted();
    let mut writes = change.context.table.writes();
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
    writes.delete(Key::queue_entry(&project, &from), "", vec![]);
    writes.put(entry.item());
    counts::write(&mut writes, &project, Moved::between(Some(&from), Some(&entry.place)));
    Ok(change.context.table.transact(writes).await?.is_ok().then_some(project))
}
