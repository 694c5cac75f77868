//! The AWS shape as users run it: the template itself on a local AWS, the functions as
//! cargo-lambda built them, runners as processes, real git over HTTP.

#[path = "../support/mod.rs"]
mod support;

mod builds;
mod calls;
mod dead;
mod faults;
mod functions;
mod redrive;
mod stack;
