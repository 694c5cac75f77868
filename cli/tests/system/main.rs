//! `rdev up` as users run it: a process, its API, real git, and crashes.

#[path = "../support/mod.rs"]
mod support;

mod campaign;
mod secrets;
mod work;
