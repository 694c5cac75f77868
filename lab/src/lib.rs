//! Proofs of rdev, kept apart from the product: explicit-state models of its protocol, the ports in
//! memory, and a seeded simulation of the runner's own code over them.
//!
//! `cargo run -p rdev-lab --release --bin model` checks the models in their full bounds,
//! `--bin simulate` runs a million schedules; `cargo test -p rdev-lab` does both in small bounds.

// Fields and variants whose names say enough have no comment.
#![allow(missing_docs)]

pub mod memory;
pub mod model;
pub mod simulation;
