//! The ports in memory: a store and a queue without a disk, a thread or a clock of the machine.
//!
//! They pass the same conformance suites as the real adapters (`tests/conformance`). The
//! state-machine tests compare the real stores with this one, and a simulation can run on both of
//! them in paused time: the store takes the time where the port gives it, the queue takes it from
//! tokio, and what is random comes from a seed.

mod queue;
mod store;

pub use queue::{Faults, MemoryQueue, QueueOptions};
pub use store::MemoryStore;
