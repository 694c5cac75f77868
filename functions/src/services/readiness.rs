//! Whether store, queue and workers answer.

use std::future::Future;
use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::ports::PortResult;
use rdev_domain::time::Timestamp;
use rdev_domain::worker::{SILENT_AFTER, WorkerStatus};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;

/// How long a port may take to answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// The results of the checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Checks {
    /// The store.
    pub store: Check,
    /// The queue.
    pub queue: Check,
    /// The workers.
    pub runner: RunnerCheck,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// It answers.
    Ok,
    /// It does not answer within 5 s, or with an error; see the server's log.
    Failing,
}

/// The worker with the latest heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunnerCheck {
    /// Its status: `idle`, `busy` or `draining`; `offline` when no worker sent a heartbeat
    /// within 90 s.
    pub status: WorkerStatus,
    /// The age of its heartbeat in milliseconds; `null` without workers.
    pub last_heartbeat_age_ms: Option<u64>,
}

impl Checks {
    /// Runs all checks.
    pub(crate) async fn run(app: &App, now: Timestamp) -> Self {
        Self {
            store: check("store", app.store().ping()).await.0,
            queue: check("queue", app.queue().stats()).await.0,
            runner: runner(app, now).await,
        }
    }

    /// Whether all of them passed.
    pub(crate) fn ready(&self) -> bool {
        self.store == Check::Ok
            && self.queue == Check::Ok
            && self.runner.status != WorkerStatus::Offline
    }
}

async fn runner(app: &App, now: Timestamp) -> RunnerCheck {
    let workers = check("store", app.store().workers()).await.1.unwrap_or_default();
    let latest = workers.into_iter().max_by_key(|worker| {
        // A worker that went offline does not count, however recent its heartbeat is.
        (worker.status != WorkerStatus::Offline, worker.last_heartbeat_at)
    });
    let Some(worker) = latest else {
        return RunnerCheck { status: WorkerStatus::Offline, last_heartbeat_age_ms: None };
    };
    let age = now.since(worker.last_heartbeat_at);
    RunnerCheck {
        status: if age > SILENT_AFTER { WorkerStatus::Offline } else { worker.status },
        last_heartbeat_age_ms: Some(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
    }
}

async fn check<T>(what: &str, call: impl Future<Output = PortResult<T>>) -> (Check, Option<T>) {
    match tokio::time::timeout(CHECK_TIMEOUT, call).await {
        Ok(Ok(value)) => (Check::Ok, Some(value)),
        Ok(Err(error)) => {
            tracing::warn!(what, error = %chain(&error), "not ready");
            (Check::Failing, None)
        }
        Err(_) => {
            tracing::warn!(what, "not ready: no answer within 5 s");
            (Check::Failing, None)
        }
    }
}
