//! A task: one unit of work, its state, and the record of its attempts.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use strum::{EnumCount, IntoStaticStr, VariantArray};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::Invalid;
use crate::commit_status::ShownStatus;
use crate::failure::Failure;
use crate::git::{Branch, CommitId, LeftRef, OwnRef, RecordedRef, Tip};
use crate::ids::{Fence, ProjectId, TaskId, WorkerId};
use crate::names::names;
use crate::record::Version;
use crate::result::{TaskResult, Usage};
use crate::spec::Work;
use crate::time::Timestamp;

/// A task as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The project it belongs to.
    pub project_id: ProjectId,
    /// Which project of that name: its [`nonce`](crate::project::Project::nonce). Nil in records
    /// of versions that wrote none.
    #[serde(default)]
    #[schema(ignore)]
    pub project_nonce: Ulid,
    /// What it is asked to do.
    #[serde(flatten)]
    pub work: Work,
    /// 0 to 9, higher first.
    pub priority: Priority,
    /// Where it is in its life.
    pub state: TaskState,
    /// How many attempts were begun, but for those that found the work finished.
    pub attempt: u32,
    /// How many attempts it may have: 1 to 10.
    pub max_attempts: u32,
    /// How often a claim tried to push what an earlier attempt had finished.
    pub push_attempt: u32,
    /// Grows at every claim and every recovery.
    pub fence: Fence,
    /// The id of the first task of which this one is a retry, or its own.
    pub lineage: TaskId,
    /// The task of which this is a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<TaskId>,
    /// The retry of this task. There is at most one: a lineage is a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried_as: Option<TaskId>,
    /// When it may be claimed; later than now while it backs off or is parked.
    pub available_at: Timestamp,
    /// When it was enqueued.
    pub created_at: Timestamp,
    /// When its record last changed (heartbeats apart).
    pub updated_at: Timestamp,
    /// When it was first claimed.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// The worker that has it, or had it last.
    pub worker_id: Option<WorkerId>,
    /// How it ended; while it is `pushing`, how it ends once its commit is on the branch.
    pub result: Option<TaskResult>,
    /// Why it failed, or why its last attempt did.
    pub failure: Option<Failure>,
    /// Every attempt and every claim that pushed, oldest first; the latest 50.
    pub attempts: Vec<Attempt>,
    /// What of it was committed and is to be pushed; set by prepare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared: Option<Prepared>,
    /// The branch's tip that the lineage's first prepare was based on. Set once,
    /// handed on to retries: from there to the tip its commit is looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan_base: Option<Tip>,
    /// The refs of rdev's own that this task and its predecessors may have written and that are not
    /// dealt with: where they are, they are taken over or revoked before anything else happens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own_refs: Vec<RecordedRef>,
    /// Of a task that has failed: its refs of rdev's own that were in the repository when its last
    /// attempt ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(ignore)]
    pub left_refs: Vec<LeftRef>,
    /// Wip refs of this task up to this fence are out of date.
    #[serde(default)]
    pub wip_floor: Fence,
    /// A wip ref of the task of which this is a retry, to resume from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_from: Option<WipRef>,
    /// Its record, or that of a task which it retries, comes from a backup that was restored. Its
    /// commit may be on the branch since: that is searched before any agent runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
    /// An earlier push of it, or of a task that it retries, may have landed or may still land, and
    /// the right to push could not be taken away: its server has no atomic pushes. An end without
    /// success says `push_in_doubt`, and a retry inherits it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_doubt: bool,
    /// How many attempts ended because the agent was silent.
    #[serde(default)]
    pub stalls: u32,
    /// How many times it was parked until a reset time that its provider named.
    #[serde(default)]
    pub parks: u32,
    /// How long it was parked in all, in milliseconds.
    #[serde(default)]
    pub parked_ms: u64,
    /// What all its attempts have used.
    #[serde(default)]
    pub usage: Usage,
    /// What the forge is to show at its commit, and whether it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_status: Option<ShownStatus>,
    /// The forge shows statuses at the commits of its repository.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(ignore)]
    pub shows_status: bool,
    /// The version of its record's format.
    #[serde(default, rename = "v")]
    #[schema(value_type = u64)]
    pub version: Version,
    /// Its project's webhook gets a message when it ends.
    #[serde(default)]
    #[schema(ignore)]
    pub notify: bool,
}

/// A wip ref by what it is named after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct WipRef {
    /// The task whose attempt pushed it.
    pub task: TaskId,
    /// That attempt's fence.
    pub fence: Fence,
}

/// Finished work, about to be pushed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct Prepared {
    /// The commit, as it is at the wip ref.
    pub commit: CommitId,
    /// The branch's tip that it was based on.
    pub base: Tip,
    /// The branch it goes to.
    pub branch: Branch,
    /// Where it is kept meanwhile: its ticket.
    pub wip: WipRef,
    /// Whether the push that moves the branch deletes the ticket with it, all or nothing. Not so on
    /// a server that has no atomic pushes.
    #[serde(default)]
    pub atomic: bool,
    /// When it was prepared first.
    pub at: Timestamp,
}

impl Prepared {
    /// Its ticket, at the commit that was prepared.
    pub fn ticket(&self) -> RecordedRef {
        let WipRef { task, fence } = self.wip;
        RecordedRef::of(OwnRef::Wip(task, fence), self.commit.clone())
    }
}

/// One claim of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// The attempt's number, 1 is the first; the same again for claims that only push.
    pub number: u32,
    /// The fence of the claim.
    pub fence: Fence,
    /// The worker.
    pub worker_id: WorkerId,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why it ended badly.
    pub failure: Option<Failure>,
    /// What it used.
    pub usage: Usage,
}

/// Where a task is in its life. The last three are terminal.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    EnumCount,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum TaskState {
    /// It waits to be claimed.
    Queued,
    /// A worker is at it.
    Running,
    /// Its commit is made and goes to the branch; unowned when it has no lease.
    Pushing,
    /// It is done.
    Succeeded,
    /// It is given up.
    Failed,
    /// It was cancelled.
    Cancelled,
}

names!(TaskState);

impl TaskState {
    /// Whether nothing leads out of it.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// 0 (last) to 9 (first); 5 by default.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(try_from = "u8", into = "u8")]
#[schema(value_type = u8, minimum = 0, maximum = 9)]
pub struct Priority(u8);

impl Default for Priority {
    fn default() -> Self {
        Self(5)
    }
}

impl TryFrom<u8> for Priority {
    type Error = Invalid;

    fn try_from(number: u8) -> Result<Self, Invalid> {
        if number <= 9 {
            Ok(Self(number))
        } else {
            Err(Invalid::new("priority", "must lie between 0 and 9"))
        }
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> Self {
        priority.0
    }
}

/// A task's place in its project's queue, when it has one.
///
/// Orders by what is claimed first: unowned pushes, then rank, then ULID; among what is due. What
/// is due later is ordered by its time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueuePlace {
    /// May be claimed now.
    Due {
        /// 0 for an unowned push, 1 for the rest.
        class: u8,
        /// See [`rank`].
        rank: Timestamp,
        /// The task.
        id: TaskId,
    },
    /// May be claimed from a time on.
    Later {
        /// That time.
        at: Timestamp,
        /// The task.
        id: TaskId,
    },
}

/// The order of what is due: the time since when it is due, one hour earlier for each step of
/// priority. An hour of waiting counts as one step, so nothing waits for ever behind what is more
/// urgent, and the order never has to be computed again.
pub fn rank(due_since: Timestamp, priority: Priority) -> Timestamp {
    due_since.minus(STEP_OF_PRIORITY * u32::from(priority.0))
}

/// How much waiting counts as one step of priority.
const STEP_OF_PRIORITY: Duration = Duration::from_secs(60 * 60);

impl Task {
    /// Where people see it; `base` is the address of rdev for them.
    pub fn page(&self, base: &str) -> String {
        let base = base.trim_end_matches('/');
        format!("{base}/projects/{}/builds/{}", self.project_id, self.id)
    }

    /// A task that was just asked for. Its [`project_nonce`](Self::project_nonce) is to be set.
    pub fn new(id: TaskId, project_id: ProjectId, work: Work, now: Timestamp) -> Self {
        Self {
            id,
            project_id,
            project_nonce: Ulid::nil(),
            work,
            priority: Priority::default(),
            state: TaskState::Queued,
            attempt: 0,
            max_attempts: 3,
            push_attempt: 0,
            fence: Fence(0),
            lineage: id,
            retry_of: None,
            retried_as: None,
            available_at: now,
            created_at: now,
            updated_at: now,
            started_at: None,
            finished_at: None,
            worker_id: None,
            result: None,
            failure: None,
            attempts: Vec::new(),
            prepared: None,
            scan_base: None,
            own_refs: Vec::new(),
            left_refs: Vec::new(),
            wip_floor: Fence(0),
            resume_from: None,
            restored: false,
            in_doubt: false,
            stalls: 0,
            parks: 0,
            parked_ms: 0,
            usage: Usage::default(),
            commit_status: None,
            shows_status: false,
            version: Version,
            notify: false,
        }
    }

    /// The place in the queue of a task that nobody holds; `None` when it is held or ended.
    pub fn queue_place(&self, held: bool, now: Timestamp) -> Option<QueuePlace> {
        let class = match self.state {
            TaskState::Queued => 1,
            TaskState::Pushing if !held => 0,
            _ => return None,
        };
        Some(if self.available_at > now {
            QueuePlace::Later { at: self.available_at, id: self.id }
        } else {
            QueuePlace::Due { class, rank: rank(self.available_at, self.priority), id: self.id }
        })
    }
}
