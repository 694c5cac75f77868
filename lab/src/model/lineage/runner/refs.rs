//! What an attempt knows of rdev's own refs and of the branch: recorded refs, tickets, the search.

use rdev_domain::git::{CommitId, OwnRef, RecordedRef};
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::task::WipRef;

use super::{Attempt, Named, Phase};
use crate::model::lineage::Protocol;
use crate::model::lineage::remote::{self, History, Scan, scan};
use crate::model::lineage::world::World;
use crate::model::record::NOW;

/// Records what it is about to write. `false`: the lease is lost.
pub(super) fn record(world: &mut World, attempt: &mut Attempt, entry: RecordedRef) -> bool {
    if attempt.refs.contains(&entry) {
        return true;
    }
    attempt.refs.push(entry);
    let (holder, refs) = (attempt.holder(), &attempt.refs);
    world.tasks[attempt.number].change(|task| task.renew(&holder, Some(refs), NOW)).is_ok()
}

/// Records a ticket; it is written next.
pub(super) fn writes(
    world: &mut World,
    protocol: &Protocol,
    attempt: &mut Attempt,
    value: CommitId,
    base: Option<History>,
    from: Option<CommitId>,
    takes: Option<Named>,
) -> Option<Phase> {
    let mine = from.clone().map(|commit| Named { own: attempt.own(), commit });
    let before: Vec<Named> = takes.iter().cloned().chain(mine).collect();
    let entry = RecordedRef {
        // What an old push may take to the branch stays so under another name and value.
        may_land: protocol.is_atomic() && attempt.prepared
            || attempt.refs.iter().any(|old| old.may_land && before.contains(&Named::of(old))),
        unverified: attempt.unverified,
        adopted_by: attempt.adopted.then_some(attempt.fence),
        ..RecordedRef::of(attempt.own(), value.clone())
    };
    record(world, attempt, entry).then_some(Phase::Write { value, base, from, takes })
}
pub(super) fn present<'a>(world: &World, refs: &'a [RecordedRef]) -> Vec<&'a RecordedRef> {
    refs.iter().filter(|recorded| world.remote.has(recorded.own, &recorded.commit)).collect()
}

/// The newest ticket of a task above a fence that is there.
pub(super) fn newest(
    world: &World,
    refs: &[RecordedRef],
    task: TaskId,
    floor: Fence,
) -> Option<Named> {
    let tickets = present(world, refs).into_iter().filter_map(|recorded| match recorded.own {
        OwnRef::Wip(id, fence) if id == task && fence > floor => Some((fence, recorded)),
        _ => None,
    });
    tickets.max_by_key(|(fence, _)| *fence).map(|(_, recorded)| Named::of(recorded))
}

/// The newest ticket of a push that is there, or where one of its tickets was revoked to.
pub(super) fn newest_since(
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

pub(super) fn lineage(world: &World, attempt: &Attempt) -> u8 {
    world.number_of(attempt.task().lineage)
}

pub(super) fn scan_base(attempt: &Attempt) -> Option<Option<History>> {
    attempt.task().scan_base.as_ref().map(remote::history)
}

pub(super) fn search(
    world: &World,
    attempt: &Attempt,
    base: &Option<History>,
    branch: &Option<History>,
) -> Scan {
    scan(base.as_ref(), branch.as_ref(), lineage(world, attempt), &world.works)
}
