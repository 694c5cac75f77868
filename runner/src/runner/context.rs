//! What all attempts of a runner share: its ports, its settings, and what it is doing now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rdev_domain::ids::{Owner, TaskId, WorkerId};
use rdev_domain::ports::{Capabilities, Forge, Queue, Store};
use rdev_domain::time::Timestamp;
use rdev_domain::worker::WorkerStatus;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::protection::Guard;
use crate::attempt::lease::Held;
use crate::attempt::stop::Why;
use crate::attempt::workspace::InUse;
use crate::config::{Folders, RunnerConfig};
use crate::git::HeadsOnly;
use crate::redact::Redactor;

/// What a runner works with.
#[derive(Clone)]
pub struct Ports {
    /// Where tasks are.
    pub store: Arc<dyn Store>,
    /// Where wake-ups come from.
    pub queue: Arc<dyn Queue>,
    /// Where pull requests are opened.
    pub forge: Arc<dyn Forge>,
}

/// What all attempts of a runner share.
pub(crate) struct Shared {
    pub(crate) ports: Ports,
    pub(crate) config: RunnerConfig,
    pub(crate) folders: Folders,
    pub(crate) worker_id: WorkerId,
    pub(crate) redactor: Redactor,
    pub(crate) in_use: InUse,
    pub(crate) heads_only: HeadsOnly,
    /// Clean-up that no build waits for.
    pub(crate) background: TaskTracker,
    pub(super) owner: Owner,
    pub(super) can: Capabilities,
    pub(super) slots: u32,
    pub(super) version: String,
    pub(super) started_at: Timestamp,
    pub(super) running: Mutex<HashMap<TaskId, Arc<Held>>>,
    /// Told when `running` changes.
    pub(super) changed: Notify,
    /// No more claims, for good.
    pub(super) drain: CancellationToken,
    /// Builds that still run are given back.
    pub(crate) release: CancellationToken,
    /// No more claims while this is true: a drain that was asked for through the API.
    pub(super) ordered_drain: watch::Sender<bool>,
    pub(super) protection: Guard,
    /// When the store last took a heartbeat; before that, when the runner was made.
    pub(super) store_ok: watch::Sender<Instant>,
}

impl Shared {
    /// An attempt begins: it can be reached, and the worker is busy.
    pub(crate) fn begin(&self, held: &Arc<Held>) {
        self.running().insert(held.task, Arc::clone(held));
        if self.release.is_cancelled() {
            held.stop.now(Why::Released);
        }
        self.changed.notify_one();
    }

    /// An attempt has ended.
    pub(crate) fn end(&self, held: &Arc<Held>) {
        let mut running = self.running();
        if running.get(&held.task).is_some_and(|known| Arc::ptr_eq(known, held)) {
            running.remove(&held.task);
        }
        drop(running);
        self.changed.notify_one();
    }

    pub(super) fn status(&self) -> WorkerStatus {
        let draining = self.drain.is_cancelled() || *self.ordered_drain.borrow();
        match (draining, self.running().is_empty()) {
            (true, _) => WorkerStatus::Draining,
            (false, false) => WorkerStatus::Busy,
            (false, true) => WorkerStatus::Idle,
        }
    }

    pub(super) fn release_all(&self) {
        self.release.cancel();
        for held in self.running().values() {
            held.stop.now(Why::Released);
        }
    }

    pub(super) fn running(&self) -> std::sync::MutexGuard<'_, HashMap<TaskId, Arc<Held>>> {
        // Every change is one insert or remove, so a panic elsewhere leaves it whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
