//! Attempts that are stopped from outside.

mod stop;
