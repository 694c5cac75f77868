//! Attempts that are stopped from outside.

mod lease;
mod stop;
