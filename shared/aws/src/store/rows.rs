//! How tasks and leases stand in items, and how a task is rebuilt whose record cannot be read.

use aws_sdk_dynamodb::types::AttributeValue;
use rdev_domain::Invalid;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::ids::{Fence, Owner, ProjectId, TaskId};
use rdev_domain::lease::Lease;
use rdev_domain::ports::{PortResult, TaskRecord};
use rdev_domain::result::Usage;
use rdev_domain::spec::{BuildSpec, CheckSpec, Work};
use rdev_domain::task::{Priority, QueuePlace, Task, TaskState};
use rdev_domain::time::Timestamp;
use ulid::Ulid;

use super::item::{
    Item, broken, due, get_flag, get_millis, get_number, get_text, item, key_of, listed, millis,
    number, text,
};
use crate::error;
use crate::schema::{self, Key, due_shard, list_shard, sortable};

/// A task as it was read, with all that a write must name of it.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) found: Found,
    /// Grows with every change of the task: a write says what it was made from.
    pub(super) rev: u64,
    /// The sort key of its queue entry.
    pub(super) place: Option<String>,
    pub(super) diff: Option<Diff>,
    /// When it goes; only a task that has ended does.
    pub(super) expires_at: Option<Timestamp>,
}

/// A task that was read.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// A task with its lease.
    Task(Box<TaskRecord>),
    /// Its body cannot be read.
    Unreadable(Box<Unreadable>),
}

/// What is known of a task whose body cannot be read: what stands beside it.
#[derive(Debug, Clone)]
pub(super) struct Unreadable {
    pub(super) id: TaskId,
    pub(super) project: ProjectId,
    pub(super) state: TaskState,
    pub(super) lease: Option<Lease>,
    kind: String,
    agent: String,
    priority: u8,
    available_at: Timestamp,
    notify: bool,
}

/// Which parts a task's diff has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Diff {
    pub(super) version: u64,
    pub(super) parts: u32,
}

impl Row {
    /// Reads a task's item; the lease is what was read with it.
    pub(super) fn of(item: &Item, lease: Option<Lease>) -> PortResult<Self> {
        let key = key_of(item);
        let id = schema::ulid_of(&key.sk).map(TaskId);
        let project = schema::project_of(&key.pk);
        let (Some(id), Some(project)) = (id, project) else { return Err(broken(item)) };
        let state = get_text(item, "state").and_then(state).ok_or_else(|| broken(item))?;
        let task = get_text(item, "body").and_then(|body| serde_json::from_str::<Task>(body).ok());
        let found = match task {
            Some(task) if task.id == id && task.project_id == project && task.state == state => {
                Found::Task(Box::new(TaskRecord { task, lease }))
            }
            _ => Found::Unreadable(Box::new(Unreadable {
                id,
                project,
                state,
                lease,
                kind: get_text(item, "kind").unwrap_or_default().to_owned(),
                agent: get_text(item, "agent").unwrap_or_default().to_owned(),
                priority: get_number(item, "priority").unwrap_or_default(),
                available_at: get_millis(item, "available_at").unwrap_or(Timestamp::from_millis(0)),
                notify: get_flag(item, "notify"),
            })),
        };
        Ok(Self {
            found,
            rev: get_number(item, "rev").unwrap_or_default(),
            place: get_text(item, "place").map(str::to_owned),
            diff: get_text(item, "diff").and_then(Diff::read),
            expires_at: get_number(item, schema::EXPIRES_AT)
                .map(|at: i64| Timestamp::from_millis(at.saturating_mul(1000))),
        })
    }

    /// The task; one that cannot be read as what stands beside it tells it.
    pub(super) fn into_record(self) -> TaskRecord {
        match self.found {
            Found::Task(record) => *record,
            Found::Unreadable(unreadable) => {
                let task = unreadable.rebuild();
                TaskRecord { task, lease: unreadable.lease }
            }
        }
    }
}

impl Unreadable {
    /// A task that says what is left, and that it is poison.
    pub(super) fn rebuild(&self) -> Task {
        let work = if self.kind == "check" {
            let timeout_s = BuildSpec::of("").timeout_s;
            Work::Check(CheckSpec { branch: None, commands: Vec::new(), timeout_s })
        } else {
            let mut spec = BuildSpec::of("");
            spec.agent = self.agent.parse().unwrap_or_default();
            Work::Build(spec)
        };
        let created = i64::try_from(self.id.0.timestamp_ms()).unwrap_or(i64::MAX);
        let created = Timestamp::from_millis(created);
        let mut task = Task::new(self.id, self.project.clone(), work, created);
        task.state = self.state;
        task.priority = Priority::try_from(self.priority).unwrap_or_default();
        task.available_at = self.available_at;
        task.notify = self.notify;
        task.fence = self.lease.as_ref().map_or(Fence(0), |lease| lease.fence);
        task.failure = Some(Failure::new(FailureClass::Poison, "the task's record cannot be read"));
        task
    }
}

impl Diff {
    pub(super) fn write(self) -> String {
        format!("{}#{}", self.version, self.parts)
    }

    fn read(text: &str) -> Option<Self> {
        let (version, parts) = text.split_once('#')?;
        Some(Self { version: version.parse().ok()?, parts: parts.parse().ok()? })
    }
}

fn state(text: &str) -> Option<TaskState> {
    TaskState::ALL.into_iter().find(|state| state.as_str() == text)
}

/// The item of a new task.
pub(super) fn new_task(task: &Task, place: Option<&str>) -> PortResult<Item> {
    let mut item = item(
        Key::task(&task.project_id, task.id),
        [
            ("body", text(serde_json::to_string(task).map_err(error::defect)?)),
            ("rev", number(0)),
            ("state", text(task.state.as_str())),
            ("kind", text(task.work.kind())),
            ("priority", number(u8::from(task.priority))),
            ("available_at", millis(task.available_at)),
        ],
    );
    if let Some(agent) = task.work.agent() {
        item.insert("agent".to_owned(), text(agent.as_str()));
    }
    if task.notify {
        // Beside the body, so that the end of one that cannot be read is told of too.
        item.insert("notify".to_owned(), AttributeValue::Bool(true));
    }
    if let Some(place) = place {
        item.insert("place".to_owned(), text(place));
    }
    listed(&mut item, format!("T#{}", list_shard(task.id.0)), task.id.to_string());
    Ok(item)
}

/// The sort key of the queue entry that a task is to have, if any.
pub(super) fn place_of(task: &Task, held: bool, now: Timestamp) -> Option<String> {
    Some(match task.queue_place(held, now)? {
        QueuePlace::Due { rank, priority, id } => due_place(rank, priority, id.0),
        QueuePlace::Later { at, id } => format!("R#{}#{id}", sortable(at)),
    })
}

fn due_place(rank: u8, priority: u8, id: Ulid) -> String {
    format!("Q#{rank}#{priority}#{id}")
}

/// The entry in that place of the queue.
pub(super) fn new_entry(task: &Task, place: &str) -> Item {
    let push = task.state == TaskState::Pushing;
    let agent = if push { None } else { task.work.agent() };
    let entry = Entry {
        project: task.project_id.clone(),
        place: place.to_owned(),
        task: task.id,
        agent: agent.map(|agent| agent.as_str().to_owned()),
        rank: u8::from(!push),
        priority: 9 - u8::from(task.priority),
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
    pub(super) rank: u8,
    pub(super) priority: u8,
    /// Since when it is due, or from when on.
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
                rank: get_number(item, "rank")?,
                priority: get_number(item, "priority")?,
                at: get_millis(item, "at")?,
                place: key.sk.clone(),
            })
        };
        read().ok_or_else(|| broken(item))
    }

    pub(super) fn item(&self) -> Item {
        let mut item = item(
            Key::entry(&self.project, &self.place),
            [
                ("rank", number(self.rank)),
                ("priority", number(self.priority)),
                ("at", millis(self.at)),
            ],
        );
        if let Some(agent) = &self.agent {
            item.insert("agent".to_owned(), text(agent));
        }
        let part = if self.place.starts_with('Q') { "Q" } else { "R" };
        let by = format!("{}#{}", sortable(self.at), self.task);
        due(&mut item, format!("{part}#{}", due_shard(self.task.0)), by);
        item
    }

    /// The same one among what is due.
    pub(super) fn promoted(self) -> Self {
        Self { place: due_place(self.rank, self.priority, self.task.0), ..self }
    }

    /// What is claimed first is the least.
    pub(super) fn order(&self) -> (u8, u8, TaskId) {
        (self.rank, self.priority, self.task)
    }
}

/// The part of the index where a lease is that is held in this state.
pub(super) fn lease_part(state: TaskState, id: TaskId) -> String {
    format!("H#{}#{}", state.as_str(), due_shard(id.0))
}

/// The item of a lease that is taken.
pub(super) fn new_lease(task: &Task, lease: &Lease) -> PortResult<Item> {
    let mut item = item(
        Key::lease(task.id),
        [
            ("project", text(task.project_id.as_str())),
            ("fence", number(lease.fence)),
            ("owner", text(lease.owner.as_str())),
            ("heartbeat", number(lease.heartbeat)),
            ("until", millis(lease.until)),
            ("cancel", AttributeValue::Bool(lease.cancel_requested)),
            ("usage", usage(&lease.usage)?),
        ],
    );
    due(&mut item, lease_part(task.state, task.id), task.id.to_string());
    Ok(item)
}

pub(super) fn usage(usage: &Usage) -> PortResult<AttributeValue> {
    Ok(text(serde_json::to_string(usage).map_err(error::defect)?))
}

/// Reads a lease's item.
pub(super) fn lease(item: &Item) -> PortResult<Lease> {
    let read = || {
        let owner = owner(get_text(item, "owner")?).ok()?;
        Some(Lease {
            fence: Fence(get_number(item, "fence")?),
            owner,
            heartbeat: get_number(item, "heartbeat")?,
            until: get_millis(item, "until")?,
            cancel_requested: get_flag(item, "cancel"),
            usage: serde_json::from_str(get_text(item, "usage")?).ok()?,
        })
    };
    read().ok_or_else(|| broken(item))
}

/// Reads what [`Owner::new`] makes. A worker's id never holds a `/`.
fn owner(text: &str) -> Result<Owner, Invalid> {
    let (worker, process) =
        text.split_once('/').ok_or_else(|| Invalid::new("lease owner", "must have a '/'"))?;
    Ok(Owner::new(&worker.parse()?, process))
}
