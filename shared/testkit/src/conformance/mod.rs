//! The conformance suites: what every adapter of a port must do, case by case.
//!
//! Each case is a trial of its own, so that a run shows it and can select it by its name.

pub mod dns;
pub mod queue;
pub mod store;
mod suite;

pub use suite::{AT_ONCE, Keep};
