//! How long records are kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::Work;
use crate::task::Task;
use crate::time::Timestamp;

/// Days per kind of record; 0 keeps records forever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Build records: 90.
    pub builds_days: u32,
    /// Other tasks: 7.
    pub tasks_days: u32,
    /// Build events and diffs, after the build's end: 7.
    pub events_days: u32,
    /// The audit log: 400.
    pub audit_days: u32,
    /// Idempotency records: 1 (0 is 1).
    pub idempotency_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            builds_days: 90,
            tasks_days: 7,
            events_days: 7,
            audit_days: 400,
            idempotency_days: 1,
        }
    }
}

impl Retention {
    /// When the record of a task that ended at `now` expires.
    pub fn task_expires_at(&self, task: &Task, now: Timestamp) -> Option<Timestamp> {
        after(
            now,
            if matches!(task.work, Work::Build(_)) { self.builds_days } else { self.tasks_days },
        )
    }

    /// When the events and the diff of a task that ended at `now` expire.
    pub fn events_expire_at(&self, now: Timestamp) -> Option<Timestamp> {
        after(now, self.events_days)
    }

    /// When the state of a commit's pipeline that was recorded at `now` expires: as builds do.
    pub fn pipeline_expires_at(&self, now: Timestamp) -> Option<Timestamp> {
        after(now, self.builds_days)
    }

    /// When an audit event of `now` expires.
    pub fn audit_expires_at(&self, now: Timestamp) -> Option<Timestamp> {
        after(now, self.audit_days)
    }
}

fn after(now: Timestamp, days: u32) -> Option<Timestamp> {
    (days > 0).then(|| now.plus(Duration::from_secs(u64::from(days) * 24 * 60 * 60)))
}
