//! Proofs of rdev, kept apart from the product: an explicit-state model of its protocol, the ports
//! in memory, and a seeded simulation of the runner's own code over them.
//!
//! `cargo run -p rdev-lab --release --bin model` checks the model in its full bounds,
//! `--bin simulate` runs a million schedules; `cargo test -p rdev-lab` does both in small bounds.

// Fields and variants whose names say enough have no comment.
#![allow(missing_docs)]

pub mod memory;
pub mod model;
pub mod simulation;
