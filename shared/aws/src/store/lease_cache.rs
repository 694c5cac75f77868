//! The tasks whose leases this process has, as it wrote them last.
//!
//! A holder's next write is computed from the cache, without a read. If another process has
//! changed the task meanwhile, a condition of the write fails, and then the task is read.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::lease::{Holder, Lease};

use super::rows::{Found, Row};

/// The most entries of either map. A runner has far fewer slots.
const MAX_ENTRIES: usize = 5_000;

#[derive(Debug, Default)]
pub(super) struct LeaseCache {
    rows: Mutex<HashMap<TaskId, Row>>,
    /// The project of a task never changes.
    projects: Mutex<HashMap<TaskId, ProjectId>>,
}

impl LeaseCache {
    /// The task, if this holder has its lease.
    pub(super) fn row(&self, id: TaskId, holder: &Holder) -> Option<Row> {
        let rows = lock(&self.rows);
        let row = rows.get(&id)?;
        let Found::Task(record) = &row.found else { return None };
        let lease = record.lease.as_ref()?;
        (lease.fence == holder.fence && lease.owner == holder.owner).then(|| row.clone())
    }

    pub(super) fn insert(&self, id: TaskId, row: Row) {
        let mut rows = lock(&self.rows);
        if rows.len() >= MAX_ENTRIES {
            // A task that is not in the cache is read again.
            rows.clear();
        }
        rows.insert(id, row);
    }

    pub(super) fn remove(&self, id: TaskId) {
        lock(&self.rows).remove(&id);
    }

    /// Applies a renewal to a cached lease.
    pub(super) fn update_lease(
        &self,
        id: TaskId,
        holder: &Holder,
        change: impl FnOnce(&mut Lease),
    ) {
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

    pub(super) fn insert_project(&self, id: TaskId, project: &ProjectId) {
        let mut projects = lock(&self.projects);
        if projects.len() >= MAX_ENTRIES {
            projects.clear();
        }
        projects.insert(id, project.clone());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // After a panic elsewhere the map is consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
