//! Proofs of rdev, kept apart from the product: explicit-state models of its protocol, and the
//! ports in memory.
//!
//! `cargo run -p rdev-lab --release --bin model` checks the models in their full bounds,
//! `cargo test -p rdev-lab` in small ones.

// Fields and variants whose names say enough have no comment.
#![allow(missing_docs)]

pub mod memory;
pub mod model;
pub mod simulation;
