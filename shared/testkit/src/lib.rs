//! What rdev's tests build on.
//!
//! [`conformance`] holds every adapter of a port to the same cases. [`servers`] are the systems
//! that rdev talks to, each started on 127.0.0.1 for one test. [`tools`] are programs that tests
//! run, and what a test needs to find out whether it can run at all. [`captures`] are recorded
//! answers of the real systems, which the servers are held against.

// Names and signatures say enough for most of what tests use.
#![allow(missing_docs)]

pub mod captures;
pub mod conformance;
pub mod servers;
pub mod tools;
