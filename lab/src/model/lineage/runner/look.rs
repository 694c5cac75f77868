//! Before the push: what earlier attempts of the chain have left, and the agent.

use rdev_domain::failure::FailureClass;
use rdev_domain::git::{CommitId, OwnRef, RecordedRef};
use rdev_domain::ids::Fence;
use rdev_domain::task::Task;

use super::refs::{lineage, newest, newest_since, present, scan_base, search, writes};
use super::tell::gone;
use super::{Attempt, Choice, End, Named, Phase, Then};
use crate::model::lineage::remote::{History, Scan, commit};
use crate::model::lineage::world::World;
use crate::model::lineage::{Protocol, Variant};

/// Before the agent: what earlier attempts of the chain have left.
pub(super) fn look(world: &mut World, protocol: &Protocol, attempt: &mut Attempt) -> Option<Phase> {
    let branch = world.remote.branch.clone();
    if protocol.variant == Variant::RetryTakesNothingOver && attempt.task().retry_of.is_some() {
        return Some(Phase::Agent { base: branch, from: None });
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
        return adopts(world, protocol, attempt, adopted, branch);
    };
    // Each of them was made of the one before, so where one was revoked those after it never were.
    let is_revoked = |ticket: &&RecordedRef| {
        let OwnRef::Wip(id, fence) = ticket.own else { return false };
        let moved = OwnRef::Revoked(id, fence);
        present(world, &refs).iter().any(|recorded| recorded.own == moved)
    };
    if there.is_empty() && !lost.is_empty() && !lost.iter().any(is_revoked) {
        if protocol.variant == Variant::GoneIsDoneAgain {
            return Some(Phase::Agent { base: branch, from: None });
        }
        return Some(gone(world, protocol, attempt));
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
        Scan::NotFound => adopts(world, protocol, attempt, adopted, branch),
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
        let is_of_task = |own: &OwnRef| matches!(own, OwnRef::Wip(id, _) if *id == task.id);
        let found = all.find(|(own, _)| is_of_task(own));
        return found.map(|(own, commit)| Named { own: *own, commit: commit.clone() });
    }
    newest(world, refs, task.id, task.wip_floor).or_else(|| {
        let named = task.resume_from.filter(|_| task.wip_floor == Fence(0))?;
        newest_since(world, refs, named, |_| true)
    })
}

fn adopts(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    adopted: Option<Named>,
    branch: Option<History>,
) -> Option<Phase> {
    match adopted {
        Some(ticket) => {
            attempt.adopted = true;
            let mut recorded = attempt.refs.iter();
            let recorded = recorded.find(|recorded| Named::of(recorded) == ticket);
            attempt.unverified = protocol.variant != Variant::DeliversUnverified
                && recorded.is_some_and(|recorded| recorded.unverified);
            let value = ticket.commit.clone();
            writes(world, protocol, attempt, value, branch, None, Some(ticket))
        }
        None => Some(Phase::Agent { base: branch, from: None }),
    }
}

pub(super) fn revokes(ticket: &Named, class: FailureClass, then: Then) -> Phase {
    Phase::Revoke { ticket: ticket.clone(), class, then }
}

pub(super) fn agent(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    base: Option<History>,
    from: Option<CommitId>,
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
    attempt.unverified = protocol.bounds.verifies;
    if attempt.unverified {
        world.unverified.push(work);
    }
    writes(world, protocol, attempt, commit(work, 0), base, from, None)
}
