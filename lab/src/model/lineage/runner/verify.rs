//! Work is verified after its ticket was written. What does not pass is moved away.

use rdev_domain::failure::FailureClass;
use rdev_domain::git::{CommitId, OwnRef};

use super::ticket::ready;
use super::{Attempt, Choice, Next, Phase, Then};
use crate::model::lineage::Protocol;
use crate::model::lineage::remote::{History, Push, Sets, work_of};
use crate::model::lineage::world::World;
use crate::model::record::NOW;

/// A ticket that was written, or may have been.
pub(super) struct Written {
    pub(super) value: CommitId,
    pub(super) base: Option<History>,
    pub(super) written: bool,
}

/// What the verify commands may say of work: of the same work always the same.
pub(super) fn verdicts(world: &World, value: &CommitId) -> Vec<Choice> {
    let work = work_of(value);
    if world.failed.contains(&work) {
        vec![Choice::Badly]
    } else if world.unverified.contains(&work) && world.left.failures > 0 {
        vec![Choice::Well, Choice::Badly]
    } else {
        vec![Choice::Well]
    }
}

pub(super) fn verify(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    written: Written,
    verdict: Choice,
) -> Option<Phase> {
    let work = work_of(&written.value);
    if verdict == Choice::Well {
        world.unverified.retain(|other| *other != work);
        attempt.unverified = false;
        for recorded in &mut attempt.refs {
            recorded.unverified &= recorded.commit != written.value;
        }
        if written.written {
            return ready(world, protocol, attempt, written.value, written.base);
        }
        // Whoever continues from it need not verify it again.
        tells_refs(world, attempt).then_some(())?;
        return Some(Attempt::failed(FailureClass::Infra, false));
    }
    if !world.failed.contains(&work) {
        world.left.failures -= 1;
        world.failed.push(work);
    }
    let Written { value, base, written } = written;
    attempt.refs.retain(|recorded| recorded.commit != value);
    if attempt.adopted {
        return Some(Phase::Aside { value, base, then: Then::Agent });
    }
    if world.left.agents == 0 {
        return Some(Phase::Aside { value, base, then: Then::Fail });
    }
    // The agent tries again, and the ticket moves to what it makes.
    Some(Phase::Agent { base, from: written.then_some(value) })
}

/// Tells the store that nobody continues from the work, and moves its ticket.
pub(super) fn aside(world: &mut World, attempt: &mut Attempt, value: CommitId) -> Next {
    if !tells_refs(world, attempt) {
        return Next::End;
    }
    let own = OwnRef::Part(attempt.task().id, attempt.fence);
    let from = world.remote.own.get(&own).cloned();
    let deletes = Some((attempt.own(), value.clone()));
    Next::Push(Push { sets: Sets::Own { own, from, to: value }, deletes })
}

/// `false`: the lease is lost.
fn tells_refs(world: &mut World, attempt: &Attempt) -> bool {
    let (holder, refs) = (attempt.holder(), &attempt.refs);
    let task = &mut world.tasks[attempt.number];
    task.change(|task| task.renew(&holder, Some(refs), NOW)).is_ok()
}

/// The ticket was moved, or not: it is nobody's work wherever it is.
pub(super) fn put_aside(attempt: &mut Attempt, base: Option<History>, then: Then) -> Phase {
    match then {
        Then::Agent => {
            attempt.adopted = false;
            Phase::Agent { base, from: None }
        }
        Then::Fail | Then::Landed | Then::Look => {
            Attempt::failed(FailureClass::VerifyFailed, false)
        }
    }
}
