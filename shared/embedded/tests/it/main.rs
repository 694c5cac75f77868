//! The data folder as its users see it.

mod conformance;
mod crash;
mod folder;
mod forge;
mod queue;
mod scene;
mod store;
