//! Whether there is somebody who takes, keeps and does work.

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
const PATIENCE: Duration = Duration::from_secs(5);

/// What was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Checks {
    /// The store.
    pub store: Check,
    /// The queue.
    pub queue: Check,
    /// The workers.
    pub runner: RunnerCheck,
}

/// Whether something answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// It answers.
    Ok,
    /// It does not, or not within 5 s; the log knows more.
    Failing,
}

/// The worker that was heard of last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunnerCheck {
    /// What it is doing: `idle`, `busy` or `draining`; `offline` when none
    /// was heard of within 90 s.
    pub status: WorkerStatus,
    /// How long ago it was heard of, in milliseconds; `null` when there is none.
    pub last_heartbeat_age_ms: Option<u64>,
}

impl Checks {
    /// Looks.
    pub(crate) async fn made(app: &App, now: Timestamp) -> Self {
        Self {
            store: check("store", app.store().ping()).await.0,
            queue: check("queue", app.queue().stats()).await.0,
            runner: runner(app, now).await,
        }
    }

    /// Nothing is missing.
    pub(crate) fn ready(&self) -> bool {
        self.store == Check::Ok
            && self.queue == Check::Ok
            && self.runner.status != WorkerStatus::Offline
    }
}

async fn runner(app: &App, now: Timestamp) -> RunnerCheck {
    let workers = check("store", app.store().workers()).await.1.unwrap_or_default();
    let latest = workers.into_iter().max_by_key(|worker| {
        // One that said goodbye is not there, however recently it did.
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
    match tokio::time::timeout(PATIENCE, call).await {
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
