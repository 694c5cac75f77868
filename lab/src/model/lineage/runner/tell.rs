//! The end of an attempt, and its report to the store.

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::OwnRef;
use rdev_domain::lease::Holder;
use rdev_domain::result::{TaskResult, Usage};
use rdev_domain::step::{Event, Refusal};

use super::refs::{scan_base, search};
use super::{Attempt, End, Phase};
use crate::model::lineage::remote::{Scan, Server, work_of};
use crate::model::lineage::world::World;
use crate::model::lineage::{Protocol, Variant};
use crate::model::record::{NOW, result};

/// The ticket is gone: it has landed, or a person deleted it.
pub(super) fn gone(world: &World, protocol: &Protocol, attempt: &Attempt) -> Phase {
    let branch = &world.remote.branch;
    let base = scan_base(attempt).flatten();
    let found = match search(world, attempt, &base, branch) {
        Scan::Rewritten => search(world, attempt, &None, branch),
        other => other,
    };
    if found == Scan::Found || protocol.bounds.server == Server::Folder && is_logged(world, attempt)
    {
        return Phase::Tell(End::Landed);
    }
    Attempt::failed(FailureClass::HistoryRewritten, true)
}

/// Whether the branch's log names one of its tickets.
fn is_logged(world: &World, attempt: &Attempt) -> bool {
    attempt.refs.iter().any(|recorded| {
        matches!(recorded.own, OwnRef::Wip(..))
            && world.remote.log.contains(&work_of(&recorded.commit))
    })
}

/// What it names as its claim.
pub(super) fn holder(world: &World, protocol: &Protocol, attempt: &Attempt) -> Holder {
    match (&world.tasks[attempt.number].lease, protocol.variant) {
        (Some(lease), Variant::NoFence) => {
            Holder { fence: lease.fence, owner: lease.owner.clone() }
        }
        _ => attempt.holder(),
    }
}

/// The commit has landed, and what comes after that fails.
pub(super) fn unreported(world: &mut World, protocol: &Protocol) -> End {
    world.left.lost -= 1;
    let doubt = protocol.variant != Variant::ForgetsThatItHasLanded;
    End::Failed { class: FailureClass::Infra, doubt, revoked: false }
}

/// Reports the end.
pub(super) fn tell(world: &mut World, protocol: &Protocol, attempt: &Attempt, end: End) {
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
            Event::Fail { holder, failure, usage: None, revoked, left: None }
        }
    };
    // Refused: the lease is lost, and the task is another's.
    let _ = world.tasks[attempt.number].change(|task| {
        task.apply(event, NOW)?;
        if protocol.variant == Variant::StartingOverForgetsTheDoubt {
            task.task.in_doubt = false;
        }
        Ok::<_, Refusal>(())
    });
}
