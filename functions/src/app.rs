//! The application: the ports it works with, its settings, and what a process keeps beside them.
//! Services and endpoints share it; nothing of HTTP is in it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use metrics_exporter_prometheus::PrometheusHandle;
use rdev_domain::dns::DnsDefaults;
use rdev_domain::ids::TaskId;
use rdev_domain::outbox;
use rdev_domain::ports::{Ci, Dns, Forge, Queue, Store};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use ulid::Ulid;

use crate::settings::Settings;

/// Called with a running task that is to be cancelled, so that a runner in the same process
/// learns of it at once.
pub type OnCancel = Arc<dyn Fn(TaskId) + Send + Sync>;

/// The ports and settings of an application.
#[derive(Clone)]
pub struct Context {
    /// Registry, task state, audit.
    pub store: Arc<dyn Store>,
    /// Wake-ups.
    pub queue: Arc<dyn Queue>,
    /// Repositories.
    pub forge: Arc<dyn Forge>,
    /// Pipelines; absent where no CI is configured.
    pub ci: Option<Arc<dyn Ci>>,
    /// Names; absent where no DNS provider is configured. `settings.dns` is set with it.
    pub dns: Option<Arc<dyn Dns>>,
    /// Limits and defaults.
    pub settings: Settings,
    /// What `/metrics` shows beside what the store knows.
    pub metrics: Option<PrometheusHandle>,
    /// Called on cancellations, where a runner is in the same process.
    pub on_cancel: Option<OnCancel>,
}

/// A [`Context`] that handlers share, and the ids that this process makes.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    context: Context,
    ulids: Mutex<ulid::Generator>,
}

impl App {
    pub(crate) fn new(context: Context) -> Self {
        Self(Arc::new(Inner { context, ulids: Mutex::new(ulid::Generator::new()) }))
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.0.context.store
    }

    pub(crate) fn shared_store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.0.context.store)
    }

    pub(crate) fn queue(&self) -> &dyn Queue {
        &*self.0.context.queue
    }

    pub(crate) fn forge(&self) -> &dyn Forge {
        &*self.0.context.forge
    }

    pub(crate) fn ci(&self) -> Option<&dyn Ci> {
        self.0.context.ci.as_deref()
    }

    /// The DNS provider, and how domain names are read.
    pub(crate) fn dns(&self) -> Option<(&dyn Dns, &DnsDefaults)> {
        Some((self.0.context.dns.as_deref()?, self.0.context.settings.dns.as_ref()?))
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.context.settings
    }

    pub(crate) fn metrics(&self) -> Option<&PrometheusHandle> {
        self.0.context.metrics.as_ref()
    }

    /// Notifies a runner in the same process that a running task is to be cancelled.
    pub(crate) fn notify_cancel(&self, task: TaskId) {
        if let Some(on_cancel) = &self.0.context.on_cancel {
            on_cancel(task);
        }
    }

    /// A ULID of `now`, above every earlier one of this process, so that tasks which arrive within
    /// a millisecond keep their order.
    pub(crate) fn new_ulid(&self, now: Timestamp) -> Ulid {
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        let at = UNIX_EPOCH + Duration::from_millis(millis);
        let mut ulids = self.0.ulids.lock().unwrap_or_else(PoisonError::into_inner);
        ulids.generate_from_datetime(at).unwrap_or_else(|_| Ulid::from_datetime(at))
    }

    /// Sends the wake-ups of `outbox`. The sweep sends those that cannot be sent now, so the
    /// request succeeds all the same.
    pub(crate) async fn send(&self, outbox: &[OutboxEntry], now: Timestamp) {
        if let Err(error) = outbox::send(self.store(), self.queue(), outbox, now).await {
            tracing::warn!(%error, "wake-ups were not sent; the next sweep sends them");
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("context", &self.0.context).finish_non_exhaustive()
    }
}
