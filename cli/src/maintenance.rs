//! The timer of what has to happen beside requests.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use rdev_domain::ports::{Queue, Store};
use rdev_functions::maintenance::{dead_letters, sweep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::log::chain;

/// How often.
const EVERY: Duration = Duration::from_secs(60);

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
