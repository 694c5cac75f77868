//! What rdev's tests stand on: the conformance suites of the ports, and real
//! servers that play the outside world.

pub mod agents;
pub mod clock;
pub mod emulator;
pub mod git_http;
pub mod kubectl;
pub mod model;
pub mod needs;
pub mod proxy;
pub mod python;
pub mod queue;
pub mod runtime_api;
pub mod store;
mod suite;

pub use suite::{Ended, Failed, Keep, Passed};
