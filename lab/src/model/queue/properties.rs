//! What must hold in every state.

use rdev_domain::task::TaskState;
use stateright::Property;

use super::store::taken;
use super::world::{Broken, World};
use super::{Project, liveness, parked};

/// All properties, by name.
pub fn all() -> Vec<Property<Project>> {
    vec![
        Property::always(
            "no more tasks are held than there are slots",
            |project: &Project, world: &World| taken(world) <= project.bounds.limit,
        ),
        Property::always("only its holder changes a task", |_, world: &World| {
            world.broken != Some(Broken::NotTheHolder)
        }),
        Property::always("no terminal state is left", |_, world: &World| {
            world.broken != Some(Broken::TerminalStateLeft)
        }),
        Property::always(
            "a lease that was renewed in time is not recovered",
            |_, world: &World| world.broken != Some(Broken::LiveLeaseRecovered),
        ),
        Property::always("nobody pushes who has lost the lease", |_, world: &World| {
            world.broken != Some(Broken::PushedWithoutLease)
        }),
        Property::always("what was cancelled ends as cancelled", |_, world: &World| {
            world.tasks.iter().zip(&world.promised).all(|(record, promised)| {
                let state = record.task.state;
                !promised || !state.is_terminal() || state == TaskState::Cancelled
            })
        }),
        Property::always("every task can still end by the sweep", liveness::by_the_sweep),
        Property::always("every task can still end by a good queue", liveness::by_the_queue),
        Property::always("every task ends, though its provider parks it for ever", parked::ends),
    ]
}
