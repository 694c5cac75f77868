//! A task and its lease as a store has them. Every change is [`step`]; what grows without bound and
//! decides nothing (usage, the list of attempts, the times of begin and end) is left out.

use std::hash::{Hash, Hasher};

use rdev_domain::git::RecordedRef;
use rdev_domain::ids::{Fence, Owner, TaskId, WorkerId};
use rdev_domain::lease::{Holder, Lease, Progress};
use rdev_domain::result::{BuildResult, Outcome, Usage};
use rdev_domain::spec::{BuildSpec, Work};
use rdev_domain::step::{Event, Refusal, Slots, step};
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;
use ulid::Ulid;

/// The moment that it is.
pub const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// A task's record and its lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub task: Task,
    pub lease: Option<Lease>,
}

// A cost is the one field that could be no number, and no task here has one.
impl Eq for Record {}

impl Hash for Record {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Task { id, state, attempt, push_attempt, fence, lineage, available_at, .. } =
            &self.task;
        (id, state, attempt, push_attempt, fence, lineage, available_at).hash(hasher);
        let Task { retry_of, retried_as, parks, parked_ms, stalls, .. } = &self.task;
        (retry_of, retried_as, parks, parked_ms, stalls).hash(hasher);
        let Task { failure, prepared, scan_base, own_refs, wip_floor, resume_from, .. } =
            &self.task;
        (failure.as_ref().map(|f| (f.class, f.push_in_doubt)), self.task.in_doubt).hash(hasher);
        (prepared, scan_base, own_refs, wip_floor, resume_from).hash(hasher);
        if let Some(lease) = &self.lease {
            (lease.fence.0, lease.owner.as_str(), lease.cancel_requested).hash(hasher);
            (lease.heartbeat, lease.until).hash(hasher);
            lease.own_refs.hash(hasher);
        }
    }
}

/// The id of the task of that number.
pub fn task_id(number: usize) -> TaskId {
    TaskId(Ulid(number as u128 + 1))
}

/// The process of that name.
pub fn owner(process: &str) -> Owner {
    Owner::new(&worker(), process)
}

fn worker() -> WorkerId {
    "w".parse().expect("a worker id")
}

impl Record {
    /// A task that was just queued.
    pub fn new(number: usize) -> Self {
        let project = "site".parse().expect("a slug");
        let task = Task::new(task_id(number), project, Work::Build(BuildSpec::of("")), NOW);
        Self { task: Task { max_attempts: 2, ..task }, lease: None }
    }

    /// Applies an event. Returns when wake-ups are to be sent.
    pub fn apply(&mut self, event: Event, now: Timestamp) -> Result<Vec<Timestamp>, Refusal> {
        let step = step(&self.task, self.lease.as_ref(), event, now)?;
        let mut task = step.task;
        task.attempts.clear();
        task.usage = Usage::default();
        task.worker_id = None;
        (task.started_at, task.finished_at, task.updated_at) = (None, None, NOW);
        if let Some(failure) = &mut task.failure {
            failure.message.clear();
        }
        self.task = task;
        self.lease = step.lease;
        Ok(step.wake_ups)
    }

    /// A claim by a process.
    pub fn claim(
        &mut self,
        process: &str,
        slots: Slots,
        now: Timestamp,
    ) -> Result<Vec<Timestamp>, Refusal> {
        self.apply(Event::Claim { owner: owner(process), worker_id: worker(), slots }, now)
    }

    /// Renews the lease; the holder may be about to write refs.
    pub fn renew(
        &mut self,
        holder: &Holder,
        own_refs: Option<&[RecordedRef]>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let lease = self.lease.as_ref().ok_or(Refusal::Stale)?;
        self.lease =
            Some(lease.renewed(holder, Progress { own_refs, ..Progress::default() }, now)?);
        Ok(())
    }

    /// Recovers the lease that was seen, whose holder counts as dead.
    pub fn recover(
        &mut self,
        seen: Fence,
        heartbeat: u64,
        now: Timestamp,
    ) -> Result<Vec<Timestamp>, Refusal> {
        self.apply(Event::Recover { seen, heartbeat, proved_dead: true }, now)
    }

    /// Whether a runner may claim it when it is due.
    pub fn is_claimable(&self) -> bool {
        self.lease.is_none() && matches!(self.task.state, TaskState::Queued | TaskState::Pushing)
    }

    /// Whether it ended without success and without doubt, so that nothing of it may land.
    pub fn ended_without_doubt(&self) -> bool {
        match self.task.state {
            TaskState::Failed | TaskState::Cancelled => {
                !self.task.failure.as_ref().is_some_and(|f| f.push_in_doubt)
            }
            _ => false,
        }
    }
}

/// The result of a build.
pub fn result() -> BuildResult {
    BuildResult {
        outcome: Outcome::Delivered,
        commit_sha: None,
        branch: "main".parse().expect("a branch"),
        kept_ref: None,
        pull_request_url: None,
        files_changed: vec![],
        files_changed_total: 0,
        agent: None,
        usage: Usage::default(),
        durations_ms: std::collections::BTreeMap::new(),
        summary: String::new(),
        verify: vec![],
        warnings: vec![],
    }
}
