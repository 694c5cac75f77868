//! The data folder through its public interface.

mod backup;
mod crash;
mod folder;
mod forge;
mod queue;
mod scale;
mod scene;
mod store;
mod sweep;
