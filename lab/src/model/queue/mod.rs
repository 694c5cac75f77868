//! The tasks of one project: its slots, the queue of its wake-ups, the marks, the sweep, and
//! processes whose clocks disagree. There is no git here, and no people but for those who cancel.
//!
//! Time passes at any moment and without a bound: all times are kept as what is left of them. The
//! queue delivers anything at any moment, or it is a good one ([`bounds::Queue`]). Claims and
//! recoveries are read first and written later, as on DynamoDB.

pub mod bounds;
pub mod liveness;
pub mod parked;
pub mod properties;
pub mod store;
pub mod variant;
pub mod wake_ups;
pub mod worker;
pub mod world;

use stateright::{Model, Property};

pub use bounds::Bounds;
pub use variant::Variant;
pub use world::{Action, World};

use super::ends::Ends;

/// A variant of the protocol in some bounds.
#[derive(Debug, Clone)]
pub struct Project {
    pub bounds: Bounds,
    pub variant: Variant,
    /// What is known to end by the sweep, by the queue, and with a provider that always parks.
    ends: [Ends; 3],
}

impl Project {
    /// A variant of the protocol in some bounds.
    pub fn new(bounds: Bounds, variant: Variant) -> Self {
        Self { bounds, variant, ends: Default::default() }
    }
}

impl Model for Project {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.bounds)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(self, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.apply(self, &action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
