//! Heartbeats: how the worker is, and the clean-up that goes with them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdev_domain::ids::TaskId;
use rdev_domain::worker::{HEARTBEAT_EVERY, Worker, WorkerStatus};
use tokio::time::Instant;
use tracing::warn;

use super::context::Shared;
use crate::attempt::session;
use crate::{chain, cleanup, now};

/// How often a runner removes old sessions and unpushed work that was delivered.
const CLEAN_EVERY: Duration = Duration::from_secs(60 * 60);

/// Reports every 30 s, and soon after a build begins or ends.
pub(super) async fn heartbeats(shared: Arc<Shared>) {
    let mut last = None;
    let mut cleaned = Instant::now();
    loop {
        if cleaned.elapsed() > CLEAN_EVERY {
            cleaned = Instant::now();
            shared.background.spawn(clean(Arc::clone(&shared)));
        }
        report(&shared, shared.status()).await;
        let reported = Instant::now();
        tokio::select! {
            () = tokio::time::sleep_until(reported + HEARTBEAT_EVERY) => {}
            () = shared.changed.notified() => {
                // Short builds in a row are one report, not two each.
                if last.is_some_and(|last: Instant| last.elapsed() < Duration::from_secs(1)) {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
        last = Some(reported);
    }
}

pub(super) async fn report(shared: &Shared, status: WorkerStatus) {
    let running: BTreeSet<TaskId> = shared.running().keys().copied().collect();
    let worker = Worker {
        id: shared.worker_id.clone(),
        hostname: hostname(),
        version: shared.version.clone(),
        status,
        slots: shared.slots,
        running: running.into_iter().collect(),
        agents: shared.can.agents.clone(),
        started_at: shared.started_at,
        last_heartbeat_at: now(),
    };
    match shared.ports.store.heartbeat(&worker, now()).await {
        Ok(drain) => {
            shared.store_ok.send_replace(Instant::now());
            shared
                .ordered_drain
                .send_if_modified(|ordered| std::mem::replace(ordered, drain) != drain);
        }
        Err(error) => warn!(error = chain(&error), "the worker could not report"),
    }
}

/// Removes what was kept on this machine and is of no use any more.
async fn clean(shared: Arc<Shared>) {
    cleanup::unpushed(&shared).await;
    let keep = Duration::from_secs(shared.config.runner.keep_sessions_s);
    let folders = shared.folders.clone();
    // Its only failure is a panic, which the runtime has reported.
    let _ = tokio::task::spawn_blocking(move || session::expire_sessions(&folders, keep)).await;
}

pub(super) fn hostname() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}
