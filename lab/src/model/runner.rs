//! What a runner does with a claimed task, write by write, as `runner/src/build/` does it: look, work,
//! record, write the ticket, prepare, push, look again, revoke, report.

use std::hash::{Hash, Hasher};

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{CommitId, OwnRef, RecordedRef};
use rdev_domain::ids::Fence;
use rdev_domain::lease::Holder;
use rdev_domain::result::{TaskResult, Usage};
use rdev_domain::step::Event;
use rdev_domain::task::{Task, TaskState, WipRef};

use super::remote::{self, History, Scan, scan};
use super::store::{Record, hash_refs, result};
use super::world::World;
use super::{Protocol, Variant};

mod look;
mod push;
mod ticket;

use look::{agent, look};
use push::{push, resume, revoke, unsure};
use ticket::{Write, prepare, write_ticket};

/// A runner's work on a claimed task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    number: usize,
    holder: Holder,
    /// The task as it was claimed.
    task: Record,
    /// The refs that are not dealt with, as the runner knows them.
    refs: Vec<RecordedRef>,
    /// Whether its task is `pushing`.
    prepared: bool,
    /// Whether one of its own pushes was not answered.
    doubt: bool,
    phase: Phase,
}

impl Hash for Attempt {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.number, self.holder.fence.0, self.holder.owner.as_str()).hash(hasher);
        self.task.hash(hasher);
        hash_refs(&self.refs, hasher);
        (self.prepared, self.doubt).hash(hasher);
        self.phase.hash(hasher);
    }
}

/// What it does next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    /// Looks at the repository.
    Look,
    /// Runs the agent, on this tip.
    Agent { base: Option<History> },
    /// Writes its ticket, which the store knows: from its own old value, or taking another one over.
    Write { value: CommitId, base: Option<History>, from: Option<CommitId>, takes: Option<Named> },
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
    path: String,
    commit: CommitId,
}

impl Named {
    fn of(recorded: &RecordedRef) -> Self {
        Self { path: recorded.own.path(), commit: recorded.commit.clone() }
    }

    fn own(&self) -> OwnRef {
        self.path.clone().try_into().expect("a ref of rdev's own")
    }
}

/// What follows a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Then {
    Fail,
    /// A person has brought the work in.
    Landed,
    /// The ticket was an earlier task's.
    Look,
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
    /// The answer of the git server gets lost, and the push arrives later or never; an agent fails.
    Badly,
    /// The git server refuses for good.
    Refused,
}

impl Attempt {
    /// The attempt of a task that was just claimed.
    pub fn of(number: usize, record: &Record) -> Self {
        let lease = record.lease.as_ref().expect("it was just claimed");
        Self {
            number,
            holder: Holder { fence: lease.fence, owner: lease.owner.clone() },
            refs: record.task.own_refs.clone(),
            prepared: record.task.state == TaskState::Pushing,
            doubt: false,
            task: Record { lease: None, ..record.clone() },
            phase: Phase::Look,
        }
    }

    /// Whether it holds its task.
    pub fn holds(&self, world: &World) -> bool {
        let lease = world.tasks[self.number].lease.as_ref();
        lease.is_some_and(|l| l.fence == self.holder.fence && l.owner == self.holder.owner)
    }

    fn task(&self) -> &Task {
        &self.task.task
    }

    fn own(&self) -> OwnRef {
        OwnRef::Wip(self.task().id, self.holder.fence)
    }

    fn failed(class: FailureClass, doubt: bool) -> Phase {
        Phase::Tell(End::Failed { class, doubt, revoked: false })
    }
}

/// How the next step of an attempt may go.
pub fn choices(world: &World, attempt: &Attempt) -> Vec<Choice> {
    let mut choices = vec![Choice::Well];
    match &attempt.phase {
        Phase::Agent { .. } if world.left.agents == 0 => return vec![Choice::Badly],
        Phase::Write { .. } | Phase::Push { .. } | Phase::Revoke { .. } if world.left.lost > 0 => {
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
    let Some(mut attempt) = world.runners[runner].take() else { return };
    let next = match attempt.phase.clone() {
        Phase::Look if attempt.prepared => resume(world, protocol, &mut attempt),
        Phase::Look => look(world, protocol, &mut attempt),
        Phase::Agent { base } => agent(world, &mut attempt, base, choice),
        Phase::Write { value, base, from, takes } => {
            let write = Write { value, base, from, takes };
            write_ticket(world, &mut attempt, write, choice)
        }
        Phase::Prepare { value, base } => prepare(world, protocol, &mut attempt, value, base),
        Phase::Push { value, base } => push(world, protocol, &mut attempt, value, base, choice),
        Phase::Unsure { base, refused } => unsure(world, protocol, &mut attempt, base, refused),
        Phase::Revoke { ticket, class, then } => {
            revoke(world, protocol, &mut attempt, &ticket, class, then, choice)
        }
        Phase::Tell(end) => {
            tell(world, protocol, &attempt, end);
            None
        }
    };
    if let Some(phase) = next {
        attempt.phase = phase;
        world.runners[runner] = Some(attempt);
    }
}

/// Records what it is about to write. `false`: the lease is lost.
fn record(world: &mut World, attempt: &mut Attempt, entry: RecordedRef) -> bool {
    if attempt.refs.contains(&entry) {
        return true;
    }
    attempt.refs.push(entry);
    let record = &mut world.tasks[attempt.number];
    record.record_refs(&attempt.holder, &attempt.refs).is_ok()
}

/// Records a ticket; it is written next.
fn writes(
    world: &mut World,
    attempt: &mut Attempt,
    value: CommitId,
    base: Option<History>,
    from: Option<CommitId>,
    takes: Option<Named>,
) -> Option<Phase> {
    let mine = from.clone().map(|commit| Named { path: attempt.own().path(), commit });
    let before: Vec<Named> = takes.iter().cloned().chain(mine).collect();
    let entry = RecordedRef {
        // What an old push may take to the branch stays so under another name and value.
        may_land: attempt.prepared
            || attempt.refs.iter().any(|old| old.may_land && before.contains(&Named::of(old))),
        ..RecordedRef::of(attempt.own(), value.clone())
    };
    record(world, attempt, entry).then_some(Phase::Write { value, base, from, takes })
}

fn present<'a>(world: &World, refs: &'a [RecordedRef]) -> Vec<&'a RecordedRef> {
    refs.iter().filter(|recorded| world.remote.has(recorded.own, &recorded.commit)).collect()
}

/// The newest ticket of a task above a fence that is there.
fn newest(
    world: &World,
    refs: &[RecordedRef],
    task: rdev_domain::ids::TaskId,
    floor: Fence,
) -> Option<Named> {
    let tickets = present(world, refs).into_iter().filter_map(|recorded| match recorded.own {
        OwnRef::Wip(id, fence) if id == task && fence > floor => Some((fence, recorded)),
        _ => None,
    });
    tickets.max_by_key(|(fence, _)| *fence).map(|(_, recorded)| Named::of(recorded))
}

/// The newest ticket of a push that is there, or where one of its tickets was revoked to.
fn newest_since(
    world: &World,
    refs: &[RecordedRef],
    prepared: WipRef,
    of_push: impl Fn(&RecordedRef) -> bool,
) -> Option<Named> {
    let tickets = present(world, refs).into_iter().filter_map(|recorded| match recorded.own {
        OwnRef::Wip(task, fence) if of_push(recorded) => Some((task, fence, recorded)),
        OwnRef::Revoked(task, fence) => Some((task, fence, recorded)),
        _ => None,
    });
    let since =
        tickets.filter(|(task, fence, _)| *task == prepared.task && *fence >= prepared.fence);
    since.max_by_key(|(_, fence, _)| *fence).map(|(.., recorded)| Named::of(recorded))
}

fn lineage(world: &World, attempt: &Attempt) -> u8 {
    world.number_of(attempt.task().lineage)
}

fn scan_base(attempt: &Attempt) -> Option<Option<History>> {
    attempt.task().scan_base.as_ref().map(remote::history)
}

fn search(
    world: &World,
    attempt: &Attempt,
    base: &Option<History>,
    branch: &Option<History>,
) -> Scan {
    scan(base.as_ref(), branch.as_ref(), lineage(world, attempt), &world.works)
}

/// The ticket is gone: it has landed, or a person deleted it.
fn gone(world: &World, attempt: &Attempt) -> Phase {
    let branch = &world.remote.branch;
    let base = scan_base(attempt).flatten();
    let found = match search(world, attempt, &base, branch) {
        Scan::Rewritten => search(world, attempt, &None, branch),
        other => other,
    };
    match found {
        Scan::Found => Phase::Tell(End::Landed),
        _ => Attempt::failed(FailureClass::HistoryRewritten, true),
    }
}

fn holder(world: &World, protocol: &Protocol, attempt: &Attempt) -> Holder {
    match (&world.tasks[attempt.number].lease, protocol.variant) {
        (Some(lease), Variant::NoFence) => {
            Holder { fence: lease.fence, owner: lease.owner.clone() }
        }
        _ => attempt.holder.clone(),
    }
}

fn tell(world: &mut World, protocol: &Protocol, attempt: &Attempt, end: End) {
    let holder = holder(world, protocol, attempt);
    let event = match end {
        End::Landed if attempt.prepared => Event::Complete { holder, result: result() },
        End::Landed => {
            let result = TaskResult::Build(result());
            Event::Finish { holder, result, usage: Usage::default() }
        }
        End::Restart => Event::Restart { holder },
        End::Failed { class, doubt, revoked } => {
            let failure = Failure { push_in_doubt: doubt, ..Failure::new(class, "") };
            Event::Fail { holder, failure, usage: None, revoked }
        }
    };
    // Refused: the lease is lost, and the task is another's.
    let _ = world.tasks[attempt.number].apply(event);
}
