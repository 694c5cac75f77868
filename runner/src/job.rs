//! One claimed task, from its claim to its settlement; and the registry of task types.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use rdev_domain::event::EventKind;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::lease::Holder;
use rdev_domain::ports::{Claimed, Receipt};
use rdev_domain::spec::Work;
use rdev_domain::task::TaskState;
use serde_json::json;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{debug, error, info};

use crate::attempt::Attempt;
use crate::attempt::event_log::EventLog;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::lease::{ActiveLease, renew_periodically};
use crate::attempt::settle::{Settled, Settlement, settle};
use crate::attempt::stop::StopReason;
use crate::runner::context::RunnerContext;
use crate::{build, check, cleanup};

pub(crate) mod handler;

use handler::TaskHandler;

/// The registry of task types. A new type is one file with a [`TaskHandler`] and one line here;
/// without the line the program does not compile.
fn handler(work: &Work) -> Box<dyn TaskHandler + '_> {
    match work {
        Work::Build(spec) => Box::new(build::BuildHandler(spec)),
        Work::Check(spec) => Box::new(check::CheckHandler(spec)),
        Work::Unreadable(spec) => Box::new(handler::UnreadableHandler(spec)),
    }
}

/// Works on a claimed task until it is settled or its lease is lost. `receipt` names the
/// wake-up that led to it, if one did: the wake-up is deleted at the end, and another runner
/// receives it again if this process dies.
pub(crate) async fn run(context: Arc<RunnerContext>, claimed: Claimed, receipt: Option<Receipt>) {
    let Claimed { task, lease: claimed_lease, project, .. } = claimed;
    info!(task = %task.id, project = %project.id, attempt = task.attempt, fence = %task.fence, state = task.state.as_str(), "claimed");
    let settings = &context.config.runner;
    let holder = Holder { fence: claimed_lease.fence, owner: claimed_lease.owner };
    let events = EventLog::new(task.fence, settings.max_event_bytes);
    let (refs, now) = (task.own_refs.clone(), context.machine.now());
    let lease = Arc::new(ActiveLease::new(task.id, holder, events, refs, now));
    let state = json!({"state": task.state.as_str(), "attempt": task.attempt});
    lease.events.add(EventKind::State, state, context.machine.now());
    let renewals = renew_periodically(
        Arc::clone(&lease),
        Arc::clone(&context),
        receipt.clone(),
        Duration::from_millis(settings.event_flush_ms),
    );
    let guard = AttemptGuard::begin(Arc::clone(&context), Arc::clone(&lease), renewals);
    let attempt = Attempt::new(
        Arc::clone(&context),
        task.clone(),
        project,
        Arc::clone(&lease),
        Instant::now() + task.work.timeout(),
    );

    let running = AssertUnwindSafe(run_with_deadline(&attempt)).catch_unwind();
    let outcome = running.await.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        error!(task = %task.id, panic = text, "a phase panicked; this is a defect of rdev");
        let failure =
            Failure::new(FailureClass::Infra, "a phase panicked; this is a defect of rdev");
        // Nobody knows whether it had sent its push.
        Err(Interrupt::Failed(Failure { push_in_doubt: attempt.is_prepared(), ..failure }))
    });
    let released = lease.stop.reason() == Some(StopReason::Released);
    let settled = settle(&attempt, outcome).await;
    drop(guard);
    if let Some(Settled { task, woken }) = settled {
        cleanup::after_attempt(&attempt, &task);
        let Some(receipt) = receipt else { return };
        // If this fails, some runner receives the wake-up again and finds nothing to do.
        let queue = &context.ports.queue;
        let answered = if released && !woken {
            // The task is to be continued at once, and nobody was told of it yet.
            queue.set_visibility(&receipt, Duration::ZERO).await
        } else {
            queue.delete(&receipt).await
        };
        if let Err(error) = answered {
            debug!(task = %task.id, %error, "the wake-up was not deleted");
        }
    }
}

/// Ends the renewals when the attempt ends, also by a panic: nothing may renew the lease of an
/// attempt that no longer runs.
struct AttemptGuard {
    context: Arc<RunnerContext>,
    lease: Arc<ActiveLease>,
    renewals: AbortHandle,
}

impl AttemptGuard {
    fn begin(
        context: Arc<RunnerContext>,
        lease: Arc<ActiveLease>,
        renewals: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        context.begin(&lease);
        let renewals = context.machine.spawn(renewals.boxed());
        Self { context, lease, renewals }
    }
}

impl Drop for AttemptGuard {
    fn drop(&mut self) {
        self.renewals.abort();
        self.context.end(&self.lease);
    }
}

/// Runs the handler of the task's type, and stops the attempt at its deadline.
async fn run_with_deadline(attempt: &Attempt) -> Result<Settlement, Interrupt> {
    let handler = handler(&attempt.task.work);
    let resumed = attempt.task.state == TaskState::Pushing;
    let deadline = async {
        tokio::time::sleep_until(attempt.deadline).await;
        // The deadline is for the agent: work that is committed is delivered all the same.
        if !resumed && !attempt.committed.load(Ordering::Relaxed) {
            attempt.lease.stop.request(StopReason::TimedOut);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        outcome = handler.run(attempt) => outcome,
        () = deadline => unreachable!("the deadline's future never ends"),
    }
}
