//! The task state machine: a table of all it does, and properties of all it can do.

mod model;
mod properties;
mod reactions;
mod sample;
mod table;
