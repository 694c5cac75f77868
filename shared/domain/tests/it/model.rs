//! A model project: some tasks, some workers, a clock, and everything that may happen.
//!
//! It stores what [`step`] returns and nothing else, as a store does, and after
//! every action compares what was before with what is now.

use std::collections::HashMap;
use std::time::Duration;

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::Tip;
use rdev_domain::ids::TaskId;
use rdev_domain::lease::{Holder, Lease, Progress};
use rdev_domain::result::{Outcome, Usage};
use rdev_domain::step::{Event, Refusal, Slots, Step, retry, step};
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;

use super::sample;

/// Something that may happen. Numbers choose among what there is, wrapping around.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Enqueue { max_attempts: u32 },
    Claim { task: usize, worker: u64 },
    Write { task: usize, who: Who, what: Write },
    Renew { task: usize, who: Who },
    Cancel { task: usize },
    Recover { task: usize, seen: RecoveredLease },
    Retry { task: usize },
    Limit { limit: u32 },
    Pass { seconds: u64 },
}

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who {
    /// Who holds the task.
    Holder,
    /// Who held it at some claim before.
    Earlier(usize),
    /// Another process, with the right fence.
    OtherOwner,
    /// The right process, with another fence.
    OtherFence(u64),
}

/// What a holder writes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Write {
    Prepare { base: u64, commit: u64 },
    Finish,
    Complete,
    Fail { class: FailureClass, retry_after_s: Option<u64> },
    Release,
    Restart,
}

/// What a recoverer acts on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RecoveredLease {
    /// The lease as it is.
    AsItIs,
    /// As it is, and the process is known to be dead.
    ProvedDead,
    /// An earlier heartbeat.
    OldHeartbeat,
    /// An earlier fence.
    OldFence,
}

/// A task and its lease, as a store keeps them.
#[derive(Debug, Clone, PartialEq)]
struct Kept {
    task: Task,
    lease: Option<Lease>,
}

/// The project.
pub(crate) struct Model {
    now: Timestamp,
    limit: u32,
    kept: Vec<Kept>,
    /// Every holder that a task ever had.
    holders: HashMap<TaskId, Vec<Holder>>,
    used: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { now: sample::NOW, limit: 1, kept: Vec::new(), holders: HashMap::new(), used: 0 }
    }

    /// How many tasks there are in this state.
    pub(crate) fn count(&self, state: TaskState) -> usize {
        self.kept.iter().filter(|kept| kept.task.state == state).count()
    }

    /// Lets `action` happen, and checks that nothing happened which may not.
    pub(crate) fn act(&mut self, action: &Action) {
        match *action {
            Action::Enqueue { max_attempts } => {
                let number = self.kept.len() as u64;
                let task = Task { max_attempts, ..sample::task(number, self.now) };
                self.kept.push(Kept { task, lease: None });
            }
            Action::Limit { limit } => self.limit = limit,
            Action::Pass { seconds } => self.now = self.now.plus(Duration::from_secs(seconds)),
            _ if self.kept.is_empty() => {}
            Action::Claim { task, worker } => {
                let slots = Slots { taken: self.leases(), limit: self.limit };
                let number = task % self.kept.len();
                if self.apply(number, &sample::claim(worker, slots)).is_ok() {
                    let Kept { task, lease } = &self.kept[number];
                    let lease = lease.as_ref().expect("a claimed task has a lease");
                    self.holders.entry(task.id).or_default().push(sample::holder(lease));
                    assert!(self.leases() <= self.limit, "{} leases", self.leases());
                }
            }
            Action::Write { task, who, what } => {
                let number = task % self.kept.len();
                if let Some(holder) = self.holder(number, who) {
                    let event = self.event(number, holder, what);
                    let _refused = self.apply(number, &event);
                }
            }
            Action::Renew { task, who } => self.renew(task % self.kept.len(), who),
            Action::Cancel { task } => {
                let _refused = self.apply(task % self.kept.len(), &Event::Cancel);
            }
            Action::Recover { task, seen } => self.recover(task % self.kept.len(), seen),
            Action::Retry { task } => self.retry(task % self.kept.len()),
        }
        self.check();
    }

    /// Completes all tasks, as workers do that meet no obstacle.
    pub(crate) fn drain(&mut self) {
        self.limit = self.limit.max(1);
        for _ in 0..10_000 {
            if self.kept.iter().all(|kept| kept.task.state.is_terminal()) {
                return;
            }
            for task in 0..self.kept.len() {
                self.act(&Action::Recover { task, seen: RecoveredLease::AsItIs });
                self.act(&Action::Claim { task, worker: 5 });
                let what = match self.kept[task].task.state {
                    TaskState::Running => Write::Prepare { base: 3, commit: 3 },
                    _ => Write::Complete,
                };
                // The holder of a flagged one learns of it when it renews, and stops.
                let flagged =
                    self.kept[task].lease.as_ref().is_some_and(|lease| lease.cancel_requested);
                let what = if flagged { Write::Release } else { what };
                self.act(&Action::Write { task, who: Who::Holder, what });
            }
            self.act(&Action::Pass { seconds: 61 });
        }
        panic!("not every task comes to an end: {:#?}", self.kept);
    }

    fn leases(&self) -> u32 {
        let held = self.kept.iter().filter(|kept| kept.lease.is_some()).count();
        u32::try_from(held).expect("a few tasks")
    }

    fn holder(&self, number: usize, who: Who) -> Option<Holder> {
        let Kept { task, lease } = &self.kept[number];
        let held = self.holders.get(&task.id)?;
        let last = held.last()?.clone();
        Some(match who {
            Who::Holder => lease.as_ref().map_or(last, sample::holder),
            Who::Earlier(index) => held[index % held.len()].clone(),
            Who::OtherOwner => Holder { fence: task.fence, owner: sample::owner(77) },
            Who::OtherFence(fence) => Holder { fence: rdev_domain::ids::Fence(fence), ..last },
        })
    }

    fn event(&mut self, number: usize, holder: Holder, what: Write) -> Event {
        self.used += 1;
        let usage = Usage { turns: self.used, ..Usage::default() };
        let task = &self.kept[number].task;
        match what {
            Write::Prepare { base, commit } => {
                let base = if base == 0 { Tip::Absent } else { Tip::Commit(sample::commit(base)) };
                let prepared = sample::prepared(task, sample::commit(commit), base, self.now);
                let result = sample::result(Outcome::Delivered);
                Event::Prepare { holder, prepared, result, usage }
            }
            Write::Finish => match sample::finish(holder) {
                Event::Finish { holder, result, .. } => Event::Finish { holder, result, usage },
                other => other,
            },
            Write::Complete => sample::complete(holder),
            Write::Fail { class, retry_after_s } => {
                let retry_at = retry_after_s.map(|s| self.now.plus(Duration::from_secs(s)));
                let failure = Failure { retry_at, ..Failure::new(class, "as it happens") };
                Event::Fail { holder, failure, usage: Some(usage), revoked: false, left: None }
            }
            Write::Release => Event::Release { holder },
            Write::Restart => Event::Restart { holder },
        }
    }

    fn renew(&mut self, number: usize, who: Who) {
        let Some(holder) = self.holder(number, who) else { return };
        let Some(lease) = &self.kept[number].lease else { return };
        let right = sample::holder(lease) == holder;
        match lease.renewed(&holder, Progress::default(), self.now) {
            Ok(renewed) => {
                assert!(right, "only its holder renews a lease");
                assert_eq!(renewed.cancel_requested, lease.cancel_requested, "a flag stays");
                assert!(renewed.heartbeat > lease.heartbeat);
                self.kept[number].lease = Some(renewed);
            }
            Err(refusal) => assert_eq!((refusal, right), (Refusal::Stale, false)),
        }
    }

    fn recover(&mut self, number: usize, seen: RecoveredLease) {
        let Kept { task, lease } = &self.kept[number];
        let heartbeat = lease.as_ref().map_or(0, |lease| lease.heartbeat);
        let expired = lease.as_ref().is_some_and(|lease| lease.expired(self.now));
        let (fence, beat, proved_dead) = match seen {
            RecoveredLease::AsItIs => (task.fence, heartbeat, false),
            RecoveredLease::ProvedDead => (task.fence, heartbeat, true),
            RecoveredLease::OldHeartbeat => (task.fence, heartbeat.wrapping_sub(1), true),
            RecoveredLease::OldFence => {
                (rdev_domain::ids::Fence(task.fence.0.wrapping_sub(1)), heartbeat, true)
            }
        };
        let held = lease.is_some();
        let event = Event::Recover { seen: fence, heartbeat: beat, proved_dead };
        let recovered = self.apply(number, &event).is_ok();
        let may = match seen {
            RecoveredLease::AsItIs => held && expired,
            RecoveredLease::ProvedDead => held,
            RecoveredLease::OldHeartbeat | RecoveredLease::OldFence => false,
        };
        assert_eq!(recovered, may, "{seen:?}");
    }

    fn retry(&mut self, number: usize) {
        let number_of_new = self.kept.len() as u64;
        let old = &self.kept[number].task;
        let id = sample::task(number_of_new, self.now).id;
        let poisoned =
            old.failure.as_ref().is_some_and(|failure| failure.class == FailureClass::Poison);
        let may = matches!(old.state, TaskState::Failed | TaskState::Cancelled) && !poisoned;
        let retried = retry(old, id, self.now);
        assert_eq!(retried.is_ok(), may);
        let Ok(new) = retried else { return };
        let class = old.failure.as_ref().map(|failure| failure.class);
        if class == Some(FailureClass::HistoryRewritten) {
            assert_eq!((new.lineage, &new.scan_base), (new.id, &None));
        } else {
            assert_eq!((new.lineage, &new.scan_base), (old.lineage, &old.scan_base));
        }
        assert_eq!((new.state, new.retry_of), (TaskState::Queued, Some(old.id)));
        self.kept.push(Kept { task: new, lease: None });
    }

    /// Applies an event, and compares the task before it with the task after it.
    fn apply(&mut self, number: usize, event: &Event) -> Result<(), Refusal> {
        let before = self.kept[number].clone();
        let answer = step(&before.task, before.lease.as_ref(), event.clone(), self.now);
        if before.task.state.is_terminal() {
            assert_eq!(answer, Err(Refusal::Ended(before.task.state)), "{event:?}");
        }
        if let Some(writer) = holder_of(event) {
            let right = before.lease.as_ref().is_some_and(|lease| sample::holder(lease) == *writer);
            if !right {
                assert!(answer.is_err(), "{event:?} of another process to {before:#?}");
            }
        }
        let after = answer?;
        compare(&before, event, &after, self.now);
        self.kept[number] = Kept { task: after.task, lease: after.lease };
        Ok(())
    }

    /// What holds of every task at every time.
    fn check(&self) {
        for Kept { task, lease } in &self.kept {
            assert!(task.attempt <= task.max_attempts, "{task:#?}");
            assert!(task.wip_floor <= task.fence);
            let place = task.queue_place(lease.is_some(), self.now);
            match task.state {
                TaskState::Queued => assert!(lease.is_none() && place.is_some()),
                TaskState::Running => {
                    assert!(lease.is_some() && place.is_none());
                    assert_eq!((&task.prepared, &task.result), (&None, &None));
                }
                TaskState::Pushing => {
                    assert_eq!(lease.is_some(), place.is_none(), "held, or to be claimed");
                    assert!(task.prepared.is_some() && task.scan_base.is_some());
                }
                TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled => {
                    assert!(lease.is_none() && place.is_none() && task.finished_at.is_some());
                }
            }
            if let Some(lease) = lease {
                assert_eq!(lease.fence, task.fence);
            }
            let ended = task.attempts.iter().filter(|attempt| attempt.ended_at.is_some());
            if task.attempts.len() < 50 {
                let turns: u64 = ended.map(|attempt| attempt.usage.turns).sum();
                assert_eq!(task.usage.turns, turns, "what each attempt used counts once");
            }
        }
    }
}

fn compare(before: &Kept, event: &Event, after: &Step, now: Timestamp) {
    let (old, new) = (&before.task, &after.task);
    let grows = matches!(event, Event::Claim { .. } | Event::Recover { .. });
    let expected = if grows { old.fence.next() } else { old.fence };
    assert_eq!(new.fence, expected, "{event:?}");

    if old.scan_base.is_some() {
        assert_eq!(new.scan_base, old.scan_base, "{event:?}");
    }
    assert_eq!((new.id, new.lineage), (old.id, old.lineage));

    let edge = (old.state, new.state);
    assert!(EDGES.contains(&edge), "{edge:?} by {event:?}");
    let flagged = before.lease.as_ref().is_some_and(|lease| lease.cancel_requested);
    if flagged {
        let still_flagged = after.lease.as_ref().is_some_and(|lease| lease.cancel_requested);
        let stays = new.state == TaskState::Running && still_flagged;
        assert!(stays || new.state == TaskState::Cancelled, "{event:?} of one to be cancelled");
    }

    let freed = before.lease.is_some() && after.lease.is_none();
    let queued = after.lease.is_none() && !new.state.is_terminal();
    if freed || queued {
        assert!(after.wake_ups.iter().any(|at| *at <= now), "{event:?}: {:?}", after.wake_ups);
    }
    if queued {
        let due = new.available_at.max(now);
        assert!(after.wake_ups.contains(&due), "{event:?}: somebody comes when it is due");
    }
}

/// The arrows of the picture in `docs/protocol.md`, and staying where one is.
const EDGES: [(TaskState, TaskState); 12] = {
    use TaskState::*;
    [
        (Queued, Running),
        (Queued, Cancelled),
        (Running, Running),
        (Running, Queued),
        (Running, Pushing),
        (Running, Succeeded),
        (Running, Failed),
        (Running, Cancelled),
        (Pushing, Pushing),
        (Pushing, Queued),
        (Pushing, Succeeded),
        (Pushing, Failed),
    ]
};

fn holder_of(event: &Event) -> Option<&Holder> {
    match event {
        Event::Prepare { holder, .. }
        | Event::Finish { holder, .. }
        | Event::Complete { holder, .. }
        | Event::Fail { holder, .. }
        | Event::Release { holder }
        | Event::Restart { holder } => Some(holder),
        Event::Claim { .. } | Event::Cancel | Event::Recover { .. } => None,
    }
}
