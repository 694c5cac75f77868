//! The protocol as an explicit-state model: one lineage of tasks, some runners, a git server with
//! tickets, people, and a network that delivers pushes late or never.
//!
//! The tasks are real ones: every transition is [`rdev_domain::step::step`], as in the stores. What a
//! runner does between two transitions is the model's own ([`runner`]); it follows
//! `runner/src/build/`. There is no clock: a lease may be recovered at any moment, also while its
//! holder lives, which covers clocks that disagree, pauses, and crashes (a runner that never goes
//! on). Each answer of the git server may get lost, and the push be applied later or never.

pub mod people;
pub mod properties;
pub mod remote;
pub mod runner;
pub mod store;
pub mod world;

use stateright::{Model, Property};

pub use world::{Action, World};

/// How much happens at most. A bound is a blind spot: what needs more is not seen.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Processes that claim tasks.
    pub runners: usize,
    /// The tasks of the lineage: the first one and its retries.
    pub tasks: usize,
    /// Leases that are recovered.
    pub recoveries: u8,
    /// Answers of the git server that get lost.
    pub lost: u8,
    /// What people do to the repository.
    pub people: u8,
    /// Pushes that the server refuses for good.
    pub refusals: u8,
    /// Runs of an agent.
    pub agents: u8,
}

impl Bounds {
    /// Seconds: one retry.
    pub const TINY: Self =
        Self { runners: 2, tasks: 2, recoveries: 1, lost: 1, people: 1, refusals: 1, agents: 2 };

    /// A chain of three tasks.
    pub const CHAIN: Self = Self { tasks: 3, ..Self::TINY };

    /// Minutes in all: a chain of three tasks, and one retry with one more of something each time.
    pub const FULL: [Self; 4] = [
        Self::CHAIN,
        Self { people: 2, ..Self::TINY },
        Self { runners: 3, recoveries: 2, ..Self::TINY },
        Self { lost: 2, ..Self::TINY },
    ];
}

/// The protocol, or one that lacks a rule of it: each of these must be caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Every rule.
    Protocol,
    /// The push that moves the branch leaves the ticket where it is.
    LandingLeavesTheTicket,
    /// A revocation deletes the ticket instead of moving it.
    RevocationDeletes,
    /// A claim that resumes a push makes a ticket of its own beside the one that is there.
    SecondTicket,
    /// A retry leaves the tickets of its chain alone and starts an agent.
    RetryTakesNothingOver,
    /// A retry inherits only what its predecessor itself has written.
    RetryInheritsOnePredecessor,
    /// Any failed task may be retried, any number of times.
    OldTasksRetried,
    /// The store does not compare fences.
    NoFence,
    /// A ref is adopted by its name; what the store has recorded does not matter.
    AdoptsWhatIsNotRecorded,
    /// A task that fails while it is pushing is not revoked first.
    FailsWithoutRevoking,
    /// A ticket that is gone counts as one that never was: the work is done again.
    GoneIsDoneAgain,
}

impl Variant {
    /// The variants that must be caught.
    pub const BROKEN: [Self; 10] = [
        Self::LandingLeavesTheTicket,
        Self::RevocationDeletes,
        Self::SecondTicket,
        Self::RetryTakesNothingOver,
        Self::RetryInheritsOnePredecessor,
        Self::OldTasksRetried,
        Self::NoFence,
        Self::AdoptsWhatIsNotRecorded,
        Self::FailsWithoutRevoking,
        Self::GoneIsDoneAgain,
    ];
}

/// A variant of the protocol in some bounds.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    pub bounds: Bounds,
    pub variant: Variant,
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
