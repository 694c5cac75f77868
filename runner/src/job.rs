//! One claimed task from its claim to its settlement.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rdev_domain::event::EventKind;
use rdev_domain::failure::FailureClass;
use rdev_domain::lease::Holder;
use rdev_domain::ports::{Claimed, Receipt};
use rdev_domain::spec::Work;
use rdev_domain::task::TaskState;
use serde_json::json;
use tokio::task::AbortHandle;
use tracing::{error, info};

use crate::attempt::Attempt;
use crate::attempt::event_log::EventLog;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::lease::{self, Held};
use crate::attempt::settle::{Settlement, settle};
use crate::attempt::stop::Why;
use crate::runner::context::Shared;
use crate::{build, check, cleanup, now};

/// Works on a claimed task until it is settled or lost. `receipt` names the
/// wake-up that led to it: it is deleted at the end, and comes back to another
/// runner if this process dies.
pub(crate) async fn run(shared: Arc<Shared>, claimed: Claimed, receipt: Receipt) {
    let Claimed { task, lease, project, .. } = claimed;
    info!(task = %task.id, project = %project.id, attempt = task.attempt, fence = %task.fence, state = task.state.as_str(), "claimed");
    let settings = &shared.config.runner;
    let holder = Holder { fence: lease.fence, owner: lease.owner };
    let held =
        Arc::new(Held::new(task.id, holder, EventLog::new(task.fence, settings.max_event_bytes)));
    held.events.add(
        EventKind::State,
        json!({"state": task.state.as_str(), "attempt": task.attempt}),
        now(),
    );
    let guard = Guard::begin(Arc::clone(&shared), Arc::clone(&held));
    guard.keeps(lease::keep(
        Arc::clone(&held),
        Arc::clone(&shared.ports.store),
        Arc::clone(&shared.ports.queue),
        receipt.clone(),
        Duration::from_millis(settings.event_flush_ms),
    ));
    let attempt = Attempt::new(
        Arc::clone(&shared),
        task.clone(),
        project,
        Arc::clone(&held),
        Instant::now() + task.work.timeout(),
    );

    let outcome = AssertUnwindSafe(route(&attempt)).catch_unwind().await.unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let what = what.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        error!(task = %task.id, panic = what, "a phase panicked; this is a defect of rdev");
        Err(Interrupt::failed(FailureClass::Infra, "a phase panicked; this is a defect of rdev"))
    });
    let released = held.stop.why() == Some(Why::Released);
    let settled = settle(&attempt, outcome).await;
    drop(guard);
    if let Some(advanced) = settled {
        cleanup::after(&attempt, &advanced.task);
        // A failure here only means that the message comes back and finds nothing.
        let queue = &shared.ports.queue;
        let answered = if released {
            queue.set_visibility(&receipt, Duration::ZERO).await
        } else {
            queue.delete(&receipt).await
        };
        if let Err(error) = answered {
            tracing::debug!(task = %task.id, %error, "the wake-up was not deleted");
        }
    }
}

/// Ends what runs beside an attempt, however the attempt ends: a lease that
/// nobody stands behind must not be renewed for ever.
struct Guard {
    shared: Arc<Shared>,
    held: Arc<Held>,
    keeper: std::sync::OnceLock<AbortHandle>,
}

impl Guard {
    fn begin(shared: Arc<Shared>, held: Arc<Held>) -> Self {
        shared.begin(&held);
        Self { shared, held, keeper: std::sync::OnceLock::new() }
    }

    /// Runs the lease's keeper until the guard goes. Called once.
    fn keeps(&self, keeper: impl Future<Output = ()> + Send + 'static) {
        self.keeper.get_or_init(|| tokio::spawn(keeper).abort_handle());
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.abort();
        }
        self.shared.end(&self.held);
    }
}

/// The registry of handlers: a new task type is one line here and one file.
async fn route(attempt: &Attempt) -> Result<Settlement, Interrupt> {
    let pushing = attempt.task.state == TaskState::Pushing;
    let work = async {
        match &attempt.task.work {
            Work::Build(spec) if pushing => build::resume(attempt, spec).await,
            Work::Build(spec) => build::run(attempt, spec).await,
            Work::Check(spec) => check::run(attempt, spec).await,
        }
    };
    let timer = async {
        tokio::time::sleep_until(attempt.deadline.into()).await;
        // What is committed and prepared is not thrown away by a clock.
        if !pushing && !attempt.committed.load(Ordering::Relaxed) {
            attempt.held.stop.now(Why::TimedOut);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        outcome = work => outcome,
        () = timer => unreachable!("the timer never ends"),
    }
}
