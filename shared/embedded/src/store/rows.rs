//! How records stand in rows, and how a task is rebuilt whose record cannot be read.

use rdev_domain::Invalid;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::ids::{Fence, Owner, ProjectId, TaskId};
use rdev_domain::lease::Lease;
use rdev_domain::page::Page;
use rdev_domain::ports::TaskRecord;
use rdev_domain::result::Usage;
use rdev_domain::spec::{BuildSpec, CheckSpec, Work};
use rdev_domain::task::{Priority, Task, TaskState};
use rdev_domain::time::Timestamp;
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};
use ulid::Ulid;

use crate::failed::Failed;

/// Every type of task, as [`Work::kind`] names it.
pub(super) const KINDS: [&str; 2] = ["build", "check"];

/// What [`found`] reads: a task `t` and its lease `l`.
pub(super) const FROM_TASKS: &str = "t.id, t.project, t.kind, t.agent, t.state, t.priority,
    t.available_at, t.body, l.fence, l.owner, l.heartbeat, l.until, l.cancel_requested, l.usage,
    t.notify FROM tasks t LEFT JOIN leases l ON l.project = t.project AND l.task = t.id";

/// A task's row.
pub(super) enum Found {
    /// A task with its lease.
    Task(Box<TaskRecord>),
    /// Its body cannot be read.
    Unreadable(Unreadable),
}

/// What is known of a task whose body cannot be read: its columns.
pub(super) struct Unreadable {
    pub(super) id: TaskId,
    pub(super) project: ProjectId,
    pub(super) kind: String,
    pub(super) agent: String,
    pub(super) state: TaskState,
    pub(super) priority: u8,
    pub(super) available_at: Timestamp,
    pub(super) notify: bool,
    pub(super) lease: Option<Lease>,
}

impl Found {
    /// The task; one that cannot be read as its columns tell it.
    pub(super) fn into_record(self) -> TaskRecord {
        match self {
            Self::Task(record) => *record,
            Self::Unreadable(unreadable) => {
                let task = unreadable.rebuild();
                TaskRecord { task, lease: unreadable.lease }
            }
        }
    }
}

impl Unreadable {
    /// A task that says what is left, and that it is poison.
    pub(super) fn rebuild(&self) -> Task {
        let work = if self.kind == KINDS[0] {
            let mut spec = BuildSpec::of("");
            spec.agent = self.agent.parse().unwrap_or_default();
            Work::Build(spec)
        } else {
            let timeout_s = BuildSpec::of("").timeout_s;
            Work::Check(CheckSpec { branch: None, commands: Vec::new(), timeout_s })
        };
        let created = i64::try_from(self.id.0.timestamp_ms()).unwrap_or(i64::MAX);
        let created = Timestamp::from_millis(created);
        let mut task = Task::new(self.id, self.project.clone(), work, created);
        task.state = self.state;
        task.priority = Priority::try_from(9 - self.priority.min(9)).unwrap_or_default();
        task.available_at = self.available_at;
        task.notify = self.notify;
        task.fence = self.lease.as_ref().map_or(Fence(0), |lease| lease.fence);
        task.failure = Some(Failure::new(FailureClass::Poison, "the task's record cannot be read"));
        task
    }
}

/// One task. `None` when there is none, or it had expired at `latest`.
pub(super) fn find(
    conn: &Connection,
    id: TaskId,
    latest: Timestamp,
) -> Result<Option<Found>, Failed> {
    let mut one = conn.prepare_cached(&format!(
        "SELECT {FROM_TASKS} WHERE t.id = ?1 AND (t.expires_at IS NULL OR t.expires_at > ?2)"
    ))?;
    Ok(one.query_row(params![blob(id.0), latest.as_millis()], found).optional()?)
}

/// Reads a row of [`FROM_TASKS`].
pub(super) fn found(row: &Row<'_>) -> rusqlite::Result<Found> {
    let id = TaskId(ulid(row, 0)?);
    let lease = lease(row)?;
    let state = state(row, 4)?;
    let project = row.get_ref(1)?.as_str()?;
    // The body is read where SQLite has it, not copied first.
    let task = match row.get_ref(7)? {
        ValueRef::Text(body) => serde_json::from_slice::<Task>(body).ok(),
        _ => None,
    };
    Ok(match task {
        Some(task)
            if task.id == id && task.state == state && task.project_id.as_str() == project =>
        {
            Found::Task(Box::new(TaskRecord { task, lease }))
        }
        _ => Found::Unreadable(Unreadable {
            id,
            project: parsed(row, 1)?,
            kind: row.get(2)?,
            agent: row.get(3)?,
            state,
            priority: row.get(5)?,
            available_at: Timestamp::from_millis(row.get(6)?),
            notify: row.get(14)?,
            lease,
        }),
    })
}

fn lease(row: &Row<'_>) -> rusqlite::Result<Option<Lease>> {
    let Some(fence) = row.get::<_, Option<i64>>(8)? else { return Ok(None) };
    let usage = match row.get_ref(13)? {
        ValueRef::Null => Usage::default(),
        text => serde_json::from_str(text.as_str()?).map_err(|error| conversion(13, error))?,
    };
    Ok(Some(Lease {
        fence: Fence(unsigned(fence)),
        owner: owner(row.get_ref(9)?.as_str()?).map_err(|error| conversion(9, error))?,
        heartbeat: unsigned(row.get(10)?),
        until: Timestamp::from_millis(row.get(11)?),
        cancel_requested: row.get(12)?,
        usage,
    }))
}

/// Reads what [`Owner::new`] makes. A worker's id never holds a `/`.
fn owner(text: &str) -> Result<Owner, Invalid> {
    let (worker, process) =
        text.split_once('/').ok_or_else(|| Invalid::new("lease owner", "must have a '/'"))?;
    Ok(Owner::new(&worker.parse()?, process))
}

/// Reads a task's state.
pub(super) fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<TaskState> {
    let text = row.get_ref(column)?.as_str()?;
    let known = TaskState::ALL.into_iter().find(|state| state.as_str() == text);
    known.ok_or_else(|| conversion(column, Invalid::new("task state", "is not a known one")))
}

/// A ULID as it is stored.
pub(super) fn blob(id: Ulid) -> [u8; 16] {
    id.to_bytes()
}

/// Reads a ULID.
pub(super) fn ulid(row: &Row<'_>, column: usize) -> rusqlite::Result<Ulid> {
    row.get(column).map(Ulid::from_bytes)
}

/// The upper bound of a page's ids: below it, or above all there are.
pub(super) fn bound(page: &Page) -> Vec<u8> {
    page.before.map_or_else(|| vec![0xff; 17], |before| blob(before).to_vec())
}

/// Reads a text as one of the domain's checked types.
pub(super) fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr<Err = Invalid>,
{
    row.get_ref(column)?.as_str()?.parse().map_err(|error| conversion(column, error))
}

/// Reads a record that is stored as JSON.
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

/// A number that SQLite keeps as a signed one.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A count or a fence that was stored by [`signed`].
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
