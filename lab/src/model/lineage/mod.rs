//! One lineage: a task and its retries, some runners, a git repository with tickets, people, and a
//! network that delivers pushes late or never.
//!
//! What a runner does between two transitions is the model's own ([`runner`]); it follows
//! `runner/src/build/`. There is no clock: a lease may be recovered at any moment, also while its
//! holder lives, which covers clocks that disagree, pauses at every step, and crashes (a runner
//! that never goes on). Each answer of the git server may get lost, and the push be applied later
//! or never.

pub mod bounds;
pub mod folder;
pub mod people;
pub mod properties;
pub mod remote;
pub mod runner;
pub mod variant;
pub mod world;

use stateright::{Model, Property};

pub use bounds::Bounds;
pub use variant::Variant;
pub use world::{Action, World};

use super::ends::Ends;

/// A variant of the protocol in some bounds.
#[derive(Debug, Clone)]
pub struct Protocol {
    pub bounds: Bounds,
    pub variant: Variant,
    ends: Ends,
}

impl Protocol {
    /// A variant of the protocol in some bounds.
    pub fn new(bounds: Bounds, variant: Variant) -> Self {
        Self { bounds, variant, ends: Ends::default() }
    }
}

impl Model for Protocol {
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
