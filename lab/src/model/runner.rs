//! What a runner does with a claimed task, write by write, as `runner/src/build/` does it: look, work,
//! record, write the ticket, prepare, push, look again, revoke, report.

use std::hash::{Hash, Hasher};

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{CommitId, OwnRef, RecordedRef};
use rdev_domain::ids::Fence;
use rdev_domain::lease::Holder;
use rdev_domain::result::{TaskResult, Usage};
use rdev_domain::step::{Event, ends_push};
use rdev_domain::task::{Prepared, Task, TaskState, WipRef};

use super::people::STRANGER;
use super::remote::{
    self, History, Push, Refused, Scan, Sets, commit, rebased, scan, tip, work_of,
};
use super::store::{NOW, Record, hash_refs, result};
use super::world::World;
use super::{Protocol, Variant};

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

/// Before the agent: what earlier attempts of the chain have left.
fn look(world: &mut World, protocol: &Protocol, attempt: &mut Attempt) -> Option<Phase> {
    let branch = world.remote.branch.clone();
    if protocol.variant == Variant::RetryTakesNothingOver && attempt.task().retry_of.is_some() {
        return Some(Phase::Agent { base: branch });
    }
    let task = attempt.task().clone();
    let refs = attempt.refs.clone();
    let adopted = adoptable(world, protocol, &task, &refs);
    let in_doubt = refs.iter().filter(|recorded| recorded.may_land);
    let (there, lost): (Vec<&RecordedRef>, Vec<_>) =
        in_doubt.partition(|recorded| world.remote.has(recorded.own, &recorded.commit));
    let Some(base) = scan_base(attempt) else {
        if let Some(ticket) = there.first() {
            return Some(revokes(&Named::of(ticket), FailureClass::Conflict, Then::Look));
        }
        attempt.refs.retain(|recorded| !lost.contains(&recorded));
        return adopts(world, attempt, adopted, branch);
    };
    // Each of them was made of the one before, so where one was revoked those after it never were.
    let is_revoked = |ticket: &&RecordedRef| {
        let OwnRef::Wip(id, fence) = ticket.own else { return false };
        let moved = OwnRef::Revoked(id, fence);
        present(world, &refs).iter().any(|recorded| recorded.own == moved)
    };
    if there.is_empty() && !lost.is_empty() && !lost.iter().any(is_revoked) {
        if protocol.variant == Variant::GoneIsDoneAgain {
            return Some(Phase::Agent { base: branch });
        }
        return Some(gone(world, attempt));
    }
    if there.is_empty() {
        // What was revoked is dealt with, also after the revoked one is taken over. (Where one is
        // there, the others may be values that it gets by a late push.)
        attempt.refs.retain(|recorded| !lost.contains(&recorded));
    }
    let found = search(world, attempt, &base, &branch);
    for ticket in there {
        let named = Named::of(ticket);
        if adopted.as_ref() != Some(&named) || found != Scan::NotFound {
            return Some(revokes(&named, FailureClass::Conflict, Then::Look));
        }
    }
    match found {
        Scan::Found => Some(Phase::Tell(End::Landed)),
        Scan::Rewritten => Some(Attempt::failed(FailureClass::HistoryRewritten, false)),
        Scan::NotFound => adopts(world, attempt, adopted, branch),
    }
}

fn adoptable(
    world: &World,
    protocol: &Protocol,
    task: &Task,
    refs: &[RecordedRef],
) -> Option<Named> {
    if protocol.variant == Variant::AdoptsWhatIsNotRecorded {
        let mut all = world.remote.own.iter();
        let of_task = format!("rdev/wip/{}/", task.id);
        let found = all.find(|(path, _)| path.starts_with(&of_task));
        return found.map(|(path, commit)| Named { path: path.clone(), commit: commit.clone() });
    }
    newest(world, refs, task.id, task.wip_floor).or_else(|| {
        let named = task.resume_from.filter(|_| task.wip_floor == Fence(0))?;
        newest_since(world, refs, named, |_| true)
    })
}

fn adopts(
    world: &mut World,
    attempt: &mut Attempt,
    adopted: Option<Named>,
    branch: Option<History>,
) -> Option<Phase> {
    match adopted {
        Some(ticket) => {
            let value = ticket.commit.clone();
            writes(world, attempt, value, branch, None, Some(ticket))
        }
        None => Some(Phase::Agent { base: branch }),
    }
}

fn revokes(ticket: &Named, class: FailureClass, then: Then) -> Phase {
    Phase::Revoke { ticket: ticket.clone(), class, then }
}

fn agent(
    world: &mut World,
    attempt: &mut Attempt,
    base: Option<History>,
    choice: Choice,
) -> Option<Phase> {
    if choice == Choice::Badly {
        return Some(Attempt::failed(FailureClass::Timeout, false));
    }
    world.left.agents -= 1;
    let of = lineage(world, attempt);
    let prepared = world
        .tasks
        .iter()
        .flat_map(|record| &record.task.own_refs)
        .filter(|recorded| recorded.may_land && world.number_of(recorded.own.task()) == of);
    let live =
        prepared.into_iter().any(|recorded| world.remote.has(recorded.own, &recorded.commit));
    if live && attempt.holds(world) {
        world.broken = Some("an agent runs although prepared work of its lineage may still land");
    }
    world.works.push(of);
    let work = u8::try_from(world.works.len() - 1).expect("few agents");
    writes(world, attempt, commit(work, 0), base, None, None)
}

struct Write {
    value: CommitId,
    base: Option<History>,
    from: Option<CommitId>,
    takes: Option<Named>,
}

fn write_ticket(
    world: &mut World,
    attempt: &mut Attempt,
    write: Write,
    choice: Choice,
) -> Option<Phase> {
    let Write { value, base, from, takes } = write;
    let name = attempt.own().path();
    let deletes = takes.clone().map(|takes| (takes.path, takes.commit));
    let from = from.or_else(|| {
        // A stranger's ref of this name is replaced; what this attempt recorded is not a stranger's.
        let there = world.remote.own.get(&name)?;
        (work_of(there) == STRANGER).then(|| there.clone())
    });
    let sets = Sets::Own { name, from, to: value.clone() };
    let push = Push { sets, deletes };
    if choice == Choice::Badly {
        lose(world, push);
        return Some(Attempt::failed(FailureClass::Infra, false));
    }
    if world.remote.apply(&push).is_err() {
        return Some(match takes {
            None if attempt.prepared => Phase::Unsure { base, refused: false },
            _ => Attempt::failed(FailureClass::Infra, false),
        });
    }
    let own = attempt.own();
    let mut written = attempt.refs.iter().filter(|r| r.own == own && r.commit == value);
    let may_land = written.any(|recorded| recorded.may_land);
    attempt.refs.retain(|recorded| {
        recorded.own == own && recorded.commit == value
            || recorded.own != own
                && takes.as_ref().is_none_or(|takes| takes.own() != recorded.own)
                && !(may_land && recorded.may_land)
    });
    let tip = world.remote.branch.clone();
    if attempt.prepared {
        // What it took over is based on another tip, as far as it knows.
        let base = if takes.is_some() { tip } else { base };
        return Some(Phase::Push { value, base });
    }
    if tip == base {
        return Some(Phase::Prepare { value, base });
    }
    if let Some(scan_base) = scan_base(attempt) {
        match search(world, attempt, &scan_base, &tip) {
            Scan::Found => return Some(Phase::Tell(End::Landed)),
            Scan::Rewritten => return Some(Attempt::failed(FailureClass::HistoryRewritten, false)),
            Scan::NotFound => {}
        }
    }
    follow(world, attempt, value, &base, tip)
}

/// Rebases onto a tip and moves the ticket.
fn follow(
    world: &mut World,
    attempt: &mut Attempt,
    value: CommitId,
    base: &Option<History>,
    tip: Option<History>,
) -> Option<Phase> {
    if tip.is_none() && base.is_some() {
        return Some(fails(world, attempt, FailureClass::HistoryRewritten));
    }
    let rebased = commit(work_of(&value), rebased(&value) + 1);
    writes(world, attempt, rebased, tip, Some(value), None)
}

fn prepare(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    value: CommitId,
    base: Option<History>,
) -> Option<Phase> {
    let prepared = Prepared {
        commit: value.clone(),
        base: tip(base.as_ref()),
        branch: "main".parse().expect("a branch"),
        wip: WipRef { task: attempt.task().id, fence: attempt.holder.fence },
        atomic: true,
        at: NOW,
    };
    let holder = holder(world, protocol, attempt);
    let event = Event::Prepare { holder, prepared, result: result(), usage: Usage::default() };
    let record = &mut world.tasks[attempt.number];
    // Refused: the lease is lost.
    record.apply(event).ok()?;
    attempt.prepared = true;
    attempt.task = Record { lease: None, ..record.clone() };
    attempt.refs.clone_from(&record.task.own_refs);
    Some(Phase::Push { value, base })
}

fn push(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    value: CommitId,
    base: Option<History>,
    choice: Choice,
) -> Option<Phase> {
    let from = scan_base(attempt).flatten();
    let ticket = Named { path: attempt.own().path(), commit: value.clone() };
    match search(world, attempt, &from, &base) {
        Scan::Found => return Some(revokes(&ticket, FailureClass::Conflict, Then::Landed)),
        Scan::Rewritten => {
            return Some(fails(world, attempt, FailureClass::HistoryRewritten));
        }
        Scan::NotFound => {}
    }
    let sets = Sets::Branch { from: base.clone(), to: value, task: attempt.number };
    let leaves = protocol.variant == Variant::LandingLeavesTheTicket;
    let deletes = (!leaves).then_some((ticket.path, ticket.commit));
    let push = Push { sets, deletes };
    match choice {
        Choice::Well => match world.remote.apply(&push) {
            Ok(()) => Some(Phase::Tell(End::Landed)),
            Err(Refused::Moved | Refused::Gone) => Some(Phase::Unsure { base, refused: false }),
        },
        Choice::Badly => {
            lose(world, push);
            attempt.doubt = true;
            Some(Phase::Unsure { base, refused: false })
        }
        Choice::Refused => {
            world.left.refusals -= 1;
            Some(Phase::Unsure { base, refused: true })
        }
    }
}

fn lose(world: &mut World, push: Push) {
    world.left.lost -= 1;
    world.in_flight.push(push);
}

/// The attempt's own ticket where it is, at whatever value it has recorded.
fn mine(world: &World, attempt: &Attempt) -> Option<Named> {
    let own = attempt.own();
    let there = present(world, &attempt.refs);
    there.into_iter().find(|recorded| recorded.own == own).map(Named::of)
}

fn unsure(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    base: Option<History>,
    refused: bool,
) -> Option<Phase> {
    let branch = world.remote.branch.clone();
    let Some(ticket) = mine(world, attempt) else {
        let moved = OwnRef::Revoked(attempt.task().id, attempt.holder.fence);
        let there = present(world, &attempt.refs);
        let revoked = there.into_iter().find(|recorded| recorded.own == moved);
        if let Some(class) = revoked.and_then(|recorded| recorded.revoked_for) {
            let base = scan_base(attempt).flatten();
            if search(world, attempt, &base, &branch) == Scan::Found {
                return Some(Phase::Tell(End::Landed));
            }
            return Some(Phase::Tell(End::Failed { class, doubt: false, revoked: true }));
        }
        if protocol.variant == Variant::GoneIsDoneAgain {
            return Some(Phase::Tell(End::Restart));
        }
        return Some(gone(world, attempt));
    };
    if refused {
        return Some(fails(world, attempt, FailureClass::PushRejected));
    }
    let from = scan_base(attempt).flatten();
    match search(world, attempt, &from, &branch) {
        Scan::Found => return Some(revokes(&ticket, FailureClass::Conflict, Then::Landed)),
        Scan::Rewritten => {
            return Some(fails(world, attempt, FailureClass::HistoryRewritten));
        }
        Scan::NotFound => {}
    }
    if branch == base {
        return Some(Phase::Push { value: ticket.commit, base });
    }
    follow(world, attempt, ticket.commit, &base, branch)
}

/// Ends the attempt with a failure: the ticket is revoked first where the task ends.
fn fails(world: &World, attempt: &Attempt, class: FailureClass) -> Phase {
    match mine(world, attempt) {
        Some(ticket) if attempt.prepared && ends_push(attempt.task(), class, NOW) => {
            revokes(&ticket, class, Then::Fail)
        }
        _ => Attempt::failed(class, attempt.doubt),
    }
}

fn revoke(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    ticket: &Named,
    class: FailureClass,
    then: Then,
    choice: Choice,
) -> Option<Phase> {
    if protocol.variant == Variant::FailsWithoutRevoking {
        return Some(after_revocation(attempt, class, then, false));
    }
    let OwnRef::Wip(task, fence) = ticket.own() else { return None };
    let own = OwnRef::Revoked(task, fence);
    let entry =
        RecordedRef { revoked_for: Some(class), ..RecordedRef::of(own, ticket.commit.clone()) };
    if !record(world, attempt, entry) {
        return None;
    }
    let (name, to) = (own.path(), ticket.commit.clone());
    let from = world.remote.own.get(&name).cloned();
    let sets = match protocol.variant {
        Variant::RevocationDeletes => Sets::Nothing,
        _ => Sets::Own { name, from, to },
    };
    let push = Push { sets, deletes: Some((ticket.path.clone(), ticket.commit.clone())) };
    if choice == Choice::Badly {
        lose(world, push);
        return Some(match then {
            Then::Fail => Attempt::failed(class, attempt.doubt),
            Then::Landed | Then::Look => Attempt::failed(FailureClass::Infra, attempt.doubt),
        });
    }
    match world.remote.apply(&push) {
        Ok(()) => {
            // Each ticket that may land was made of the one before: with this one all are dealt with.
            let mut of_it = attempt.refs.iter().filter(|recorded| recorded.own == ticket.own());
            let may_land = of_it.any(|recorded| recorded.may_land);
            attempt.refs.retain(|recorded| {
                recorded.own != ticket.own() && !(may_land && recorded.may_land)
            });
            if then == Then::Look {
                // The store learns that it is dealt with.
                let record = &mut world.tasks[attempt.number];
                record.record_refs(&attempt.holder, &attempt.refs).ok()?;
            }
            Some(after_revocation(attempt, class, then, true))
        }
        Err(_) if then == Then::Look => Some(Attempt::failed(FailureClass::Infra, false)),
        // It has landed, or an unanswered push has moved it to another value.
        Err(_) => Some(match mine(world, attempt) {
            Some(ticket) => revokes(&ticket, class, then),
            None => gone(world, attempt),
        }),
    }
}

fn after_revocation(attempt: &Attempt, class: FailureClass, then: Then, revoked: bool) -> Phase {
    match then {
        Then::Fail if revoked => Phase::Tell(End::Failed { class, doubt: attempt.doubt, revoked }),
        Then::Fail => Attempt::failed(class, attempt.doubt),
        Then::Landed => Phase::Tell(End::Landed),
        Then::Look if revoked => Phase::Look,
        Then::Look => Phase::Agent { base: None },
    }
}

/// After a claim of a task that is pushing.
fn resume(world: &mut World, protocol: &Protocol, attempt: &mut Attempt) -> Option<Phase> {
    let task = attempt.task().clone();
    let refs = attempt.refs.clone();
    let prepared = task.prepared.as_ref()?;
    let ticket = newest_since(world, &refs, prepared.wip, |recorded| recorded.may_land);
    let branch = world.remote.branch.clone();
    if protocol.variant == Variant::SecondTicket {
        return writes(world, attempt, prepared.commit.clone(), branch, None, None);
    }
    let Some(ticket) = ticket else {
        if protocol.variant == Variant::GoneIsDoneAgain {
            return Some(Phase::Tell(End::Restart));
        }
        return Some(gone(world, attempt));
    };
    if let OwnRef::Revoked(..) = ticket.own() {
        let base = scan_base(attempt).flatten();
        if search(world, attempt, &base, &branch) == Scan::Found {
            return Some(Phase::Tell(End::Landed));
        }
        let recorded = refs.iter().find(|recorded| recorded.own == ticket.own());
        let class = recorded.and_then(|recorded| recorded.revoked_for)?;
        return Some(Phase::Tell(End::Failed { class, doubt: false, revoked: true }));
    }
    let value = ticket.commit.clone();
    writes(world, attempt, value, branch, None, Some(ticket))
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
