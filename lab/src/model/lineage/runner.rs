//! What a runner does with a claimed task, write by write, as `runner/src/build/` does it: look,
//! work, record, write the ticket, prepare, push, look again, revoke, report.

use rdev_domain::failure::FailureClass;
use rdev_domain::git::{CommitId, OwnRef, RecordedRef};
use rdev_domain::ids::{Fence, Owner};
use rdev_domain::lease::Holder;
use rdev_domain::task::{Task, TaskState};

use super::Protocol;
use super::folder::{self, Order, Stage};
use super::remote::{History, Push};
use super::world::World;
use crate::model::part::Part;
use crate::model::record::Record;

mod look;
mod push;
mod refs;
mod send;
mod tell;
mod ticket;
mod verify;

use look::{agent, look};
use push::{push, resume, revocation, unsure};
use send::{Answer, answered, sends};
use tell::{tell, unreported};
use ticket::{prepare, ticket_push};
use verify::{Written, aside, verdicts, verify};

/// A runner's work on a claimed task.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attempt {
    number: usize,
    fence: Fence,
    owner: Owner,
    /// The task as it was claimed, and as prepare has left it.
    task: Part<Record>,
    /// The refs that are not dealt with, as the runner knows them.
    refs: Vec<RecordedRef>,
    /// Whether its task is `pushing`.
    prepared: bool,
    /// Whether one of its own pushes was not answered.
    doubt: bool,
    /// Whether the work is an earlier attempt's.
    adopted: bool,
    /// Whether the work that it is about to push still has to be verified.
    unverified: bool,
    phase: Phase,
    /// A move in a folder that it is at.
    moving: Option<(Push, Stage)>,
}

/// What it does next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    /// Looks at the repository.
    Look,
    /// Runs the agent, on this tip. Its ticket may have work that did not pass.
    Agent { base: Option<History>, from: Option<CommitId> },
    /// Writes its ticket, which the store knows: from its own old value, or taking another one
    /// over.
    Write { value: CommitId, base: Option<History>, from: Option<CommitId>, takes: Option<Named> },
    /// Waits for the verify commands. Its ticket is written, or nobody knows.
    Verify { value: CommitId, base: Option<History>, written: bool },
    /// Moves its ticket away, whose work did not pass.
    Aside { value: CommitId, base: Option<History>, then: Then },
    /// Tells the store that the commit is ready.
    Prepare { value: CommitId, base: Option<History> },
    /// Pushes the branch from this tip.
    Push { value: CommitId, base: Option<History> },
    /// Looks again, after any answer but success. `refused`: it will be refused again.
    Unsure { base: Option<History>, refused: bool },
    /// Revokes a ticket.
    Revoke { ticket: Named, class: FailureClass, then: Then },
    /// Reports the end.
    Tell(End),
}

/// A ref and its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Named {
    own: OwnRef,
    commit: CommitId,
}

impl Named {
    fn of(recorded: &RecordedRef) -> Self {
        Self { own: recorded.own, commit: recorded.commit.clone() }
    }
}

/// What follows when a ticket was moved away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Then {
    Fail,
    /// A person has brought the work in.
    Landed,
    /// The ticket was an earlier task's.
    Look,
    /// The ticket had work of an earlier attempt that did not pass.
    Agent,
}

/// The end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum End {
    Landed,
    Failed { class: FailureClass, doubt: bool, revoked: bool },
    Restart,
}

/// How a step of a runner goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Choice {
    /// Well.
    Well,
    /// The answer of the git server gets lost, and the push arrives later or never; an agent fails;
    /// work does not pass; what has landed cannot be reported, because a forge is away.
    Badly,
    /// The git server refuses for good.
    Refused,
}

/// What an attempt does next.
enum Next {
    Phase(Phase),
    Push(Push),
    /// Nothing: it has ended.
    End,
}

impl From<Option<Phase>> for Next {
    fn from(phase: Option<Phase>) -> Self {
        phase.map_or(Self::End, Self::Phase)
    }
}

impl Attempt {
    /// The attempt of a task that was just claimed.
    pub fn of(number: usize, record: &Record) -> Self {
        let lease = record.lease.as_ref().expect("it was just claimed");
        Self {
            number,
            fence: lease.fence,
            owner: lease.owner.clone(),
            refs: record.task.own_refs.clone(),
            prepared: record.task.state == TaskState::Pushing,
            doubt: false,
            adopted: false,
            unverified: false,
            task: Part::new(Record { lease: None, ..record.clone() }),
            phase: Phase::Look,
            moving: None,
        }
    }

    /// Whether it holds its task.
    pub fn holds(&self, world: &World) -> bool {
        let lease = world.tasks[self.number].lease.as_ref();
        lease.is_some_and(|l| l.fence == self.fence && l.owner == self.owner)
    }

    /// Whether nothing that it does changes anything any more, once it has lost its lease: its next
    /// step is a write to the store, or comes before one.
    pub fn is_harmless(&self) -> bool {
        let before_the_store_knows = match &self.phase {
            Phase::Look
            | Phase::Agent { .. }
            | Phase::Verify { .. }
            | Phase::Aside { .. }
            | Phase::Prepare { .. }
            | Phase::Tell(_) => true,
            Phase::Write { .. }
            | Phase::Push { .. }
            | Phase::Unsure { .. }
            | Phase::Revoke { .. } => false,
        };
        before_the_store_knows && self.moving.is_none()
    }

    /// The move in a folder that it is at.
    pub fn moving(&self) -> Option<&Push> {
        self.moving.as_ref().map(|(push, _)| push)
    }

    fn task(&self) -> &Task {
        &self.task.task
    }

    fn holder(&self) -> Holder {
        Holder { fence: self.fence, owner: self.owner.clone() }
    }

    fn own(&self) -> OwnRef {
        OwnRef::Wip(self.task().id, self.fence)
    }

    fn failed(class: FailureClass, doubt: bool) -> Phase {
        Phase::Tell(End::Failed { class, doubt, revoked: false })
    }
}

/// How the next step of an attempt may go.
pub fn choices(world: &World, attempt: &Attempt) -> Vec<Choice> {
    let mut choices = vec![Choice::Well];
    if attempt.moving.is_some() {
        return choices;
    }
    match &attempt.phase {
        Phase::Agent { .. } if world.left.agents == 0 => return vec![Choice::Badly],
        Phase::Verify { value, .. } => return verdicts(world, value),
        Phase::Write { .. } | Phase::Aside { .. } | Phase::Push { .. } | Phase::Revoke { .. }
            if world.left.lost > 0 =>
        {
            choices.push(Choice::Badly);
        }
        Phase::Tell(End::Landed) if attempt.prepared && world.left.lost > 0 => {
            choices.push(Choice::Badly);
        }
        _ => {}
    }
    if matches!(attempt.phase, Phase::Push { .. }) && world.left.refusals > 0 {
        choices.push(Choice::Refused);
    }
    choices
}

/// Goes on.
pub fn go(world: &mut World, protocol: &Protocol, runner: usize, choice: Choice) {
    let Some(part) = world.runners[runner].take() else { return };
    let mut attempt = Attempt::clone(&part);
    let next = if let Some((push, stage)) = attempt.moving.take() {
        let order = Order::of(protocol.variant);
        match world.remote.change(|remote| folder::go(remote, &push, stage, order)) {
            Ok(Some(stage)) => {
                attempt.moving = Some((push, stage));
                Some(attempt.phase.clone())
            }
            Ok(None) => answered(world, protocol, &mut attempt, Answer::Done),
            Err(refused) => answered(world, protocol, &mut attempt, Answer::Not(refused)),
        }
    } else {
        if folder::left_over(&world.remote).is_some() {
            world.remote.change(folder::tidy_all);
        }
        match next(world, protocol, &mut attempt, choice) {
            Next::End => None,
            Next::Phase(phase) => Some(phase),
            Next::Push(push) => sends(world, protocol, &mut attempt, push, choice),
        }
    };
    if let Some(phase) = next {
        attempt.phase = phase;
        world.runners[runner] = Some(Part::new(attempt));
    }
}

fn next(world: &mut World, protocol: &Protocol, attempt: &mut Attempt, choice: Choice) -> Next {
    match attempt.phase.clone() {
        Phase::Look if attempt.prepared => resume(world, protocol, attempt).into(),
        Phase::Look => look(world, protocol, attempt).into(),
        Phase::Agent { base, from } => agent(world, protocol, attempt, base, from, choice).into(),
        Phase::Verify { value, base, written } => {
            verify(world, protocol, attempt, Written { value, base, written }, choice).into()
        }
        Phase::Aside { value, .. } => aside(world, attempt, value),
        Phase::Write { value, from, takes, .. } => {
            Next::Push(ticket_push(world, protocol, attempt, value, from, takes))
        }
        Phase::Prepare { value, base } => prepare(world, protocol, attempt, value, base).into(),
        Phase::Push { value, base } => push(world, protocol, attempt, value, base),
        Phase::Unsure { base, refused } => unsure(world, protocol, attempt, base, refused).into(),
        Phase::Revoke { ticket, class, then } => {
            revocation(world, protocol, attempt, &ticket, class, then)
        }
        Phase::Tell(end) => {
            let end = if choice == Choice::Badly { unreported(world, protocol) } else { end };
            tell(world, protocol, attempt, end);
            Next::End
        }
    }
}
