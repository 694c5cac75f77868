//! Everything at one moment, and what may happen next.

use rdev_domain::git::OwnRef;
use rdev_domain::ids::TaskId;
use rdev_domain::step::{Event, Slots, record_retry, retry};
use rdev_domain::task::{Task, TaskState};

use super::people::{self, Deed};
use super::remote::{Push, Remote, Server};
use super::runner::{self, Attempt, Choice};
use super::{Bounds, Protocol, Variant, folder};
use crate::model::part::Part;
use crate::model::record::{NOW, Record, task_id};

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The chain: each task but the first is the retry of an earlier one.
    pub tasks: Vec<Part<Record>>,
    pub runners: Vec<Option<Part<Attempt>>>,
    pub remote: Part<Remote>,
    /// Pushes whose answer is lost and that may still be applied.
    pub in_flight: Vec<Part<Push>>,
    /// Whose lineage each work is, by the number of its first task.
    pub works: Vec<u8>,
    /// The works that nobody has verified, and those that did not pass.
    pub unverified: Vec<u8>,
    /// The works that did not pass.
    pub failed: Vec<u8>,
    /// The lineages that people have brought to the branch by hand.
    pub brought_in: Vec<u8>,
    /// Whether people have taken something away: a ref, a commit, the branch.
    pub taken_away: bool,
    /// A rule that was broken.
    pub broken: Option<&'static str>,
    pub left: Left,
}

/// How much more may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Left {
    pub recoveries: u8,
    pub lost: u8,
    pub people: u8,
    pub refusals: u8,
    pub agents: u8,
    pub kills: u8,
    pub failures: u8,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A runner claims a task.
    Claim { runner: usize, task: usize },
    /// A runner goes on.
    Go { runner: usize, choice: Choice },
    /// A runner is killed while it moves refs in a folder. (Elsewhere it is as one that pauses for
    /// ever.)
    Kill { runner: usize },
    /// Whoever lists a folder's refs begins to end what a killed process has left, and is killed.
    Tidy { ticket: OwnRef },
    /// A task's lease is recovered, dead or not.
    Recover { task: usize },
    /// A task is retried.
    Retry { task: usize },
    /// A task is cancelled.
    Cancel { task: usize },
    /// A late push arrives.
    Arrive { push: usize },
    /// A person does something.
    Person(Deed),
}

impl World {
    /// One queued task, and a branch without a commit of anybody.
    pub fn new(bounds: &Bounds) -> Self {
        let remote = Remote { branch: Some(vec![]), ..Remote::default() };
        Self {
            tasks: vec![Part::new(Record::new(0))],
            runners: vec![None; bounds.runners],
            remote: Part::new(remote),
            in_flight: Vec::new(),
            works: Vec::new(),
            unverified: Vec::new(),
            failed: Vec::new(),
            brought_in: Vec::new(),
            taken_away: false,
            broken: None,
            left: Left {
                recoveries: bounds.recoveries,
                lost: bounds.lost,
                people: bounds.people,
                refusals: bounds.refusals,
                agents: bounds.agents,
                kills: bounds.kills,
                failures: bounds.failures,
            },
        }
    }

    /// What may happen next.
    pub fn actions(&self, protocol: &Protocol, actions: &mut Vec<Action>) {
        if self.broken.is_some() {
            return;
        }
        for (task, record) in self.tasks.iter().enumerate() {
            if record.is_claimable() && self.tasks.iter().all(|other| other.lease.is_none()) {
                let idle = self.runners.iter().position(Option::is_none);
                actions.extend(idle.map(|runner| Action::Claim { runner, task }));
            }
            if record.lease.is_some() && self.left.recoveries > 0 {
                actions.push(Action::Recover { task });
            }
            if matches!(record.task.state, TaskState::Failed | TaskState::Cancelled)
                && self.tasks.len() < protocol.bounds.tasks
                && self.retried(protocol, task).is_some()
            {
                actions.push(Action::Retry { task });
            }
            let flagged = record.lease.as_ref().is_some_and(|lease| lease.cancel_requested);
            let cancellable = match record.task.state {
                // Before anything has happened it would end the whole chain.
                TaskState::Queued => task > 0 || record.task.attempt > 0,
                TaskState::Running => !flagged,
                _ => false,
            };
            if cancellable {
                actions.push(Action::Cancel { task });
            }
        }
        for (runner, attempt) in self.runners.iter().enumerate() {
            if let Some(attempt) = attempt {
                let choices = runner::choices(self, attempt);
                actions.extend(choices.into_iter().map(|choice| Action::Go { runner, choice }));
                if self.left.kills > 0 && attempt.moving().is_some() {
                    actions.push(Action::Kill { runner });
                }
            }
        }
        actions.extend((0..self.in_flight.len()).map(|push| Action::Arrive { push }));
        actions.extend(folder::left_over(&self.remote).map(|ticket| Action::Tidy { ticket }));
        if self.left.people > 0 {
            let deeds = people::deeds(self).into_iter();
            let deeds = deeds.filter(|deed| protocol.bounds.rewriting || !deed.rewrites());
            actions.extend(deeds.map(Action::Person));
        }
    }

    /// Makes it happen.
    pub fn apply(&mut self, protocol: &Protocol, action: &Action) {
        match action {
            Action::Claim { runner, task } => self.claim(*runner, *task),
            Action::Go { runner, choice } => runner::go(self, protocol, *runner, *choice),
            Action::Kill { runner } => {
                self.left.kills -= 1;
                self.kill(*runner);
            }
            Action::Tidy { ticket } => self.remote.change(|remote| folder::tidy(remote, *ticket)),
            Action::Recover { task } => {
                self.left.recoveries -= 1;
                self.recover(*task);
            }
            Action::Retry { task } => {
                if let Some((old, new)) = self.retried(protocol, *task) {
                    self.tasks[*task].change(|record| record.task = old);
                    self.tasks.push(Part::new(Record { task: new, lease: None }));
                }
            }
            Action::Cancel { task } => {
                // It is queued or running.
                let _ = self.tasks[*task].change(|record| record.apply(Event::Cancel, NOW));
            }
            Action::Arrive { push } => {
                let push = self.in_flight.remove(*push);
                // A late push that is refused changes nothing, and nobody hears of it.
                let _ = self.remote.change(|remote| remote.apply(&push));
            }
            Action::Person(deed) => {
                self.left.people -= 1;
                people::act(self, deed);
            }
        }
        self.forget_time();
        if protocol.variant != Variant::NoFence {
            self.forget_harmless();
        }
        // Which process is which, and the order of late pushes, makes no difference.
        self.runners.sort_by_key(|attempt| (attempt.is_none(), attempt.as_ref().map(Part::hash)));
        self.in_flight.sort_by_key(Part::hash);
    }

    /// A runner claims a task. The process is named after the claim.
    pub fn claim(&mut self, runner: usize, task: usize) {
        let slots = Slots { taken: 0, limit: 1 };
        let record = &mut self.tasks[task];
        let process = record.task.fence.to_string();
        if record.change(|record| record.claim(&process, slots, NOW)).is_ok() {
            self.runners[runner] = Some(Part::new(Attempt::of(task, record)));
        }
    }

    /// A runner is killed.
    pub fn kill(&mut self, runner: usize) {
        if let Some(push) = self.runners[runner].take().and_then(|dead| dead.moving().cloned()) {
            self.remote.change(|remote| folder::kill(remote, &push));
        }
    }

    /// Recovers a task's lease. That its holder counts as dead is the model's choice.
    pub fn recover(&mut self, task: usize) {
        let record = &mut self.tasks[task];
        let Some(lease) = &record.lease else { return };
        let (seen, heartbeat) = (lease.fence, lease.heartbeat);
        let _ = record.change(|record| record.recover(seen, heartbeat, NOW));
    }

    /// There is no clock: everything is due, and how often a lease was renewed decides nothing.
    pub fn forget_time(&mut self) {
        for record in &mut self.tasks {
            let renewed = record.lease.as_ref().is_some_and(|lease| lease.heartbeat > 0);
            if renewed || record.task.available_at != NOW {
                record.change(|record| {
                    record.task.available_at = NOW;
                    if let Some(lease) = &mut record.lease {
                        lease.heartbeat = 0;
                    }
                });
            }
        }
    }

    /// A runner that has lost its lease and can change nothing any more is as one that is idle.
    fn forget_harmless(&mut self) {
        for place in 0..self.runners.len() {
            let harmless = self.runners[place]
                .as_ref()
                .is_some_and(|attempt| attempt.is_harmless() && !attempt.holds(self));
            if harmless {
                self.runners[place] = None;
            }
        }
    }

    /// The old task and its retry, if it may be retried.
    fn retried(&self, protocol: &Protocol, number: usize) -> Option<(Task, Task)> {
        let old = &self.tasks[number].task;
        let id = task_id(self.tasks.len());
        let mut new = retry(old, id, NOW).ok()?;
        let recorded = match protocol.variant {
            Variant::OldTasksRetried => Task { retried_as: None, ..old.clone() },
            _ => old.clone(),
        };
        if protocol.variant == Variant::RetryInheritsOnePredecessor {
            new.own_refs.retain(|recorded| recorded.own.task() == old.id);
        }
        new.max_attempts = 2;
        Some((record_retry(&recorded, id, NOW).ok()?, new))
    }

    /// The number of the task of that id.
    pub fn number_of(&self, id: TaskId) -> u8 {
        let found = self.tasks.iter().position(|record| record.task.id == id);
        u8::try_from(found.expect("a task of the chain")).expect("a short chain")
    }
}

impl Protocol {
    /// Whether a ticket proves something: the push that moves the branch deletes it.
    pub fn is_atomic(&self) -> bool {
        self.bounds.server != Server::BranchAlone
    }
}
