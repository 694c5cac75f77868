//! What a runner reports to the store: that it has prepared, and how its attempt has ended.

use std::time::Duration;

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::Tip;
use rdev_domain::ids::Fence;
use rdev_domain::result::Usage;
use rdev_domain::step::{Event, Refusal};
use rdev_domain::task::{Prepared, WipRef};

use super::{End, Phase, Work};
use crate::model::queue::bounds::Queue;
use crate::model::queue::store::{self, on_clock};
use crate::model::queue::wake_ups::{self, Sending};
use crate::model::queue::world::World;
use crate::model::queue::{Project, Variant};
use crate::model::record::{NOW, result};

/// A parked task is due again after this time.
const PARKED_FOR: Duration = Duration::from_secs(30);

pub(super) fn prepares(
    world: &mut World,
    project: &Project,
    runner: usize,
    work: &mut Work,
    answered: bool,
) -> Option<Phase> {
    let now = on_clock(project.bounds.runners[runner]);
    let task = world.tasks[work.task].task.id;
    let commit: Result<_, _> = "c".repeat(40).parse();
    let prepared = Prepared {
        commit: commit.expect("40 hexadecimal digits"),
        base: Tip::Absent,
        branch: "main".parse().expect("a branch"),
        wip: WipRef { task, fence: Fence(work.fence) },
        atomic: true,
        at: NOW,
    };
    let event =
        |holder| Event::Prepare { holder, prepared, result: result(), usage: Usage::default() };
    let holder = work.holder();
    match store::write(world, project, (work.task, work.claim), &holder, event, now) {
        Ok(_) if answered => Some(Phase::Pushing),
        Ok(_) => {
            world.left.faults -= 1;
            work.in_doubt = true;
            Some(Phase::Running)
        }
        Err(Refusal::CancelRequested) => {
            work.cancelled = true;
            Some(Phase::Running)
        }
        // The lease is lost.
        Err(_) => None,
    }
}

pub(super) fn reports(
    world: &mut World,
    project: &Project,
    runner: usize,
    work: &mut Work,
    end: End,
    how: Option<Sending>,
) -> Option<Phase> {
    let now = on_clock(project.bounds.runners[runner]);
    if !matches!(work.phase, Phase::Reporting(_)) {
        match end {
            End::Failed(FailureClass::Quota) => world.left.parks -= 1,
            End::Released => world.left.releases -= 1,
            End::Completed | End::Failed(_) => {}
        }
        if project.variant == Variant::DeletesBeforeComplete {
            wake_ups::delete(world, runner);
            work.phase = Phase::Reporting(end);
            return Some(work.phase);
        }
    }
    let event = |holder| match end {
        End::Completed => Event::Complete { holder, result: result() },
        End::Released => Event::Release { holder },
        End::Failed(class) => {
            let retry_at = (class == FailureClass::Quota).then(|| now.plus(PARKED_FOR));
            let failure = Failure { retry_at, ..Failure::new(class, "") };
            Event::Fail { holder, failure, usage: None, revoked: true, left: None }
        }
    };
    let holder = work.holder();
    match store::write(world, project, (work.task, work.claim), &holder, event, now) {
        Ok(wake_ups) => {
            world.left.faults -= u8::from(how != Some(Sending::Well));
            wake_ups::send(world, project, &wake_ups, how.unwrap_or(Sending::Not));
            work.in_doubt |= how.is_none();
            if how.is_none() { Some(Phase::Reporting(end)) } else { done(project, work, end) }
        }
        Err(Refusal::Stale | Refusal::Ended(_))
            if work.in_doubt && world.tasks[work.task].task.fence == Fence(work.fence) =>
        {
            // Its own first report has ended the lease.
            done(project, work, end)
        }
        Err(_) => None,
    }
}

/// The end is reported. What is left is to delete the wake-up, which of a queue that delivers
/// anyhow makes no difference.
fn done(project: &Project, work: &mut Work, end: End) -> Option<Phase> {
    (work.age, work.cancelled, work.in_doubt) = (0, false, false);
    (project.bounds.queue == Queue::Good).then_some(Phase::Done(end))
}
