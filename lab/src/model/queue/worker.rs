//! What a runner does with a wake-up: read, claim, renew, prepare, push, report, delete the
//! wake-up.

use rdev_domain::failure::FailureClass;
use rdev_domain::ids::{Fence, Owner};
use rdev_domain::lease::{CLOCK_SLACK, Holder, LEASE};
use rdev_domain::task::TaskState;

use super::bounds::Queue;
use super::store::{self, Read, on_clock};
use super::wake_ups::{self, Sending};
use super::world::{Broken, World};
use super::{Project, Variant};
use crate::model::record::owner;

mod report;

use report::{prepares, reports};

/// A wake-up whose work a runner cannot take now comes again after so many seconds.
const POSTPONED: i32 = 60;

/// A runner that has received a wake-up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Work {
    /// Its claim, by number: no two are alike, also where fences are.
    pub claim: u8,
    /// Its task, as soon as one is read.
    pub task: usize,
    fence: u64,
    phase: Phase,
    /// How long ago the last renewal that was acknowledged was sent, in seconds.
    pub age: i32,
    /// It knows that the task is to be cancelled.
    cancelled: bool,
    /// An answer of the store was lost: what it repeats may have been done.
    in_doubt: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    /// It has read what is due, and claims it.
    Claiming {
        taken: u32,
    },
    Running,
    /// What it has prepared is recorded.
    Pushing,
    /// It is on the branch.
    Pushed,
    /// It reports the end; an answer was lost.
    Reporting(End),
    /// It deletes the wake-up.
    Done(End),
}

/// The end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    Completed,
    Failed(FailureClass),
    Released,
}

/// What a runner does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Does {
    /// Claims; `answered`: it hears that it did.
    Claim {
        answered: bool,
    },
    Renew,
    Prepare {
        answered: bool,
    },
    Push,
    /// Reports the end, and sends the wake-ups; `None`: the answer is lost.
    Report(End, Option<Sending>),
    /// Deletes the wake-up.
    Delete,
}

impl Work {
    /// Whether it may push: no other process may count it as dead.
    pub fn may_push(&self) -> bool {
        i64::from(self.age) < i64::try_from(LEASE.as_secs()).unwrap_or(0)
    }

    /// Whether nothing that it does changes anything, once it has lost its lease.
    pub fn is_harmless(&self) -> bool {
        match self.phase {
            Phase::Running | Phase::Pushed | Phase::Reporting(_) => true,
            Phase::Pushing => !self.may_push(),
            Phase::Claiming { .. } | Phase::Done(_) => false,
        }
    }

    /// Whether it has the lease that its task has.
    pub fn holds(&self, world: &World) -> bool {
        let lease = world.tasks[self.task].lease.as_ref();
        lease.is_some_and(|lease| lease.fence == Fence(self.fence))
    }

    /// Whether it has read what is due and not claimed it yet.
    pub fn is_claiming(&self) -> bool {
        matches!(self.phase, Phase::Claiming { .. })
    }

    /// Whether it is of consequence how old its last renewal is.
    pub fn ages(&self) -> bool {
        match self.phase {
            Phase::Claiming { .. } => self.in_doubt,
            Phase::Running | Phase::Pushing | Phase::Pushed | Phase::Reporting(_) => true,
            Phase::Done(_) => false,
        }
    }

    /// Whether it has claimed.
    fn has_claimed(&self) -> bool {
        !matches!(self.phase, Phase::Claiming { .. } | Phase::Done(_))
    }

    fn holder(&self) -> Holder {
        Holder { fence: Fence(self.fence), owner: process(self.claim) }
    }
}

/// Each claim is another process's.
fn process(claim: u8) -> Owner {
    owner(&claim.to_string())
}

/// A runner that is idle receives a wake-up, whichever it is.
pub fn receive(world: &mut World, project: &Project, runner: usize, message: Option<usize>) {
    let again = match message {
        None => true,
        Some(message) => {
            let message = &mut world.messages[message];
            let again = message.received;
            (message.received, message.by) = (true, Some(runner));
            message.hidden_for = wake_ups::HIDDEN_FOR;
            again
        }
    };
    reads(world, project, runner, again);
}

/// Reads what is due, and deletes or postpones the wake-up where nothing can be claimed.
fn reads(world: &mut World, project: &Project, runner: usize, again: bool) {
    let now = on_clock(project.bounds.runners[runner]);
    let (read, wake_ups) = store::read(world, project, now);
    wake_ups::send(world, project, &wake_ups, Sending::Well);
    match read {
        Read::Due { task, fence, taken } => {
            world.runners[runner] = Some(Work {
                claim: world.next_claim(),
                task,
                fence,
                phase: Phase::Claiming { taken },
                age: 0,
                cancelled: false,
                in_doubt: false,
            });
        }
        Read::SlotsTaken if again => {
            wake_ups::delete(world, runner);
            wake_ups::put(world, project, POSTPONED);
        }
        Read::SlotsTaken | Read::Nothing => wake_ups::delete(world, runner),
    }
}

/// What a runner may do next.
pub fn choices(world: &World, project: &Project, work: &Work) -> Vec<Does> {
    let faulty = world.left.faults > 0;
    let with_answer = |does: fn(bool) -> Does| {
        let lost = faulty.then(|| does(false));
        [does(true)].into_iter().chain(lost).collect::<Vec<_>>()
    };
    let report = |end: End| {
        let well = Does::Report(end, Some(Sending::Well));
        let faults = [None, Some(Sending::Not), Some(Sending::MarksStay)];
        let sent = if project.bounds.queue == Queue::Good { 3 } else { 1 };
        let faults = faults.into_iter().take(sent).map(move |how| Does::Report(end, how));
        [well].into_iter().chain(faults.filter(move |_| faulty)).collect::<Vec<_>>()
    };
    let mut choices = Vec::new();
    let flagged = |world: &World| {
        let lease = world.tasks[work.task].lease.as_ref();
        lease.is_some_and(|lease| lease.cancel_requested)
    };
    if work.has_claimed() && (work.age > 0 || flagged(world) && !work.cancelled) {
        choices.push(Does::Renew);
    }
    match work.phase {
        Phase::Claiming { .. } => {
            choices.extend(with_answer(|answered| Does::Claim { answered }));
        }
        Phase::Running if work.cancelled => {
            choices.extend(report(End::Failed(FailureClass::Cancelled)));
        }
        Phase::Running => {
            choices.extend(with_answer(|answered| Does::Prepare { answered }));
            if world.left.parks > 0 {
                choices.extend(report(End::Failed(FailureClass::Quota)));
            }
            if world.left.releases > 0 {
                choices.extend(report(End::Released));
            }
        }
        Phase::Pushing => {
            if work.may_push() {
                choices.push(Does::Push);
            }
            if world.left.releases > 0 {
                choices.extend(report(End::Released));
            }
        }
        Phase::Pushed => choices.extend(report(End::Completed)),
        Phase::Reporting(end) => choices.extend(report(end)),
        Phase::Done(_) => choices.push(Does::Delete),
    }
    choices
}

/// Does it.
pub fn go(world: &mut World, project: &Project, runner: usize, does: Does) {
    let Some(mut work) = world.runners[runner].take() else { return };
    let now = on_clock(project.bounds.runners[runner]);
    let next = match does {
        Does::Claim { answered } => claims(world, project, runner, &mut work, answered),
        Does::Renew => {
            let holder = work.holder();
            match store::renew(world, project, (work.task, work.claim), &holder, now) {
                Ok(cancelled) => {
                    (work.age, work.cancelled) = (0, work.cancelled || cancelled);
                    wake_ups::hide(world, runner, wake_ups::HIDDEN_FOR);
                    Some(work.phase)
                }
                Err(_) => None,
            }
        }
        Does::Prepare { answered } => prepares(world, project, runner, &mut work, answered),
        Does::Push => {
            let slack = i32::try_from(CLOCK_SLACK.as_secs()).unwrap_or(0);
            if world.held[work.task] != Some(work.claim) && project.bounds.skew() <= slack {
                world.broken = Some(Broken::PushedWithoutLease);
            }
            Some(Phase::Pushed)
        }
        Does::Report(end, how) => reports(world, project, runner, &mut work, end, how),
        Does::Delete => {
            match work.phase {
                Phase::Done(End::Released) => wake_ups::hide(world, runner, 0),
                _ => wake_ups::delete(world, runner),
            }
            None
        }
    };
    if let Some(phase) = next {
        work.phase = phase;
        world.runners[runner] = Some(work);
    }
}

fn claims(
    world: &mut World,
    project: &Project,
    runner: usize,
    work: &mut Work,
    answered: bool,
) -> Option<Phase> {
    let Phase::Claiming { taken } = work.phase else { return None };
    let now = on_clock(project.bounds.runners[runner]);
    let seen = (work.task, work.fence, taken);
    if !work.in_doubt && store::claim(world, project, work.claim, seen, now) {
        world.left.claims = world.left.claims.saturating_sub(1);
        // A good queue hides it for longer than the lease lasts.
        wake_ups::hide(world, runner, wake_ups::HIDDEN_FOR);
        if !answered {
            world.left.faults -= 1;
            work.in_doubt = true;
            return Some(work.phase);
        }
    } else if !is_own(world, project, work) {
        // Another process was faster: it reads again.
        reads(world, project, runner, true);
        return None;
    }
    work.in_doubt = false;
    work.fence += 1;
    Some(match world.tasks[work.task].task.state {
        TaskState::Pushing => Phase::Pushing,
        _ => Phase::Running,
    })
}

/// Whether the claim that is there is its own, whose answer was lost.
fn is_own(world: &World, project: &Project, work: &Work) -> bool {
    let lease = world.tasks[work.task].lease.as_ref();
    let same_fence = lease.is_some_and(|lease| lease.fence == Fence(work.fence + 1));
    let same_claim = world.held[work.task] == Some(work.claim);
    same_fence && (same_claim || project.variant == Variant::IgnoresOwner)
}
