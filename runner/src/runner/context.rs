//! The state that all attempts of a runner share: its ports, its settings, and what runs now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use rdev_domain::Invalid;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::{Owner, TaskId, WorkerId};
use rdev_domain::ports::{Capabilities, Forge, Queue, Store};
use rdev_domain::time::Timestamp;
use rdev_domain::worker::WorkerStatus;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::protection::ScaleInGuard;
use crate::attempt::lease::ActiveLease;
use crate::attempt::stop::StopReason;
use crate::attempt::workspace::InUse;
use crate::build::Granted;
use crate::cleanup::Memory;
use crate::config::{Folders, RunnerConfig};
use crate::git::{Credentials, Remote};
use crate::machine::Machine;
use crate::redact::Redactor;

/// The services that a runner works with.
#[derive(Clone)]
pub struct Ports {
    /// Has the tasks.
    pub store: Arc<dyn Store>,
    /// Delivers wake-ups.
    pub queue: Arc<dyn Queue>,
    /// Opens pull requests and shows commit statuses.
    pub forge: Arc<dyn Forge>,
}

/// The state that all attempts of a runner share.
pub(crate) struct RunnerContext {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) ports: Ports,
    pub(crate) config: RunnerConfig,
    pub(crate) folders: Folders,
    pub(crate) worker_id: WorkerId,
    pub(crate) redactor: Redactor,
    pub(crate) in_use: InUse,
    pub(crate) granted: Granted,
    /// Clean-up that runs in the background; no build waits for it.
    pub(crate) background: TaskTracker,
    /// What it remembers of refs in repositories.
    pub(crate) memory: Memory,
    pub(super) owner: Owner,
    pub(super) capabilities: Capabilities,
    pub(super) slots: u32,
    pub(super) version: String,
    pub(super) started_at: Timestamp,
    pub(super) running: Mutex<BTreeMap<TaskId, Arc<ActiveLease>>>,
    /// Notified when `running` changes.
    pub(super) changed: Notify,
    /// Cancelled when the runner is to claim nothing more, for good.
    pub(super) drain: CancellationToken,
    /// Cancelled when the runner is to give back what still runs.
    pub(crate) release: CancellationToken,
    /// True while somebody has ordered a drain through the API: no claims meanwhile.
    pub(super) ordered_drain: watch::Sender<bool>,
    pub(super) protection: ScaleInGuard,
    /// When the store last accepted a heartbeat; before the first one, when the runner started.
    pub(super) store_ok: watch::Sender<Instant>,
}

impl RunnerContext {
    /// Runs clean-up that no build waits for; the end of the runner does.
    pub(crate) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.machine.spawn(self.background.track_future(work).boxed());
    }

    /// The repository at this URL.
    ///
    /// # Errors
    /// When it is not allowed here.
    pub(crate) fn remote(&self, url: GitUrl) -> Result<Remote, Invalid> {
        let policy = self.config.url_policy(&self.folders);
        url.check(&policy)?;
        let git = &self.config.git;
        let credentials = url.origin().and_then(|origin| {
            let found = git.credentials.iter().find(|entry| entry.origin == origin)?;
            Some(Credentials { username: found.username.clone(), token: found.token.clone() })
        });
        Ok(Remote { url, credentials, policy, timeout: Duration::from_secs(git.timeout_s) })
    }

    /// Cancelled once the runner takes no more work.
    pub(crate) fn until_drain(&self) -> CancellationToken {
        self.drain.child_token()
    }

    /// Removes old sessions.
    pub(super) async fn expire_sessions(&self) {
        let keep = Duration::from_secs(self.config.runner.keep_sessions_s);
        self.machine.expire_sessions(keep).await;
    }

    /// Registers an attempt: from now on it can be stopped, and the worker is busy.
    pub(crate) fn begin(&self, lease: &Arc<ActiveLease>) {
        self.running().insert(lease.task, Arc::clone(lease));
        if self.release.is_cancelled() {
            lease.stop.request(StopReason::Released);
        }
        self.changed.notify_one();
    }

    /// Removes an attempt that has ended.
    pub(crate) fn end(&self, lease: &Arc<ActiveLease>) {
        let mut running = self.running();
        if running.get(&lease.task).is_some_and(|registered| Arc::ptr_eq(registered, lease)) {
            running.remove(&lease.task);
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
        for lease in self.running().values() {
            lease.stop.request(StopReason::Released);
        }
    }

    pub(super) fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<TaskId, Arc<ActiveLease>>> {
        // Every change is one insert or remove, so a panic elsewhere leaves it whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
