//! What this process holds: tasks and leases as it wrote them last.
//!
//! A holder's next write is made from here, without a read. Its conditions find out whether
//! somebody else has changed the task meanwhile; then it is read after all.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::lease::{Holder, Lease};

use super::rows::{Found, Row};

/// How many of either are remembered; a runner has far fewer slots.
const MOST: usize = 5_000;

/// See above.
#[derive(Debug, Default)]
pub(super) struct Held {
    rows: Mutex<HashMap<TaskId, Row>>,
    /// The project of a task never changes.
    projects: Mutex<HashMap<TaskId, ProjectId>>,
}

impl Held {
    /// The task, if it is held here by this holder.
    pub(super) fn row(&self, id: TaskId, holder: &Holder) -> Option<Row> {
        let rows = lock(&self.rows);
        let row = rows.get(&id)?;
        let Found::Task(record) = &row.found else { return None };
        let lease = record.lease.as_ref()?;
        (lease.fence == holder.fence && lease.owner == holder.owner).then(|| row.clone())
    }

    pub(super) fn keep(&self, id: TaskId, row: Row) {
        let mut rows = lock(&self.rows);
        if rows.len() >= MOST {
            // What is forgotten is read again.
            rows.clear();
        }
        rows.insert(id, row);
    }

    pub(super) fn forget(&self, id: TaskId) {
        lock(&self.rows).remove(&id);
    }

    /// Notes what a renewal has made of a lease.
    pub(super) fn renewed(&self, id: TaskId, holder: &Holder, change: impl FnOnce(&mut Lease)) {
        if let Some(Row { found: Found::Task(record), .. }) = lock(&self.rows).get_mut(&id)
            && let Some(lease) = &mut record.lease
            && (lease.fence, &lease.owner) == (holder.fence, &holder.owner)
        {
            change(lease);
        }
    }

    pub(super) fn project(&self, id: TaskId) -> Option<ProjectId> {
        lock(&self.projects).get(&id).cloned()
    }

    pub(super) fn note_project(&self, id: TaskId, project: &ProjectId) {
        let mut projects = lock(&self.projects);
        if projects.len() >= MOST {
            projects.clear();
        }
        projects.insert(id, project.clone());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves a map whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
