//! `rdev work` and `rdev worker`.

use clap::{Args, Subcommand};
use rdev_domain::ids::{TaskId, WorkerId};
use ulid::Ulid;

use super::values::Paging;

/// `rdev work …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Work {
    /// List tasks of every type and project, newest first.
    List(Paging),
    /// Show the number of waiting and running tasks.
    Stats,
    /// List dead letters: queue messages that could not be handled.
    Dead(Paging),
    /// Send dead letters again and retry failed tasks: all of them, or only the given ones.
    Redrive(Redrive),
}

/// `rdev work redrive`: everything, unless options select something.
#[derive(Debug, Args)]
pub(crate) struct Redrive {
    /// A dead letter to send again; can be repeated.
    #[arg(long = "letter", value_name = "ID")]
    pub(crate) letters: Vec<Ulid>,
    /// A failed or cancelled task to retry, on the same lineage; can be repeated.
    #[arg(long = "task", value_name = "TASK")]
    pub(crate) tasks: Vec<TaskId>,
}

/// `rdev worker …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Worker {
    /// List workers.
    List(Paging),
    /// Let a worker finish its tasks and claim no new ones.
    Drain {
        /// The worker's id.
        id: WorkerId,
    },
    /// Let a drained worker claim tasks again.
    Resume {
        /// The worker's id.
        id: WorkerId,
    },
}
