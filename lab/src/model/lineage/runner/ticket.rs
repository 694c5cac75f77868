//! The ticket is written, follows the branch, and is prepared.

use rdev_domain::failure::FailureClass;
use rdev_domain::git::CommitId;
use rdev_domain::result::Usage;
use rdev_domain::step::{Event, Refusal};
use rdev_domain::task::{Prepared, WipRef};

use super::push::fails;
use super::refs::{scan_base, search, writes};
use super::send::Answer;
use super::tell::holder;
use super::{Attempt, End, Named, Phase};
use crate::model::lineage::Protocol;
use crate::model::lineage::remote::{
    History, Push, Refused, Scan, Sets, commit, rebased, tip, work_of,
};
use crate::model::lineage::world::World;
use crate::model::part::Part;
use crate::model::record::{NOW, Record, result};

pub(super) struct Write {
    pub(super) value: CommitId,
    pub(super) base: Option<History>,
    pub(super) takes: Option<Named>,
}

/// The push that writes the ticket.
pub(super) fn ticket_push(
    world: &World,
    protocol: &Protocol,
    attempt: &Attempt,
    value: CommitId,
    from: Option<CommitId>,
    takes: Option<Named>,
) -> Push {
    let own = attempt.own();
    let takes = takes.filter(|_| protocol.is_atomic());
    let from = from.or_else(|| {
        // A stranger's ref of this name is replaced; what this attempt recorded is not a
        // stranger's.
        let there = world.remote.own.get(&own)?;
        let mut recorded = attempt.refs.iter();
        let is_recorded = recorded.any(|one| one.own == own && one.commit == *there);
        (!is_recorded).then(|| there.clone())
    });
    let deletes = takes.map(|takes| (takes.own, takes.commit));
    Push { sets: Sets::Own { own, from, to: value }, deletes }
}

/// The ticket is written, or not.
pub(super) fn wrote(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    write: Write,
    answer: Answer,
) -> Option<Phase> {
    let Write { value, base, takes } = write;
    match answer {
        Answer::Done => {}
        Answer::Not(Refused::Moved | Refused::Gone) if takes.is_none() && attempt.prepared => {
            return Some(Phase::Unsure { base, refused: false });
        }
        Answer::Not(_) | Answer::Never | Answer::Lost if attempt.unverified => {
            return Some(Phase::Verify { value, base, written: false });
        }
        Answer::Not(_) | Answer::Never | Answer::Lost => {
            return Some(Attempt::failed(FailureClass::Infra, false));
        }
    }
    let own = attempt.own();
    let mut written = attempt.refs.iter().filter(|r| r.own == own && r.commit == value);
    let may_land = written.any(|recorded| recorded.may_land);
    let taken = takes.as_ref().filter(|_| protocol.is_atomic());
    attempt.refs.retain(|recorded| {
        recorded.own == own && recorded.commit == value
            || recorded.own != own
                && taken.is_none_or(|takes| takes.own != recorded.own)
                && !(may_land && recorded.may_land)
    });
    if attempt.prepared {
        // What it took over is based on another tip, as far as it knows.
        let base = if takes.is_some() { world.remote.branch.clone() } else { base };
        return Some(Phase::Push { value, base });
    }
    if attempt.unverified {
        return Some(Phase::Verify { value, base, written: true });
    }
    ready(world, protocol, attempt, value, base)
}

/// The ticket is written and its work verified.
pub(super) fn ready(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    value: CommitId,
    base: Option<History>,
) -> Option<Phase> {
    let tip = world.remote.branch.clone();
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
    follow(world, protocol, attempt, value, &base, tip)
}

/// Rebases onto a tip and moves the ticket.
pub(super) fn follow(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    value: CommitId,
    base: &Option<History>,
    tip: Option<History>,
) -> Option<Phase> {
    if tip.is_none() && base.is_some() {
        return Some(fails(world, protocol, attempt, FailureClass::HistoryRewritten));
    }
    let rebased = commit(work_of(&value), rebased(&value) + 1);
    writes(world, protocol, attempt, rebased, tip, Some(value), None)
}

pub(super) fn prepare(
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
        wip: WipRef { task: attempt.task().id, fence: attempt.fence },
        atomic: protocol.is_atomic(),
        at: NOW,
    };
    let holder = holder(world, protocol, attempt);
    let event = Event::Prepare { holder, prepared, result: result(), usage: Usage::default() };
    match world.tasks[attempt.number].change(|task| task.apply(event, NOW)) {
        Ok(_) => {}
        Err(Refusal::CancelRequested) => {
            return Some(Attempt::failed(FailureClass::Cancelled, false));
        }
        // The lease is lost.
        Err(_) => return None,
    }
    attempt.prepared = true;
    let record = Record::clone(&world.tasks[attempt.number]);
    attempt.refs.clone_from(&record.task.own_refs);
    attempt.task = Part::new(Record { lease: None, ..record });
    Some(Phase::Push { value, base })
}
