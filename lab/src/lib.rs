//! Proofs of rdev, kept apart from the product: an explicit-state model of its protocol, and a
//! campaign with real processes that are killed.
//!
//! `cargo run -p rdev-lab --release --bin model` checks the model in its full bounds,
//! `cargo test -p rdev-lab` in small ones. `cargo run -p rdev-lab --release --bin chaos -- --help`
//! tells how to run a campaign.

// Fields and variants whose names say enough have no comment.
#![allow(missing_docs)]

pub mod campaign;
pub mod model;
