//! Whole builds: their outcomes, what earlier attempts have left, real servers, hostile input.

mod earlier_attempts;
mod ghost;
mod hostile;
mod left_refs;
pub(crate) mod outcomes;
mod remote;
mod restored;
mod verified;
