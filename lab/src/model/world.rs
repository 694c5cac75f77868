//! Everything at one moment, and what may happen next.

use rdev_domain::step::{Event, record_retry, retry};
use rdev_domain::task::{Task, TaskState};

use super::people::{self, Deed};
use super::remote::{Push, Remote};
use super::runner::{self, Attempt, Choice};
use super::store::{NOW, Record, task_id};
use super::{Bounds, Protocol, Variant};

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The chain: each task but the first is the retry of an earlier one.
    pub tasks: Vec<Record>,
    pub runners: Vec<Option<Attempt>>,
    pub remote: Remote,
    /// Pushes whose answer is lost and that may still be applied.
    pub in_flight: Vec<Push>,
    /// Whose lineage each work is, by the number of its first task.
    pub works: Vec<u8>,
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
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A runner claims a task.
    Claim { runner: usize, task: usize },
    /// A runner goes on.
    Go { runner: usize, choice: Choice },
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
    /// One queued task, and a branch with one commit or none.
    pub fn new(bounds: &Bounds) -> Self {
        Self {
            tasks: vec![Record::new(0)],
            runners: vec![None; bounds.runners],
            remote: Remote { branch: Some(vec![]), ..Remote::default() },
            in_flight: Vec::new(),
            works: Vec::new(),
            brought_in: Vec::new(),
            taken_away: false,
            broken: None,
            left: Left {
                recoveries: bounds.recoveries,
                lost: bounds.lost,
                people: bounds.people,
                refusals: bounds.refusals,
                agents: bounds.agents,
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
                TaskState::Queued => task > 0,
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
            }
        }
        actions.extend((0..self.in_flight.len()).map(|push| Action::Arrive { push }));
        if self.left.people > 0 {
            actions.extend(people::deeds(self).into_iter().map(Action::Person));
        }
    }

    /// Makes it happen.
    pub fn apply(&mut self, protocol: &Protocol, action: &Action) {
        match action {
            Action::Claim { runner, task } => {
                if self.tasks[*task].claim(*runner).is_ok() {
                    self.runners[*runner] = Some(Attempt::of(*task, &self.tasks[*task]));
                }
            }
            Action::Go { runner, choice } => runner::go(self, protocol, *runner, *choice),
            Action::Recover { task } => {
                self.left.recoveries -= 1;
                self.recover(*task);
            }
            Action::Retry { task } => {
                if let Some((old, new)) = self.retried(protocol, *task) {
                    self.tasks[*task].task = old;
                    self.tasks.push(Record { task: new, lease: None });
                }
            }
            Action::Cancel { task } => {
                // It is queued or running.
                let _ = self.tasks[*task].apply(Event::Cancel);
            }
            Action::Arrive { push } => {
                let push = self.in_flight.remove(*push);
                // A late push that is refused changes nothing, and nobody hears of it.
                let _ = self.remote.apply(&push);
            }
            Action::Person(deed) => {
                self.left.people -= 1;
                people::act(self, deed);
            }
        }
    }

    /// Recovers a task's lease.
    pub fn recover(&mut self, task: usize) {
        let record = &mut self.tasks[task];
        let Some(lease) = &record.lease else { return };
        let (seen, heartbeat) = (lease.fence, lease.heartbeat);
        // That the holder counts as dead is the model's choice.
        let _ = record.apply(Event::Recover { seen, heartbeat, proved_dead: true });
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
    pub fn number_of(&self, id: rdev_domain::ids::TaskId) -> u8 {
        let found = self.tasks.iter().position(|record| record.task.id == id);
        u8::try_from(found.expect("a task of the chain")).expect("a short chain")
    }
}
