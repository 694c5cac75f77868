//! The protocol as explicit-state models. The tasks in them are real ones: every transition is
//! [`rdev_domain::step::step`], as in the stores.
//!
//! * [`lineage`]: a task and its retries, the git repository with the tickets, and people.
//! * [`queue`]: the tasks of a project, its slots, wake-ups, marks, the sweep, clocks.
//!
//! A bound is a blind spot: what needs more of something than it has is not seen.

pub mod ends;
pub mod lineage;
pub mod part;
pub mod queue;

pub mod record;
