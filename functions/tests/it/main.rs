//! Whole requests through the whole API, over the real store, queue and forge
//! in a folder of their own.

mod auth;
mod bad_input;
mod builds;
mod documents;
mod domains;
mod events;
mod forge_messages;
mod fuzz;
mod hooks;
mod idempotency;
mod keys;
mod lambda;
mod layers;
mod map;
mod ops;
mod pages;
mod projects;
mod pull_requests;
mod support;
mod templates;
mod work;
mod workers;
