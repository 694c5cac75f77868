//! What this process remembers of repositories, so that a fetch asks the store about new refs only.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::TaskId;
use rdev_domain::ref_look::PLANNED_FOR;
use rdev_domain::time::Timestamp;

/// By repository.
#[derive(Default)]
pub(crate) struct Memory(Mutex<HashMap<GitUrl, Remembered>>);

#[derive(Default)]
struct Remembered {
    /// Until when it does not plan a look again.
    planned: Option<Timestamp>,
    /// Until when the refs of these tasks are left alone: they stay, or cannot be removed.
    settled: BTreeMap<TaskId, Timestamp>,
}

impl Memory {
    /// Whether a look is to be planned now. It counts as planned from then on.
    pub(super) fn begin_plan(&self, url: &GitUrl, now: Timestamp) -> bool {
        let mut all = self.all();
        let of_it = all.entry(url.clone()).or_default();
        let begins = of_it.planned.is_none_or(|until| until <= now);
        if begins {
            of_it.planned = Some(now.plus(PLANNED_FOR));
        }
        begins
    }

    /// The store did not take the plan.
    pub(super) fn forget_plan(&self, url: &GitUrl) {
        if let Some(of_it) = self.all().get_mut(url) {
            of_it.planned = None;
        }
    }

    /// Leaves the refs of a task alone until then.
    pub(super) fn settle(&self, url: &GitUrl, task: TaskId, until: Timestamp) {
        self.all().entry(url.clone()).or_default().settled.insert(task, until);
    }

    /// Those of the tasks whose refs are not to be left alone.
    pub(super) fn unsettled(
        &self,
        url: &GitUrl,
        tasks: impl Iterator<Item = TaskId>,
        now: Timestamp,
    ) -> Vec<TaskId> {
        let mut all = self.all();
        let of_it = all.entry(url.clone()).or_default();
        of_it.settled.retain(|_, until| *until > now);
        let mut tasks: Vec<TaskId> =
            tasks.filter(|task| !of_it.settled.contains_key(task)).collect();
        tasks.sort_unstable();
        tasks.dedup();
        tasks
    }

    fn all(&self) -> MutexGuard<'_, HashMap<GitUrl, Remembered>> {
        // Every change is one insert or remove, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
