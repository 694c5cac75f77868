//! The one-machine adapters of rdev: a store and a queue on SQLite, and bare
//! repositories in a folder.
//!
//! [`open()`] takes a data folder for this process alone and gives all three:
//!
//! ```text
//! <data>/lock                  held while anything of it is open; holds the pid
//! <data>/rdev.db               the store, synced at every commit
//! <data>/queue.db              the queue: hints, which the sweep can make anew
//! <data>/repos/<project>.git   the repositories
//! ```
//!
//! Files are 0600 and folders that are made here 0700.

mod database;
mod failed;
mod forge;
mod lock;
mod migrate;
mod open;
mod queue;
mod store;
mod writer;

pub use forge::{Author, LocalForge};
pub use open::{Embedded, OpenError, Options, open};
pub use queue::SqliteQueue;
pub use store::SqliteStore;
