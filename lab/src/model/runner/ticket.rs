//! The ticket is written, follows the branch, and is prepared.

use rdev_domain::failure::FailureClass;
use rdev_domain::git::CommitId;
use rdev_domain::result::Usage;
use rdev_domain::step::{Event, Refusal};
use rdev_domain::task::{Prepared, WipRef};

use super::super::Protocol;
use super::super::people::STRANGER;
use super::super::remote::{History, Push, Scan, Sets, commit, rebased, tip, work_of};
use super::super::store::{NOW, Record, result};
use super::super::world::World;
use super::push::{fails, lose};
use super::{Attempt, Choice, End, Named, Phase, holder, scan_base, search, writes};

pub(super) struct Write {
    pub(super) value: CommitId,
    pub(super) base: Option<History>,
    pub(super) from: Option<CommitId>,
    pub(super) takes: Option<Named>,
}

pub(super) fn write_ticket(
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
pub(super) fn follow(
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
        wip: WipRef { task: attempt.task().id, fence: attempt.holder.fence },
        atomic: true,
        at: NOW,
    };
    let holder = holder(world, protocol, attempt);
    let event = Event::Prepare { holder, prepared, result: result(), usage: Usage::default() };
    let record = &mut world.tasks[attempt.number];
    match record.apply(event) {
        Ok(()) => {}
        Err(Refusal::CancelRequested) => {
            return Some(Attempt::failed(FailureClass::Cancelled, false));
        }
        // The lease is lost.
        Err(_) => return None,
    }
    attempt.prepared = true;
    attempt.task = Record { lease: None, ..record.clone() };
    attempt.refs.clone_from(&record.task.own_refs);
    Some(Phase::Push { value, base })
}
