//! Reading and writing tasks and leases as items, and rebuilding a task whose record is corrupt.

use aws_sdk_dynamodb::types::AttributeValue;
use rdev_domain::Invalid;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::RecordedRef;
use rdev_domain::ids::{Fence, Owner, ProjectId, TaskId};
use rdev_domain::lease::Lease;
use rdev_domain::ports::{PortResult, TaskRecord};
use rdev_domain::record::{self, Decoded, Format};
use rdev_domain::result::Usage;
use rdev_domain::spec::Work;
use rdev_domain::task::{Priority, Task, TaskState};
use rdev_domain::time::Timestamp;
use ulid::Ulid;

use super::item::{
    Item, add_to_due, add_to_list, corrupt, get_flag, get_millis, get_number, get_text, item,
    key_of, millis, number, text,
};
use super::item_size;
use crate::error;
use crate::schema::{self, Key, due_shard, list_shard};

/// A task as it was read, with everything that a write needs to know of it.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) found: Found,
    /// Grows with every change of the task: the condition of every write.
    pub(super) rev: u64,
    /// The sort key of its queue entry.
    pub(super) place: Option<String>,
    pub(super) diff: Option<Diff>,
    /// Set once the task has ended.
    pub(super) expires_at: Option<Timestamp>,
}

/// A task that was read.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// A task with its lease.
    Task(Box<TaskRecord>),
    /// A task whose body cannot be decoded.
    Corrupt(Box<CorruptTask>),
    /// A task whose body a newer program wrote. Nothing here changes it.
    Newer(Box<CorruptTask>),
}

/// A task whose body this program cannot decode. The attributes beside the body are still known.
#[derive(Debug, Clone)]
pub(super) struct CorruptTask {
    pub(super) id: TaskId,
    pub(super) project: ProjectId,
    pub(super) state: TaskState,
    pub(super) lease: Option<Lease>,
    kind: String,
    agent: String,
    priority: u8,
    available_at: Timestamp,
    notify: bool,
    project_nonce: Ulid,
}

/// Where the parts of a task's diff are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Diff {
    pub(super) version: u64,
    pub(super) parts: u32,
}

impl Row {
    /// Reads a task's item, as a program of the format does. `lease` was read together with it.
    pub(super) fn of(item: &Item, lease: Option<StoredLease>, format: Format) -> PortResult<Self> {
        let key = key_of(item);
        let id = schema::ulid_of(&key.sk).map(TaskId);
        let project = schema::project_of(&key.pk);
        let (Some(id), Some(project)) = (id, project) else { return Err(corrupt(item)) };
        let whole = lease.as_ref().is_none_or(|lease| lease.whole);
        let lease = lease.map(|stored| stored.lease);
        let known = get_text(item, "state").and_then(state);
        // Of a task whose state cannot be read, only whether somebody holds it is known.
        let guess = if lease.is_some() { TaskState::Running } else { TaskState::Queued };
        let readable = whole && known.is_some();
        let state = known.unwrap_or(guess);
        let body = get_text(item, "body");
        let decoded = body.map_or(Decoded::Undecodable, |body| format.decode(body.as_bytes()));
        let newer = decoded == Decoded::Newer;
        let task = match decoded {
            Decoded::Task(task) => Some(task),
            // A task that has ended is only shown.
            Decoded::UnreadableWork(task) => Some(task).filter(|task| task.state.is_terminal()),
            Decoded::Newer | Decoded::Undecodable => None,
        };
        let agrees =
            |task: &Task| task.id == id && task.project_id == project && task.state == state;
        let found = match task.filter(|task| readable && agrees(task)) {
            Some(task) => Found::Task(Box::new(TaskRecord { task: *task, lease })),
            None => {
                let attributes = Box::new(CorruptTask {
                    id,
                    project,
                    state,
                    lease,
                    kind: get_text(item, "kind").unwrap_or_default().to_owned(),
                    agent: get_text(item, "agent").unwrap_or_default().to_owned(),
                    priority: get_number(item, "priority").unwrap_or_default(),
                    available_at: get_millis(item, "available_at")
                        .unwrap_or(Timestamp::from_millis(0)),
                    notify: get_flag(item, "notify"),
                    project_nonce: get_text(item, "project_nonce")
                        .and_then(|nonce| nonce.parse().ok())
                        .unwrap_or_default(),
                });
                if newer { Found::Newer(attributes) } else { Found::Corrupt(attributes) }
            }
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

    /// The task. A corrupt one is rebuilt from its attributes.
    pub(super) fn into_record(self) -> TaskRecord {
        match self.found {
            Found::Task(record) => *record,
            Found::Corrupt(corrupt) => {
                let task = corrupt.rebuild();
                TaskRecord { task, lease: corrupt.lease }
            }
            Found::Newer(newer) => {
                let task = newer.with_work(record::unreadable_work(&newer.kind));
                TaskRecord { task, lease: newer.lease }
            }
        }
    }
}

impl Found {
    pub(super) fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Task(record) => record.lease.as_ref(),
            Self::Corrupt(task) | Self::Newer(task) => task.lease.as_ref(),
        }
    }

    pub(super) fn state(&self) -> TaskState {
        match self {
            Self::Task(record) => record.task.state,
            Self::Corrupt(task) | Self::Newer(task) => task.state,
        }
    }
}

impl CorruptTask {
    /// A task that can be read and not be written.
    pub(super) fn of(record: &TaskRecord) -> Self {
        let TaskRecord { task, lease } = record;
        Self {
            id: task.id,
            project: task.project_id.clone(),
            state: task.state,
            lease: lease.clone(),
            kind: task.work.kind().to_owned(),
            agent: task.work.agent().map_or_else(String::new, |agent| agent.as_str().to_owned()),
            priority: u8::from(task.priority),
            available_at: task.available_at,
            notify: task.notify,
            project_nonce: task.project_nonce,
        }
    }

    /// A task with the values of the attributes, and `poison` as its failure.
    pub(super) fn rebuild(&self) -> Task {
        let mut task = self.with_work(record::work_beside_body(&self.kind, &self.agent));
        let failure = Failure::new(FailureClass::Poison, "the task's record cannot be read");
        // What cannot be read may have been pushed, and may still land.
        let push_in_doubt = self.state == TaskState::Pushing;
        task.failure = Some(Failure { push_in_doubt, ..failure });
        task
    }

    fn with_work(&self, work: Work) -> Task {
        let created = i64::try_from(self.id.0.timestamp_ms()).unwrap_or(i64::MAX);
        let created = Timestamp::from_millis(created);
        let mut task = Task::new(self.id, self.project.clone(), work, created);
        task.state = self.state;
        task.priority = Priority::try_from(self.priority).unwrap_or_default();
        task.available_at = self.available_at;
        task.notify = self.notify;
        task.project_nonce = self.project_nonce;
        task.fence = self.lease.as_ref().map_or(Fence(0), |lease| lease.fence);
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
pub(super) fn new_task(task: &Task, place: Option<&str>, format: Format) -> PortResult<Item> {
    let mut item = item(
        Key::task(&task.project_id, task.id),
        [
            ("body", text(item_size::encode_new(task, format)?)),
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
        // Beside the body, so that the end of a corrupt task is reported too.
        item.insert("notify".to_owned(), AttributeValue::Bool(true));
    }
    if !task.project_nonce.is_nil() {
        item.insert("project_nonce".to_owned(), text(task.project_nonce.to_string()));
    }
    if let Some(place) = place {
        item.insert("place".to_owned(), text(place));
    }
    add_to_list(&mut item, format!("T#{}", list_shard(task.id.0)), task.id.to_string());
    Ok(item)
}

/// The part of the due index that contains the lease of a task in this state.
pub(super) fn lease_part(state: TaskState, id: TaskId) -> String {
    format!("H#{}#{}", state.as_str(), due_shard(id.0))
}

/// The item of a new lease.
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
    add_to_due(&mut item, lease_part(task.state, task.id), task.id.to_string());
    Ok(item)
}

pub(super) fn usage(usage: &Usage) -> PortResult<AttributeValue> {
    Ok(text(serde_json::to_string(usage).map_err(error::defect)?))
}

pub(super) fn own_refs(refs: &[RecordedRef]) -> PortResult<AttributeValue> {
    Ok(text(serde_json::to_string(refs).map_err(error::defect)?))
}

/// A lease that was read.
#[derive(Debug, Clone)]
pub(super) struct StoredLease {
    pub(super) lease: Lease,
    /// Everything in it could be read. Of one that is not whole, the holder and the end are known.
    pub(super) whole: bool,
}

/// Reads a lease's item.
pub(super) fn lease(item: &Item) -> PortResult<StoredLease> {
    let usage = get_text(item, "usage").and_then(|usage| serde_json::from_str(usage).ok());
    let own_refs = get_text(item, "refs").map(serde_json::from_str).transpose();
    let whole = usage.is_some() && own_refs.is_ok();
    let read = || {
        Some(Lease {
            fence: Fence(get_number(item, "fence")?),
            owner: owner(get_text(item, "owner")?).ok()?,
            heartbeat: get_number(item, "heartbeat")?,
            until: get_millis(item, "until")?,
            cancel_requested: get_flag(item, "cancel"),
            usage: usage.unwrap_or_default(),
            own_refs: own_refs.unwrap_or_default(),
        })
    };
    let lease = read().ok_or_else(|| corrupt(item))?;
    Ok(StoredLease { lease, whole })
}

/// Reads the text of an [`Owner`]. A worker's id never contains a `/`.
fn owner(text: &str) -> Result<Owner, Invalid> {
    let (worker, process) =
        text.split_once('/').ok_or_else(|| Invalid::new("lease owner", "must have a '/'"))?;
    Ok(Owner::new(&worker.parse()?, process))
}
