//! The one-machine adapters of rdev: a store and a queue on SQLite, and bare
//! repositories in a folder.
//!
//! [`open()`] locks a data folder for this process and opens all three:
//!
//! ```text
//! <data>/lock                  locked while the folder is in use; contains the pid
//! <data>/rdev.db               the store, synced at every commit
//! <data>/queue.db              the queue: hints, which the sweep can send again
//! <data>/repos/<project>.git   the repositories
//! ```
//!
//! Files have mode 0600, and new folders have mode 0700.

#![allow(missing_docs)]

mod backup;
mod database;
mod error;
mod forge;
mod lock;
mod open;
mod queue;
mod store;

pub use backup::{BackupError, Made, Restored, backup, restore};
pub use forge::{Author, LocalForge};
pub use open::{Embedded, OpenError, Options, open};
pub use queue::SqliteQueue;
pub use store::SqliteStore;
