//! Proofs of rdev, kept apart from the product: explicit-state models of its protocol, the ports in
//! memory, a seeded simulation of the runner's own code over them, a campaign with real processes
//! that are killed, and a benchmark of whole builds.
//!
//! `cargo run -p rdev-lab --release --bin model` checks the models in their full bounds,
//! `--bin simulate` runs a million schedules; `cargo test -p rdev-lab` does both in small bounds.
//! `cargo run -p rdev-lab --release --bin chaos -- --help` tells how to run a campaign, and
//! `--bin bench -- --help` how to measure.

// Fields and variants whose names say enough have no comment.
#![allow(missing_docs)]

pub mod bench;
pub mod campaign;
pub mod memory;
pub mod model;
pub mod simulation;
