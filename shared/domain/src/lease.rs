//! The lease: a small record apart from the task, so that heartbeats touch nothing else.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::BuildEvent;
use crate::git::RecordedRef;
use crate::ids::{Fence, Owner};
use crate::result::Usage;
use crate::step::Refusal;
use crate::time::Timestamp;

/// How long a lease lasts after it was taken or renewed.
pub const LEASE: Duration = Duration::from_secs(45);

/// How often a holder renews; ± 10 % of jitter is the holder's.
pub const RENEW_EVERY: Duration = Duration::from_secs(15);

/// How far clocks may differ before a live lease counts as dead.
pub const CLOCK_SLACK: Duration = Duration::from_secs(15);

/// Who works on a task, and until when no other process may.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// The task's fence when the lease was taken.
    pub fence: Fence,
    /// The process that holds it.
    pub owner: Owner,
    /// Grows at every renewal; a recoverer acts only on the value it saw.
    pub heartbeat: u64,
    /// When it ends unless renewed.
    pub until: Timestamp,
    /// Somebody asked to cancel the task.
    pub cancel_requested: bool,
    /// What the attempt has used so far, for the record of a lost worker.
    pub usage: Usage,
    /// The task's [`crate::task::Task::own_refs`] as the holder knows them; `None`: it has written
    /// none. When the lease ends, or at the next event, the task has them.
    pub own_refs: Option<Vec<RecordedRef>>,
}

/// What a renewal writes beside the lease's end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress<'a> {
    /// Build events.
    pub events: &'a [BuildEvent],
    /// What the attempt has used so far; `None`: as before.
    pub usage: Option<Usage>,
    /// All refs of rdev's own that are not dealt with, those that are about to be written among
    /// them; `None`: as before.
    pub own_refs: Option<&'a [RecordedRef]>,
}

/// What a writer must name: the fence and the owner it holds a task with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The fence its claim returned.
    pub fence: Fence,
    /// The owner it claimed as.
    pub owner: Owner,
}

impl Lease {
    /// A lease taken at `now`.
    pub fn taken(fence: Fence, owner: Owner, now: Timestamp) -> Self {
        Self {
            fence,
            owner,
            heartbeat: 0,
            until: now.plus(LEASE),
            cancel_requested: false,
            usage: Usage::default(),
            own_refs: None,
        }
    }

    /// Renews. Expiry is **not** tested: a blip must not kill an hour's work;
    /// a lease that was recovered is gone or has another fence.
    ///
    /// # Errors
    /// [`Refusal::Stale`] when `holder` is not the one who holds it.
    pub fn renewed(
        &self,
        holder: &Holder,
        progress: Progress<'_>,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        if self.fence != holder.fence || self.owner != holder.owner {
            return Err(Refusal::Stale);
        }
        Ok(Self {
            heartbeat: self.heartbeat + 1,
            until: now.plus(LEASE),
            usage: progress.usage.unwrap_or(self.usage),
            own_refs: match progress.own_refs {
                Some(own_refs) => Some(own_refs.to_vec()),
                None => self.own_refs.clone(),
            },
            ..self.clone()
        })
    }

    /// Whether the holder counts as dead, on every clock that differs by [`CLOCK_SLACK`] or less.
    pub fn expired(&self, now: Timestamp) -> bool {
        self.until.plus(CLOCK_SLACK) < now
    }
}
