//! A provider that always says that the quota is used up, until a time of its own choice.

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::lease::Holder;
use rdev_domain::result::Usage;
use rdev_domain::step::{Event, Slots};
use rdev_domain::task::TaskState;
use rdev_domain::time::Timestamp;

use super::world::World;
use super::{Project, Variant};
use crate::model::ends::Step;
use crate::model::part::hash_of;
use crate::model::record::{NOW, Record, result};

/// More claims than a task may have.
const ENOUGH: usize = 100;

/// Whether every task ends, though each attempt is parked: until a time that is past, and until one
/// that never comes.
pub fn ends(project: &Project, world: &World) -> bool {
    world.tasks.iter().all(|record| {
        [Timestamp::MIN, Timestamp::MAX].iter().all(|until| {
            let mut record = Record::clone(record);
            let key = |record: &Record| hash_of(&(record, until));
            project.ends[2]
                .reached(&mut record, ENOUGH, key, |record| goes_on(project, record, *until))
        })
    })
}

fn goes_on(project: &Project, record: &mut Record, until: Timestamp) -> Step {
    if record.task.state.is_terminal() {
        return Step::Ended;
    }
    // So much time has passed that it is due, or that its holder counts as dead.
    record.task.available_at = NOW;
    let Some(lease) = record.lease.clone() else {
        return match record.claim("parked", Slots { taken: 0, limit: 1 }, NOW) {
            Ok(_) => Step::On,
            Err(_) => Step::Stuck,
        };
    };
    let holder = Holder { fence: lease.fence, owner: lease.owner };
    let event = if record.task.state == TaskState::Pushing {
        Event::Complete { holder, result: result() }
    } else {
        let failure = Failure { retry_at: Some(until), ..Failure::new(FailureClass::Quota, "") };
        Event::Fail { holder, failure, usage: Some(Usage::default()), revoked: false, left: None }
    };
    if project.variant == Variant::ParksWithoutBound {
        (record.task.parks, record.task.parked_ms) = (0, 0);
    }
    match record.apply(event, NOW) {
        Ok(_) => Step::On,
        Err(_) => Step::Stuck,
    }
}
