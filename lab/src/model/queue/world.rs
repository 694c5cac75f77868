//! Everything at one moment, and what may happen next.

use std::time::Duration;

use rdev_domain::task::TaskState;
use rdev_domain::time::Timestamp;

use super::bounds::Queue;
use super::store::{self, expired, on_clock};
use super::wake_ups::{self, Message, Sending, seconds_until};
use super::worker::{self, Does, Work};
use super::{Bounds, Project, Variant};
use crate::model::part::{Part, hash_of};
use crate::model::record::Record;

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub tasks: Vec<Part<Record>>,
    /// Whose claim holds each task.
    pub held: Vec<Option<u8>>,
    /// Of which tasks it was said that they are cancelled.
    pub promised: Vec<bool>,
    pub runners: Vec<Option<Work>>,
    /// Who has read a lease that had expired, and recovers it: the task, the fence, the heartbeat.
    pub recoverers: Vec<(usize, u64, u64)>,
    pub messages: Vec<Message>,
    /// How many marks there are of wake-ups that are to be sent. Each may be overdue.
    pub marks: usize,
    /// A rule that was broken.
    pub broken: Option<Broken>,
    pub left: Left,
}

/// A rule that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Broken {
    NotTheHolder,
    LiveLeaseRecovered,
    PushedWithoutLease,
    TerminalStateLeft,
}

/// How much more may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Left {
    pub claims: u8,
    pub faults: u8,
    pub parks: u8,
    pub releases: u8,
    pub cancels: u8,
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Time passes.
    Pass,
    /// A runner receives a wake-up, and reads what is due.
    Receive { runner: usize, message: Option<usize> },
    /// A runner goes on.
    Go { runner: usize, does: Does },
    /// The sweep sends an overdue mark.
    Overdue { how: Sending },
    /// The sweep reads a lease that has expired.
    Expired { task: usize },
    /// It recovers the lease that it has read.
    Recover { recoverer: usize },
    /// Somebody cancels a task.
    Cancel { task: usize },
}

impl World {
    /// Tasks that are queued, and a wake-up for each.
    pub fn new(bounds: &Bounds) -> Self {
        let tasks = bounds.tasks;
        let first = Message { hidden_for: 0, received: false, by: None };
        let messages = if bounds.queue == Queue::Good { vec![first; tasks] } else { vec![] };
        Self {
            tasks: (0..tasks).map(|number| Part::new(Record::new(number))).collect(),
            held: vec![None; tasks],
            promised: vec![false; tasks],
            runners: vec![None; bounds.runners.len()],
            recoverers: Vec::new(),
            messages,
            marks: 0,
            broken: None,
            left: Left {
                claims: bounds.claims,
                faults: bounds.faults,
                parks: bounds.parks,
                releases: bounds.releases,
                cancels: bounds.cancels,
            },
        }
    }

    /// What may happen next.
    pub fn actions(&self, project: &Project, actions: &mut Vec<Action>) {
        if self.broken.is_some() {
            return;
        }
        let good = project.bounds.queue == Queue::Good;
        // Of a good queue no wake-up is received again before the claim.
        if !good || !self.runners.iter().flatten().any(Work::is_claiming) {
            actions.push(Action::Pass);
        }
        for (runner, work) in self.runners.iter().enumerate() {
            match work {
                Some(work) => {
                    let choices = worker::choices(self, project, work).into_iter();
                    actions.extend(choices.map(|does| Action::Go { runner, does }));
                }
                None if self.left.claims == 0 => {}
                None if good => {
                    let visible = (0..self.messages.len()).filter(|m| self.is_visible(*m));
                    let visible = visible.map(Some);
                    actions.extend(visible.map(|message| Action::Receive { runner, message }));
                }
                None => actions.push(Action::Receive { runner, message: None }),
            }
        }
        if good {
            self.sends_marks(project, actions);
        } else {
            self.sweeps(project, actions);
        }
        if self.left.cancels > 0 {
            let cancellable = |task: &usize| {
                let record = &self.tasks[*task];
                let flagged = record.lease.as_ref().is_some_and(|lease| lease.cancel_requested);
                matches!(record.task.state, TaskState::Queued | TaskState::Running) && !flagged
            };
            let tasks = (0..self.tasks.len()).filter(cancellable);
            actions.extend(tasks.map(|task| Action::Cancel { task }));
        }
    }

    /// The sweep sends marks again, which may stay.
    pub fn sends_marks(&self, project: &Project, actions: &mut Vec<Action>) {
        if self.marks > 0 && project.variant != Variant::SweepLeavesMarks {
            actions.push(Action::Overdue { how: Sending::Well });
            if self.left.faults > 0 {
                actions.push(Action::Overdue { how: Sending::MarksStay });
            }
        }
    }

    /// The sweep reads leases that have expired, and recovers them.
    pub fn sweeps(&self, project: &Project, actions: &mut Vec<Action>) {
        let now = on_clock(project.bounds.sweep);
        for (task, record) in self.tasks.iter().enumerate() {
            let read = self.recoverers.iter().any(|(other, ..)| *other == task);
            if let Some(lease) = &record.lease
                && !read
                && expired(project, lease, now)
                && project.variant != Variant::SweepRecoversNothing
            {
                actions.push(Action::Expired { task });
            }
        }
        let recoverers = 0..self.recoverers.len();
        actions.extend(recoverers.map(|recoverer| Action::Recover { recoverer }));
    }

    /// Makes it happen.
    pub fn apply(&mut self, project: &Project, action: &Action) {
        match action {
            Action::Pass => self.pass(project),
            Action::Receive { runner, message } => {
                worker::receive(self, project, *runner, *message);
            }
            Action::Go { runner, does } => worker::go(self, project, *runner, *does),
            Action::Overdue { how } => {
                self.left.faults -= u8::from(*how != Sending::Well);
                self.marks -= usize::from(*how == Sending::Well);
                wake_ups::put(self, project, 0);
            }
            Action::Expired { task } => {
                if let Some(lease) = &self.tasks[*task].lease {
                    self.recoverers.push((*task, lease.fence.0, lease.heartbeat));
                }
            }
            Action::Recover { recoverer } => {
                let (task, fence, heartbeat) = self.recoverers.remove(*recoverer);
                let now = on_clock(project.bounds.sweep);
                store::recover(self, project, task, fence, heartbeat, now);
            }
            Action::Cancel { task } => {
                self.left.cancels -= 1;
                store::cancel(self, *task);
            }
        }
        self.forget(project);
    }

    /// Time passes: all that is to come is nearer.
    fn pass(&mut self, project: &Project) {
        // On every clock.
        let long_due = on_clock(project.bounds.slowest());
        let long_dead = on_clock(project.bounds.slowest() - 30);
        let seconds = project.bounds.step;
        let step = Duration::from_secs(seconds.unsigned_abs().into());
        for record in &mut self.tasks {
            if record.task.state.is_terminal() {
                continue;
            }
            record.change(|record| {
                record.task.available_at = record.task.available_at.minus(step).max(long_due);
                if let Some(lease) = &mut record.lease {
                    lease.until = lease.until.minus(step).max(long_dead);
                }
            });
        }
        for work in self.runners.iter_mut().flatten() {
            if work.ages() {
                work.age = (work.age + seconds).min(60);
            }
        }
        for message in &mut self.messages {
            message.hidden_for = (message.hidden_for - seconds).max(0);
        }
    }

    /// Forgets what makes no difference.
    fn forget(&mut self, project: &Project) {
        for task in 0..self.tasks.len() {
            let seen = self.recoverers.iter().filter(|(other, ..)| *other == task);
            let most = seen.map(|(.., heartbeat)| heartbeat + 1).max().unwrap_or(0);
            let record = &self.tasks[task];
            let due = rounded_up(record.task.available_at, project.bounds.step);
            let heartbeat = record.lease.as_ref().map_or(0, |lease| lease.heartbeat);
            if heartbeat > most || due != record.task.available_at {
                self.tasks[task].change(|record| {
                    record.task.available_at = due;
                    if let Some(lease) = &mut record.lease {
                        lease.heartbeat = heartbeat.min(most);
                    }
                });
            }
        }
        for place in 0..self.runners.len() {
            let work = self.runners[place].as_ref();
            if work.is_some_and(|work| work.is_harmless() && !work.holds(self)) {
                self.runners[place] = None;
            }
        }
        for message in &mut self.messages {
            // A receipt that nobody has any more is as none.
            message.by = message.by.filter(|runner| self.runners[*runner].is_some());
        }
        if project.bounds.skew() == 0 {
            self.sort_runners();
        }
        self.messages.sort_unstable();
        self.recoverers.sort_unstable();
    }

    /// Where all clocks are alike it does not matter which process is which.
    fn sort_runners(&mut self) {
        let mut order: Vec<usize> = (0..self.runners.len()).collect();
        order.sort_by_key(|place| {
            let work = self.runners[*place].as_ref();
            (work.is_none(), work.map(hash_of))
        });
        self.runners = order.iter().map(|place| self.runners[*place].clone()).collect();
        for message in &mut self.messages {
            message.by = message.by.and_then(|by| order.iter().position(|place| *place == by));
        }
    }

    fn is_visible(&self, message: usize) -> bool {
        self.messages[message].hidden_for <= 0
    }

    /// The number of the next claim.
    pub fn next_claim(&self) -> u8 {
        let taken = |claim: &u8| {
            self.held.contains(&Some(*claim))
                || self.runners.iter().flatten().any(|work| work.claim == *claim)
        };
        (0..=u8::MAX).find(|claim| !taken(claim)).unwrap_or(u8::MAX)
    }
}

/// A moment, in whole steps from now.
fn rounded_up(at: Timestamp, step: i32) -> Timestamp {
    let steps = (seconds_until(at) + step - 1).div_euclid(step);
    on_clock(steps * step)
}
