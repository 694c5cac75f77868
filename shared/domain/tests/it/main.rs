//! The task state machine: a table of all it does, and properties of all it can do; and the
//! bounds of values.

mod adopted;
mod documents;
mod doubt;
mod left;
mod model;
mod properties;
mod pull_requests;
mod reactions;
mod retries;
mod sample;
mod spec;
mod table;
mod values;
