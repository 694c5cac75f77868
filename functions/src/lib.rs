//! The HTTP API of rdev: routers over the ports of `rdev-domain`.
//!
//! [`api`] merges every router, as `rdev up` serves them; [`serve`] makes one
//! of them stand alone, as a Lambda function does. Either way the same layers
//! stand before the handlers: request id, problem+json, authentication, rate
//! limit, body limit, idempotency. `docs/api.md` tells what clients see.

pub mod agents;
pub mod audit;
mod auth;
pub mod builds;
pub mod ci;
pub mod creation;
mod cursor;
pub mod deliveries;
pub mod domains;
mod extract;
mod gate;
pub mod hooks;
mod idempotency;
mod key_text;
pub mod keys;
pub mod lambda;
pub mod maintenance;
pub mod openapi;
pub mod ops;
pub mod problem;
pub mod projects;
mod provision;
pub mod readiness;
pub mod redrive;
pub mod settings;
mod stream;
pub mod templates;
pub mod work;
pub mod workers;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use rdev_domain::dns::DnsDefaults;
use rdev_domain::ids::TaskId;
use rdev_domain::outbox;
use rdev_domain::ports::{Ci, Dns, Forge, Queue, Store};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use ulid::Ulid;
use utoipa_axum::router::OpenApiRouter;

pub use cursor::List;
pub use settings::{HookSecrets, Settings};
pub use stream::Events;

/// Called with a running task whose cancellation was asked for, so that a
/// runner in the same process learns of it at once.
pub type OnCancel = Arc<dyn Fn(TaskId) + Send + Sync>;

/// What the handlers work with.
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
    /// Told of cancellations, where a runner is in the same process.
    pub on_cancel: Option<OnCancel>,
}

/// The state of all handlers: a [`Context`], and what a process keeps beside it.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    context: Context,
    limiter: Option<auth::Limiter>,
    ulids: Mutex<ulid::Generator>,
}

/// The whole API.
pub fn api(context: Context) -> Router {
    serve(routers(), context)
}

/// `router` with everything that stands before its handlers.
///
/// # Panics
/// When an operation of the router does not say what key it needs.
pub fn serve(router: OpenApiRouter<Api>, context: Context) -> Router {
    ops::describe_metrics();
    gate::gated(router, Api::new(context))
}

/// Every router, merged, without layers.
pub(crate) fn routers() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .merge(projects::router())
        .merge(builds::router())
        .merge(domains::router())
        .merge(ci::router())
        .merge(deliveries::router())
        .merge(hooks::router())
        .merge(templates::router())
        .merge(work::router())
        .merge(workers::router())
        .merge(agents::router())
        .merge(keys::router())
        .merge(audit::router())
        .merge(ops::router())
}

impl Api {
    fn new(context: Context) -> Self {
        let limiter = auth::limiter(&context.settings);
        Self(Arc::new(Inner { context, limiter, ulids: Mutex::new(ulid::Generator::new()) }))
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

    /// The DNS provider, and how names are read.
    pub(crate) fn dns(&self) -> Option<(&dyn Dns, &DnsDefaults)> {
        Some((self.0.context.dns.as_deref()?, self.0.context.settings.dns.as_ref()?))
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.context.settings
    }

    pub(crate) fn metrics(&self) -> Option<&PrometheusHandle> {
        self.0.context.metrics.as_ref()
    }

    pub(crate) fn limiter(&self) -> Option<&auth::Limiter> {
        self.0.limiter.as_ref()
    }

    pub(crate) fn cancelled(&self, task: TaskId) {
        if let Some(on_cancel) = &self.0.context.on_cancel {
            on_cancel(task);
        }
    }

    /// A ULID of `now`, above every other one that this process made, so that
    /// tasks which arrive within a millisecond keep their order.
    pub(crate) fn new_ulid(&self, now: Timestamp) -> Ulid {
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        let at = UNIX_EPOCH + std::time::Duration::from_millis(millis);
        let mut ulids = self.0.ulids.lock().unwrap_or_else(PoisonError::into_inner);
        ulids.generate_from_datetime(at).unwrap_or_else(|_| Ulid::from_datetime(at))
    }

    /// Sends the wake-ups of `outbox`. One that cannot be sent now is sent by
    /// the sweep, so the request succeeds all the same.
    pub(crate) async fn send(&self, outbox: &[OutboxEntry], now: Timestamp) {
        if let Err(error) = outbox::send(self.store(), self.queue(), outbox, now).await {
            tracing::warn!(%error, "wake-ups were not sent; the next sweep sends them");
        }
    }
}

/// The clock, read at the edge.
pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("context", &self.0.context).finish_non_exhaustive()
    }
}
