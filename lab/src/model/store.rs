//! A task and its lease as a store has them. Every change is [`step`]; what grows without bound and
//! decides nothing (times, usage, the list of attempts) is left out.

use std::hash::{Hash, Hasher};

use rdev_domain::git::RecordedRef;
use rdev_domain::ids::{Owner, TaskId, WorkerId};
use rdev_domain::lease::{Holder, Lease, Progress};
use rdev_domain::result::{BuildResult, Outcome, Usage};
use rdev_domain::spec::{BuildSpec, Work};
use rdev_domain::step::{Event, Refusal, Slots, step};
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;
use ulid::Ulid;

/// The only moment there is.
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
        let Task { state, attempt, push_attempt, fence, lineage, retry_of, retried_as, .. } =
            &self.task;
        (*state, *attempt, *push_attempt, fence.0, lineage.0).hash(hasher);
        (retry_of.map(|id| id.0), retried_as.map(|id| id.0)).hash(hasher);
        let Task { failure, prepared, scan_base, own_refs, wip_floor, resume_from, .. } =
            &self.task;
        failure.as_ref().map(|f| (f.class, f.push_in_doubt)).hash(hasher);
        let prepared = prepared.as_ref();
        prepared.map(|p| (&p.commit, p.base.to_string(), p.wip.task.0, p.wip.fence.0)).hash(hasher);
        scan_base.as_ref().map(ToString::to_string).hash(hasher);
        hash_refs(own_refs, hasher);
        wip_floor.0.hash(hasher);
        resume_from.map(|wip| (wip.task.0, wip.fence.0)).hash(hasher);
        let lease = self.lease.as_ref();
        lease
            .map(|lease| (lease.fence.0, lease.owner.as_str(), lease.cancel_requested))
            .hash(hasher);
        if let Some(refs) = lease.and_then(|lease| lease.own_refs.as_ref()) {
            hash_refs(refs, hasher);
        }
    }
}

/// Hashes recorded refs.
pub fn hash_refs<H: Hasher>(refs: &[RecordedRef], hasher: &mut H) {
    refs.len().hash(hasher);
    for recorded in refs {
        (recorded.own.path(), &recorded.commit, recorded.may_land).hash(hasher);
        recorded.revoked_for.hash(hasher);
    }
}

/// The id of the task of that number.
pub fn task_id(number: usize) -> TaskId {
    TaskId(Ulid(number as u128 + 1))
}

/// The process of that number.
pub fn owner(runner: usize) -> Owner {
    Owner::new(&worker(), &runner.to_string())
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

    /// Applies an event.
    pub fn apply(&mut self, event: Event) -> Result<(), Refusal> {
        let step = step(&self.task, self.lease.as_ref(), event, NOW)?;
        let mut task = step.task;
        task.attempts.clear();
        task.usage = Usage::default();
        task.available_at = NOW;
        if let Some(failure) = &mut task.failure {
            failure.message.clear();
        }
        self.task = task;
        self.lease = step.lease.map(|lease| Lease { heartbeat: 0, ..lease });
        Ok(())
    }

    /// A claim by a process of this number.
    pub fn claim(&mut self, runner: usize) -> Result<(), Refusal> {
        let slots = Slots { taken: 0, limit: 1 };
        self.apply(Event::Claim { owner: owner(runner), worker_id: worker(), slots })
    }

    /// Renews the lease with the refs that its holder is about to write.
    pub fn record_refs(&mut self, holder: &Holder, refs: &[RecordedRef]) -> Result<(), Refusal> {
        let lease = self.lease.as_ref().ok_or(Refusal::Stale)?;
        let progress = Progress { own_refs: Some(refs), ..Progress::default() };
        let lease = lease.renewed(holder, progress, NOW)?;
        self.lease = Some(Lease { heartbeat: 0, ..lease });
        Ok(())
    }

    /// Whether a runner may claim it.
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
        pull_request_url: None,
        files_changed: vec![],
        files_changed_total: 0,
        agent: None,
        usage: Usage::default(),
        durations_ms: std::collections::BTreeMap::new(),
        summary: String::new(),
        warnings: vec![],
    }
}
