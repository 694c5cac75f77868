//! Tasks in each state, and the events about them.

use std::collections::BTreeMap;

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{CommitId, Tip};
use rdev_domain::ids::{Fence, Owner, TaskId, WorkerId};
use rdev_domain::lease::{Holder, Lease};
use rdev_domain::result::{BuildResult, Outcome, TaskResult, Usage};
use rdev_domain::spec::{BuildSpec, Work};
use rdev_domain::step::{Event, Slots, Step, step};
use rdev_domain::task::{Prepared, Task, WipRef};
use rdev_domain::time::Timestamp;
use ulid::Ulid;

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

pub(crate) fn task(number: u64, now: Timestamp) -> Task {
    let id = TaskId(Ulid::from_parts(1_800_000_000_000, u128::from(number)));
    let project = "site".parse().expect("a slug");
    Task::new(id, project, Work::Build(BuildSpec::of("make it blue")), now)
}

pub(crate) fn worker(number: u64) -> WorkerId {
    format!("w{number}").parse().expect("a worker id")
}

pub(crate) fn owner(number: u64) -> Owner {
    Owner::new(&worker(number), "process")
}

pub(crate) fn claim(number: u64, slots: Slots) -> Event {
    Event::Claim { owner: owner(number), worker_id: worker(number), slots }
}

pub(crate) fn commit(number: u64) -> CommitId {
    format!("{number:040x}").parse().expect("40 hexadecimal digits")
}

pub(crate) fn prepared(task: &Task, commit: CommitId, base: Tip, now: Timestamp) -> Prepared {
    Prepared {
        commit,
        base,
        branch: "main".parse().expect("a branch"),
        wip: WipRef { task: task.id, fence: task.fence },
        atomic: true,
        at: now,
    }
}

pub(crate) fn result(outcome: Outcome) -> BuildResult {
    BuildResult {
        outcome,
        commit_sha: None,
        branch: "main".parse().expect("a branch"),
        kept_ref: None,
        pull_request_url: None,
        files_changed: Vec::new(),
        files_changed_total: 0,
        agent: None,
        usage: Usage::default(),
        durations_ms: BTreeMap::new(),
        summary: String::new(),
        verify: Vec::new(),
        warnings: Vec::new(),
    }
}

pub(crate) fn prepare(holder: Holder, task: &Task, now: Timestamp) -> Event {
    let prepared = prepared(task, commit(1), Tip::Commit(commit(9)), now);
    Event::Prepare { holder, prepared, result: result(Outcome::Delivered), usage: Usage::default() }
}

pub(crate) fn finish(holder: Holder) -> Event {
    let result = TaskResult::Build(result(Outcome::NoChange));
    Event::Finish { holder, result, usage: Usage::default() }
}

pub(crate) fn complete(holder: Holder) -> Event {
    Event::Complete { holder, result: result(Outcome::Delivered) }
}

pub(crate) fn fail(holder: Holder, class: FailureClass) -> Event {
    Event::Fail {
        holder,
        failure: Failure::new(class, "as the test wants it"),
        usage: None,
        revoked: false,
        left: None,
    }
}

pub(crate) fn holder(lease: &Lease) -> Holder {
    Holder { fence: lease.fence, owner: lease.owner.clone() }
}

/// A holder that holds nothing.
pub(crate) fn nobody() -> Holder {
    Holder { fence: Fence(1), owner: owner(99) }
}

/// A task of which an event has been applied after another.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) task: Task,
    pub(crate) lease: Option<Lease>,
}

impl Case {
    pub(crate) fn queued() -> Self {
        Self { task: task(1, NOW), lease: None }
    }

    pub(crate) fn parked() -> Self {
        Self::running().after(|holder| fail(holder, FailureClass::Quota))
    }

    pub(crate) fn running() -> Self {
        let slots = Slots { taken: 0, limit: 1 };
        Self::queued().then(claim(1, slots))
    }

    pub(crate) fn flagged() -> Self {
        Self::running().then(Event::Cancel)
    }

    pub(crate) fn pushing() -> Self {
        let running = Self::running();
        let event = prepare(running.holder(), &running.task, NOW);
        running.then(event)
    }

    pub(crate) fn unowned() -> Self {
        Self::pushing().after(|holder| Event::Release { holder })
    }

    pub(crate) fn succeeded() -> Self {
        Self::pushing().after(complete)
    }

    pub(crate) fn failed() -> Self {
        Self::running().after(|holder| fail(holder, FailureClass::Invalid))
    }

    pub(crate) fn cancelled() -> Self {
        Self::queued().then(Event::Cancel)
    }

    /// Who holds it, or nobody.
    pub(crate) fn holder(&self) -> Holder {
        self.lease.as_ref().map_or_else(nobody, holder)
    }

    pub(crate) fn step(&self, event: Event) -> Result<Step, rdev_domain::step::Refusal> {
        step(&self.task, self.lease.as_ref(), event, NOW)
    }

    fn then(&self, event: Event) -> Self {
        let step = self.step(event).expect("a sample's event applies");
        Self { task: step.task, lease: step.lease }
    }

    fn after(&self, event: impl FnOnce(Holder) -> Event) -> Self {
        self.then(event(self.holder()))
    }
}

/// A task that nobody holds, claimed by another worker as soon as it is due.
pub(crate) fn claimed_again(unowned: &Step) -> Case {
    let slots = Slots { taken: 0, limit: 1 };
    let now = NOW.max(unowned.task.available_at);
    let claimed = step(&unowned.task, None, claim(2, slots), now).expect("it is claimed");
    Case { task: claimed.task, lease: claimed.lease }
}

/// A task whose worker has died.
pub(crate) fn lost(case: &Case) -> Step {
    let lease = case.lease.as_ref().expect("it is held");
    let (seen, heartbeat) = (case.task.fence, lease.heartbeat);
    case.step(Event::Recover { seen, heartbeat, proved_dead: true }).expect("it is recovered")
}
