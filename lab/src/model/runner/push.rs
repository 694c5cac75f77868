//! The push that moves the branch, what follows any answer but success, and a claim that resumes it.

use rdev_domain::failure::FailureClass;
use rdev_domain::git::{CommitId, OwnRef, RecordedRef};
use rdev_domain::step::ends_push;

use super::super::remote::{History, Push, Refused, Scan, Sets};
use super::super::store::NOW;
use super::super::world::World;
use super::super::{Protocol, Variant};
use super::look::revokes;
use super::ticket::follow;
use super::{
    Attempt, Choice, End, Named, Phase, Then, gone, newest_since, present, record, scan_base,
    search, writes,
};

pub(super) fn push(
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

pub(super) fn lose(world: &mut World, push: Push) {
    world.left.lost -= 1;
    world.in_flight.push(push);
}

/// The attempt's own ticket where it is, at whatever value it has recorded.
pub(super) fn mine(world: &World, attempt: &Attempt) -> Option<Named> {
    let own = attempt.own();
    let there = present(world, &attempt.refs);
    there.into_iter().find(|recorded| recorded.own == own).map(Named::of)
}

pub(super) fn unsure(
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
pub(super) fn fails(world: &World, attempt: &Attempt, class: FailureClass) -> Phase {
    match mine(world, attempt) {
        Some(ticket) if attempt.prepared && ends_push(attempt.task(), class, NOW) => {
            revokes(&ticket, class, Then::Fail)
        }
        _ => Attempt::failed(class, attempt.doubt),
    }
}

pub(super) fn revoke(
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
pub(super) fn resume(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
) -> Option<Phase> {
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
