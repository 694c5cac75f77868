//! The periodic work: the sweep, dead letters, metrics, webhooks and commit statuses.

use std::time::{Duration, SystemTime};

use metrics_exporter_prometheus::PrometheusHandle;
use rdev_domain::chain;
use rdev_domain::commit_status::send::send_due;
use rdev_domain::ports::Store;
use rdev_functions::Context;
use rdev_functions::services::maintenance::{dead_letters, sweep};
use rdev_platform::webhooks::Sender;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// The time between two sweeps.
const EVERY: Duration = Duration::from_secs(60);

/// The time between two searches for webhooks that are due.
const WEBHOOKS_EVERY: Duration = Duration::from_secs(2);

/// The time between two searches for commit statuses that are due.
const STATUSES_EVERY: Duration = Duration::from_secs(2);

/// Runs now and every minute, until `stop`.
pub(crate) async fn run(context: &Context, metrics: &PrometheusHandle, stop: &CancellationToken) {
    loop {
        let round = async {
            let clock = || SystemTime::now().into();
            if let Err(error) = sweep(context, clock).await {
                warn!(error = chain(&error), "the sweep failed; the next one is in a minute");
            }
            if let Err(error) = dead_letters(&*context.store, &*context.queue, clock).await {
                warn!(
                    error = chain(&error),
                    "dead letters were not handled; the next try is in a minute"
                );
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

/// Sends the commit statuses that the forge has not taken yet, until `stop`.
pub(crate) async fn statuses(
    context: &Context,
    public_url: Option<&str>,
    stop: &CancellationToken,
) {
    let (store, forge) = (&*context.store, &*context.forge);
    loop {
        let round = async {
            let sent = send_due(store, forge, public_url, || SystemTime::now().into()).await;
            if let Err(error) = sent {
                warn!(error = chain(&error), "commit statuses were not sent; rdev tries again");
            }
            tokio::time::sleep(STATUSES_EVERY).await;
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
                warn!(error = chain(&error), "webhooks were not sent; rdev tries again");
            }
            tokio::time::sleep(WEBHOOKS_EVERY).await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = round => {}
        }
    }
}
