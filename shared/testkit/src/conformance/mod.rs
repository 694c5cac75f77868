//! The conformance suites: what every adapter of a port must do, case by case.

pub mod dns;
pub mod queue;
pub mod store;
mod suite;

pub use suite::{Ended, Failed, Keep, Passed};
