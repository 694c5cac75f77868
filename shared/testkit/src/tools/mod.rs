//! Programs that tests run, installed on first use, and the small things that servers and suites
//! share.

pub mod agents;
pub(crate) mod clock;
pub mod debian;
pub mod kubectl;
pub mod needs;
pub mod npm;
pub(crate) mod onward;
pub mod python;
pub mod resolve;
pub mod trial;
pub(crate) mod watchdog;
