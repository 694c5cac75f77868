//! What becomes of a ref of rdev's own: its task's record tells.

use std::collections::BTreeSet;
use std::time::Duration;

use rdev_domain::git::OwnRef;
use rdev_domain::ids::TaskId;
use rdev_domain::ports::PortError;
use rdev_domain::task::{Task, TaskState};

use crate::runner::context::RunnerContext;

/// When the store does not know a task of this age, its record has expired. A younger task may
/// belong to another installation that shares the repository.
const EXPIRED_AFTER: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// What is known of the task that a ref belongs to.
pub(super) enum Fate {
    /// It has ended.
    Ended(Box<Task>),
    /// It is at work, or waits for that; or a retry of it is, which may take its work over.
    Living,
    /// Its record has expired.
    Expired,
    /// The store has never known it, as far as one can tell.
    Foreign,
    /// The store does not answer.
    Unknown,
}

impl Fate {
    /// The fate of a task. `known`: tasks that are known to be of this installation.
    pub(super) async fn of(context: &RunnerContext, id: TaskId, known: &BTreeSet<TaskId>) -> Self {
        let store = &context.ports.store;
        let task = match store.task(id).await {
            Ok(record) => record.task,
            Err(PortError::NotFound { .. }) if known.contains(&id) => return Self::Expired,
            Err(PortError::NotFound { .. }) if is_old(context, id) => return Self::Expired,
            Err(PortError::NotFound { .. }) => return Self::Foreign,
            Err(_) => return Self::Unknown,
        };
        if !task.state.is_terminal() {
            return Self::Living;
        }
        let Some(retry) = task.retried_as else { return Self::Ended(Box::new(task)) };
        match store.task(retry).await {
            Ok(record) if !record.task.state.is_terminal() => Self::Living,
            Ok(_) | Err(PortError::NotFound { .. }) => Self::Ended(Box::new(task)),
            Err(_) => Self::Unknown,
        }
    }

    /// Whether nobody needs this ref of the task any more.
    pub(super) fn lets_go(&self, own: OwnRef) -> bool {
        match self {
            Self::Ended(task) => {
                done_with(task.state) && !matches!(own, OwnRef::Kept(_)) && !is_in_doubt(task, own)
            }
            Self::Expired => true,
            Self::Living | Self::Foreign | Self::Unknown => false,
        }
    }
}

/// Whether a task is so old that its record has expired, if the store does not know it.
pub(super) fn is_old(context: &RunnerContext, task: TaskId) -> bool {
    context.machine.now().since(task.created_at()) > EXPIRED_AFTER
}

/// Whether it is the ticket of a push that is in doubt: it tells a retry that it has not landed.
pub(super) fn is_in_doubt(task: &Task, own: OwnRef) -> bool {
    task.own_refs.iter().any(|recorded| recorded.may_land && recorded.own == own)
}

pub(super) fn done_with(state: TaskState) -> bool {
    matches!(state, TaskState::Succeeded | TaskState::Cancelled)
}
