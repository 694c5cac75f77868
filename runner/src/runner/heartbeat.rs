//! Heartbeats: the worker reports its status, and cleans up once an hour.

use std::sync::Arc;
use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::ids::TaskId;
use rdev_domain::worker::{HEARTBEAT_EVERY, Worker, WorkerStatus};
use tokio::time::Instant;
use tracing::warn;

use super::context::RunnerContext;
use crate::cleanup;

/// How often a runner removes old sessions, unpushed work that was delivered, and refs that nobody
/// needs.
const CLEAN_EVERY: Duration = Duration::from_secs(60 * 60);

/// Reports every 30 s, and soon after a build starts or ends.
pub(super) async fn heartbeats(context: Arc<RunnerContext>) {
    let mut last = None;
    let mut cleaned = Instant::now();
    loop {
        if cleaned.elapsed() > CLEAN_EVERY {
            cleaned = Instant::now();
            context.in_background(clean(Arc::clone(&context)));
        }
        report(&context, context.status()).await;
        let reported = Instant::now();
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(reported + HEARTBEAT_EVERY) => {}
            () = context.changed.notified() => {
                // Several short builds make one report, not two each.
                if last.is_some_and(|last: Instant| last.elapsed() < Duration::from_secs(1)) {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
        last = Some(reported);
    }
}

pub(super) async fn report(context: &RunnerContext, status: WorkerStatus) {
    let running: Vec<TaskId> = context.running().keys().copied().collect();
    let now = context.machine.now();
    let worker = Worker {
        id: context.worker_id.clone(),
        hostname: hostname(),
        version: context.version.clone(),
        status,
        slots: context.slots,
        running,
        agents: context.capabilities.agents.clone(),
        started_at: context.started_at,
        last_heartbeat_at: now,
    };
    match context.ports.store.heartbeat(&worker, now).await {
        Ok(drain) => {
            context.store_ok.send_replace(Instant::now());
            context
                .ordered_drain
                .send_if_modified(|ordered| std::mem::replace(ordered, drain) != drain);
        }
        Err(error) => warn!(error = chain(&error), "the heartbeat was not sent"),
    }
}

/// Removes old sessions, unpushed work, and refs in repositories that nobody needs any more.
async fn clean(context: Arc<RunnerContext>) {
    cleanup::forget_ended_unpushed(&context).await;
    context.expire_sessions().await;
    cleanup::look_where_due(context).await;
}

pub(super) fn hostname() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}
