//! The data folder as its users see it.

mod crash;
mod folder;
mod forge;
mod queue;
mod scene;
mod store;
mod sweep;
