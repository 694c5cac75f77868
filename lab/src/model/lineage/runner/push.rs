//! The push that moves the branch, what follows any answer but success, and a claim that resumes
//! it.

use rdev_domain::failure::FailureClass;
use rdev_domain::git::{CommitId, OwnRef, RecordedRef};
use rdev_domain::step::ends_push;

use super::look::revokes;
use super::refs::{newest_since, present, record, scan_base, search, writes};
use super::send::Answer;
use super::tell::gone;
use super::ticket::follow;
use super::{Attempt, End, Named, Next, Phase, Then};
use crate::model::lineage::remote::{History, Push, Refused, Scan, Sets};
use crate::model::lineage::world::World;
use crate::model::lineage::{Protocol, Variant};
use crate::model::record::NOW;

pub(super) fn push(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    value: CommitId,
    base: Option<History>,
) -> Next {
    let from = scan_base(attempt).flatten();
    let ticket = Named { own: attempt.own(), commit: value.clone() };
    match search(world, attempt, &from, &base) {
        Scan::Found => return Next::Phase(brought_in(protocol, &ticket)),
        Scan::Rewritten => {
            let class = FailureClass::HistoryRewritten;
            return Next::Phase(fails(world, protocol, attempt, class));
        }
        Scan::NotFound => {}
    }
    let sets = Sets::Branch { from: base, to: value, task: attempt.number };
    let leaves = protocol.variant == Variant::LandingLeavesTheTicket || !protocol.is_atomic();
    let deletes = (!leaves).then_some((ticket.own, ticket.commit));
    Next::Push(Push { sets, deletes })
}

/// A person has brought the work in: the ticket is revoked, where that proves something.
fn brought_in(protocol: &Protocol, ticket: &Named) -> Phase {
    if protocol.is_atomic() {
        revokes(ticket, FailureClass::Conflict, Then::Landed)
    } else {
        Phase::Tell(End::Landed)
    }
}

pub(super) fn pushed(attempt: &mut Attempt, base: Option<History>, answer: Answer) -> Phase {
    match answer {
        Answer::Done => Phase::Tell(End::Landed),
        Answer::Not(_) => Phase::Unsure { base, refused: false },
        Answer::Never => Phase::Unsure { base, refused: true },
        Answer::Lost => {
            attempt.doubt = true;
            Phase::Unsure { base, refused: false }
        }
    }
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
    let from = scan_base(attempt).flatten();
    let found = search(world, attempt, &from, &branch);
    let ticket = if protocol.is_atomic() {
        match mine(world, attempt) {
            Some(ticket) => ticket,
            None => return not_there(world, protocol, attempt, found),
        }
    } else {
        // It proves nothing. The server may refuse a second push because it has applied the first.
        if refused && found == Scan::Found {
            return Some(Phase::Tell(End::Landed));
        }
        let own = attempt.refs.iter().rev().find(|recorded| recorded.own == attempt.own());
        Named::of(own?)
    };
    if refused {
        return Some(fails(world, protocol, attempt, FailureClass::PushRejected));
    }
    match found {
        Scan::Found => return Some(brought_in(protocol, &ticket)),
        Scan::Rewritten => {
            return Some(fails(world, protocol, attempt, FailureClass::HistoryRewritten));
        }
        Scan::NotFound => {}
    }
    if branch == base {
        return Some(Phase::Push { value: ticket.commit, base });
    }
    follow(world, protocol, attempt, ticket.commit, &base, branch)
}

/// Its ticket is not there: an earlier claim has revoked it, or it is gone.
fn not_there(world: &World, protocol: &Protocol, attempt: &Attempt, found: Scan) -> Option<Phase> {
    let moved = OwnRef::Revoked(attempt.task().id, attempt.fence);
    let there = present(world, &attempt.refs);
    let revoked = there.into_iter().find(|recorded| recorded.own == moved);
    if let Some(class) = revoked.and_then(|recorded| recorded.revoked_for) {
        if found == Scan::Found {
            return Some(Phase::Tell(End::Landed));
        }
        return Some(Phase::Tell(End::Failed { class, doubt: false, revoked: true }));
    }
    if protocol.variant == Variant::GoneIsDoneAgain {
        return Some(Phase::Tell(End::Restart));
    }
    Some(gone(world, protocol, attempt))
}

/// Ends the attempt with a failure: the ticket is revoked first where the task ends.
pub(super) fn fails(
    world: &World,
    protocol: &Protocol,
    attempt: &Attempt,
    class: FailureClass,
) -> Phase {
    let ends = attempt.prepared && ends_push(attempt.task(), class, NOW);
    match mine(world, attempt) {
        Some(ticket) if ends && protocol.is_atomic() => revokes(&ticket, class, Then::Fail),
        _ => Attempt::failed(class, attempt.doubt),
    }
}

pub(super) fn revocation(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    ticket: &Named,
    class: FailureClass,
    then: Then,
) -> Next {
    if protocol.variant == Variant::FailsWithoutRevoking {
        return Next::Phase(after_revocation(attempt, class, then, false));
    }
    let OwnRef::Wip(task, fence) = ticket.own else { return Next::End };
    let own = OwnRef::Revoked(task, fence);
    let entry =
        RecordedRef { revoked_for: Some(class), ..RecordedRef::of(own, ticket.commit.clone()) };
    if !record(world, attempt, entry) {
        return Next::End;
    }
    let (from, to) = (world.remote.own.get(&own).cloned(), ticket.commit.clone());
    let sets = match protocol.variant {
        Variant::RevocationDeletes => Sets::Nothing,
        _ => Sets::Own { own, from, to },
    };
    Next::Push(Push { sets, deletes: Some((ticket.own, ticket.commit.clone())) })
}

pub(super) fn revoked(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    ticket: &Named,
    class: FailureClass,
    then: Then,
    answer: Answer,
) -> Option<Phase> {
    match answer {
        Answer::Done => {
            // Each ticket that may land was made of the one before: with this one all are dealt
            // with.
            let mut of_it = attempt.refs.iter().filter(|recorded| recorded.own == ticket.own);
            let may_land = of_it.any(|recorded| recorded.may_land);
            attempt
                .refs
                .retain(|recorded| recorded.own != ticket.own && !(may_land && recorded.may_land));
            if then == Then::Look {
                // The store learns that it is dealt with.
                let (holder, refs) = (attempt.holder(), &attempt.refs);
                let task = &mut world.tasks[attempt.number];
                task.change(|task| task.renew(&holder, Some(refs), NOW)).ok()?;
            }
            Some(after_revocation(attempt, class, then, true))
        }
        Answer::Lost | Answer::Never | Answer::Not(Refused::Locked) => Some(match then {
            Then::Fail => Attempt::failed(class, attempt.doubt),
            Then::Landed | Then::Look | Then::Agent => {
                Attempt::failed(FailureClass::Infra, attempt.doubt)
            }
        }),
        Answer::Not(_) if then == Then::Look => Some(Attempt::failed(FailureClass::Infra, false)),
        // It has landed, or an unanswered push has moved it to another value.
        Answer::Not(_) => Some(match mine(world, attempt) {
            Some(ticket) => revokes(&ticket, class, then),
            None => gone(world, protocol, attempt),
        }),
    }
}

fn after_revocation(attempt: &Attempt, class: FailureClass, then: Then, revoked: bool) -> Phase {
    match then {
        Then::Fail if revoked => Phase::Tell(End::Failed { class, doubt: attempt.doubt, revoked }),
        Then::Fail => Attempt::failed(class, attempt.doubt),
        Then::Landed => Phase::Tell(End::Landed),
        Then::Look if revoked => Phase::Look,
        Then::Look | Then::Agent => Phase::Agent { base: None, from: None },
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
    let of_push = |recorded: &RecordedRef| recorded.may_land || !prepared.atomic;
    let ticket = newest_since(world, &refs, prepared.wip, of_push);
    let branch = world.remote.branch.clone();
    let base = scan_base(attempt).flatten();
    if !prepared.atomic {
        match search(world, attempt, &base, &branch) {
            Scan::Found => return Some(Phase::Tell(End::Landed)),
            Scan::Rewritten => return Some(Attempt::failed(FailureClass::HistoryRewritten, false)),
            Scan::NotFound => {}
        }
    }
    if protocol.variant == Variant::SecondTicket {
        return writes(world, protocol, attempt, prepared.commit.clone(), branch, None, None);
    }
    let Some(ticket) = ticket else {
        if protocol.variant == Variant::GoneIsDoneAgain || !prepared.atomic {
            return Some(Phase::Tell(End::Restart));
        }
        return Some(gone(world, protocol, attempt));
    };
    if let OwnRef::Revoked(..) = ticket.own {
        if search(world, attempt, &base, &branch) == Scan::Found {
            return Some(Phase::Tell(End::Landed));
        }
        let recorded = refs.iter().find(|recorded| recorded.own == ticket.own);
        let class = recorded.and_then(|recorded| recorded.revoked_for)?;
        return Some(Phase::Tell(End::Failed { class, doubt: false, revoked: true }));
    }
    let value = ticket.commit.clone();
    writes(world, protocol, attempt, value, branch, None, Some(ticket))
}
