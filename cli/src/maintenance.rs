//! The timer of what has to happen beside requests.

use std::time::{Duration, SystemTime};

use metrics_exporter_prometheus::PrometheusHandle;
use rdev_domain::ports::{Queue, Store};
use rdev_functions::services::maintenance::{dead_letters, sweep};
use rdev_platform::webhooks::Sender;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::log::chain;

/// How often.
const EVERY: Duration = Duration::from_secs(60);

/// How often webhooks that are due are looked for.
const WEBHOOKS_EVERY: Duration = Duration::from_secs(2);

/// Runs now and every minute, until `stop`.
pub(crate) async fn run(
    store: &dyn Store,
    queue: &dyn Queue,
    metrics: &PrometheusHandle,
    stop: &CancellationToken,
) {
    loop {
        let round = async {
            if let Err(error) = sweep(store, queue).await {
                warn!(error = chain(&error), "the sweep failed; the next one is in a minute");
            }
            if let Err(error) = dead_letters(store, queue).await {
                warn!(error = chain(&error), "dead letters stay where they are for a minute");
            }
            metrics.run_upkeep();
            tokio::time::sleep(EVERY).await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = round => {}
        }
    }
}

/// Sends the webhooks that are due, until `stop`.
pub(crate) async fn webhooks(store: &dyn Store, sender: &Sender, stop: &CancellationToken) {
    loop {
        let round = async {
            if let Err(error) = sender.send_due(store, || SystemTime::now().into()).await {
                warn!(error = chain(&error), "webhooks were not sent; they are tried again");
            }
            tokio::time::sleep(WEBHOOKS_EVERY).await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = round => {}
        }
    }
}
