//! Reading and writing records as rows, and rebuilding a task whose record is corrupt.

use rdev_domain::Invalid;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::RecordedRef;
use rdev_domain::ids::{Fence, Owner, ProjectId, TaskId};
use rdev_domain::lease::Lease;
use rdev_domain::page::Page;
use rdev_domain::ports::{PortError, TaskRecord};
use rdev_domain::record::{self, Decoded, Format};
use rdev_domain::result::Usage;
use rdev_domain::spec::Work;
use rdev_domain::task::{Priority, Task, TaskState};
use rdev_domain::time::Timestamp;
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};
use ulid::Ulid;

use super::transaction::Tx;
use crate::error::Error;

/// The columns that [`found`] reads: a task `t` and its lease `l`.
pub(super) const FROM_TASKS: &str = "t.id, t.project, t.kind, t.agent, t.state, t.priority,
    t.available_at, t.body, l.fence, l.owner, l.heartbeat, l.until, l.cancel_requested, l.usage,
    t.notify, l.own_refs, t.project_nonce FROM tasks t LEFT JOIN leases l ON l.project = t.project AND l.task = t.id";

/// A task's row.
pub(super) enum Found {
    /// A task with its lease.
    Task(Box<TaskRecord>),
    /// A task whose body cannot be decoded.
    Corrupt(CorruptTask),
    /// A task whose body a newer program wrote. Nothing here changes it.
    Newer(CorruptTask),
}

/// A task whose body this program cannot decode. Its columns are still known.
pub(super) struct CorruptTask {
    pub(super) id: TaskId,
    pub(super) project: ProjectId,
    pub(super) kind: String,
    pub(super) agent: String,
    pub(super) state: TaskState,
    pub(super) priority: Priority,
    pub(super) available_at: Timestamp,
    pub(super) notify: bool,
    pub(super) project_nonce: Ulid,
    pub(super) lease: Option<Lease>,
}

impl Found {
    /// The task. A corrupt one is rebuilt from its columns.
    pub(super) fn into_record(self) -> TaskRecord {
        match self {
            Self::Task(record) => *record,
            Self::Corrupt(corrupt) => {
                let task = corrupt.rebuild();
                TaskRecord { task, lease: corrupt.lease }
            }
            Self::Newer(newer) => {
                let task = newer.with_work(record::unreadable_work(&newer.kind));
                TaskRecord { task, lease: newer.lease }
            }
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
            kind: task.work.kind().to_owned(),
            agent: task.work.agent().map_or_else(String::new, |agent| agent.as_str().to_owned()),
            state: task.state,
            priority: task.priority,
            project_nonce: task.project_nonce,
            available_at: task.available_at,
            notify: task.notify,
            lease: lease.clone(),
        }
    }

    /// A task with the values of the columns, and `poison` as its failure.
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
        task.priority = self.priority;
        task.available_at = self.available_at;
        task.notify = self.notify;
        task.project_nonce = self.project_nonce;
        task.fence = self.lease.as_ref().map_or(Fence(0), |lease| lease.fence);
        task
    }
}

/// One task. `None` if it does not exist, or had expired at `latest`.
pub(super) fn find(
    conn: &Connection,
    id: TaskId,
    latest: Timestamp,
    format: Format,
) -> Result<Option<Found>, Error> {
    let mut one = conn.prepare_cached(&format!(
        "SELECT {FROM_TASKS} WHERE t.id = ?1 AND (t.expires_at IS NULL OR t.expires_at > ?2)"
    ))?;
    let one = one.query_row(params![blob(id.0), latest.as_millis()], |row| found(row, format));
    Ok(one.optional()?)
}

/// One task, expired or not.
pub(super) fn find_any(tx: &Tx<'_>, id: TaskId) -> Result<Option<Found>, Error> {
    find(tx.conn, id, Timestamp::MIN, tx.context.format)
}

/// The error for a task that does not exist.
pub(super) fn task_not_found(id: TaskId) -> PortError {
    PortError::not_found(format!("task \"{id}\""))
}

/// Reads a row of [`FROM_TASKS`], as a program of the format does.
pub(super) fn found(row: &Row<'_>, format: Format) -> rusqlite::Result<Found> {
    let id = TaskId(ulid(row, 0)?);
    let (lease, whole) = lease(row)?;
    let known = state(row, 4);
    // Of a task whose state cannot be read, only whether somebody holds it is known.
    let guess = if lease.is_some() { TaskState::Running } else { TaskState::Queued };
    let readable = whole && known.is_ok();
    let state = known.unwrap_or(guess);
    let project = row.get_ref(1)?.as_str()?;
    // The body is decoded from SQLite's memory, without a copy.
    let decoded = match row.get_ref(7)? {
        ValueRef::Text(body) => format.decode(body),
        _ => Decoded::Undecodable,
    };
    let newer = decoded == Decoded::Newer;
    let task = match decoded {
        Decoded::Task(task) => Some(task),
        // A task that has ended is only shown.
        Decoded::UnreadableWork(task) => Some(task).filter(|task| task.state.is_terminal()),
        Decoded::Newer | Decoded::Undecodable => None,
    };
    if let Some(task) = task
        && readable
        && task.id == id
        && task.state == state
        && task.project_id.as_str() == project
    {
        return Ok(Found::Task(Box::new(TaskRecord { task: *task, lease })));
    }
    let columns = CorruptTask {
        id,
        project: parsed(row, 1)?,
        kind: row.get(2)?,
        agent: row.get(3)?,
        state,
        // Stored as 9 - priority.
        priority: Priority::try_from(9 - row.get::<_, u8>(5)?.min(9)).unwrap_or_default(),
        available_at: Timestamp::from_millis(row.get(6)?),
        notify: row.get(14)?,
        project_nonce: ulid(row, 16)?,
        lease,
    };
    Ok(if newer { Found::Newer(columns) } else { Found::Corrupt(columns) })
}

/// The lease, if there is one, and whether all of it could be read.
fn lease(row: &Row<'_>) -> rusqlite::Result<(Option<Lease>, bool)> {
    let Some(fence) = row.get::<_, Option<i64>>(8)? else { return Ok((None, true)) };
    let usage = optional_json::<Usage>(row, 13);
    let own_refs = optional_json::<Vec<RecordedRef>>(row, 15);
    let owner = owner(row.get_ref(9)?.as_str()?).ok();
    let whole = usage.is_ok() && own_refs.is_ok() && owner.is_some();
    let lease = Lease {
        fence: Fence(unsigned(fence)),
        owner: owner.unwrap_or_else(unknown_owner),
        heartbeat: unsigned(row.get(10)?),
        until: Timestamp::from_millis(row.get(11)?),
        cancel_requested: row.get(12)?,
        usage: usage.ok().flatten().unwrap_or_default(),
        own_refs: own_refs.ok().flatten(),
    };
    Ok((Some(lease), whole))
}

fn optional_json<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<T>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        _ => body(row, column).map(Some),
    }
}

/// The owner of a lease that does not say whose it is.
fn unknown_owner() -> Owner {
    let worker = "unknown".parse().expect("a worker's id has letters");
    Owner::new(&worker, "unknown")
}

/// Reads the text of an [`Owner`]. A worker's id never contains a `/`.
fn owner(text: &str) -> Result<Owner, Invalid> {
    let (worker, process) =
        text.split_once('/').ok_or_else(|| Invalid::new("lease owner", "must have a '/'"))?;
    Ok(Owner::new(&worker.parse()?, process))
}

pub(super) fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<TaskState> {
    let text = row.get_ref(column)?.as_str()?;
    let known = TaskState::ALL.into_iter().find(|state| state.as_str() == text);
    known.ok_or_else(|| conversion(column, Invalid::new("task state", "is not a known one")))
}

/// A ULID as a column stores it.
pub(super) fn blob(id: Ulid) -> [u8; 16] {
    id.to_bytes()
}

pub(super) fn ulid(row: &Row<'_>, column: usize) -> rusqlite::Result<Ulid> {
    row.get(column).map(Ulid::from_bytes)
}

/// The exclusive upper bound of a page's ids. Without a cursor it is above every id.
pub(super) fn bound(page: &Page) -> Vec<u8> {
    page.before.map_or_else(|| vec![0xff; 17], |before| blob(before).to_vec())
}

/// Parses a text column as one of the domain's validated types.
pub(super) fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr<Err = Invalid>,
{
    row.get_ref(column)?.as_str()?.parse().map_err(|error| conversion(column, error))
}

/// Decodes a record that is stored as JSON.
pub(super) fn body<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| conversion(column, error))
}

fn conversion(
    column: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

/// A number as SQLite stores it: signed.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that was stored by [`signed`].
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
