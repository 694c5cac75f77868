//! What rdev's tests stand on: the conformance suites of the ports, and real
//! servers that play the outside world.

pub mod agents;
pub mod clock;
pub mod cloudflare;
pub mod debian;
pub mod dns;
pub mod emulator;
pub mod faults;
pub mod git_http;
pub mod gitea;
pub mod kubectl;
pub mod model;
pub mod needs;
pub mod npm;
mod onward;
pub mod powerdns;
pub mod proxy;
pub mod python;
pub mod queue;
pub mod resolve;
pub mod runtime_api;
pub mod store;
mod suite;
mod watchdog;
pub mod woodpecker;

pub use suite::{Ended, Failed, Keep, Passed};
