//! The function of the schedule: the sweep, every minute, and the webhooks and commit statuses that
//! are due. What the event says does not matter.

mod wiring;

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use rdev_domain::commit_status::send::send_due;
use rdev_domain::time::Timestamp;
use rdev_functions::Context;
use rdev_functions::services::maintenance::sweep;
use rdev_platform::webhooks::Sender;
use serde_json::Value;

/// Until when, from the start, new rounds of webhooks and of statuses are begun; the next minute
/// sends the rest.
const WEBHOOKS: Duration = Duration::from_secs(25);
const STATUSES: Duration = Duration::from_secs(40);

fn main() -> ExitCode {
    wiring::run(|context| {
        async move |_| {
            // One that fails does not keep the others from their work.
            let swept = sweep(&context, now).await;
            let begun = Instant::now();
            let sent = webhooks(&context, begun).await;
            statuses(&context, begun).await?;
            sent?;
            swept?;
            Ok(Value::Null)
        }
    })
}

/// Sends the webhooks that are due, until none is.
async fn webhooks(context: &Context, begun: Instant) -> Result<(), lambda_runtime::Error> {
    let sender = Sender::new(context.settings.webhooks_to_private_addresses, public_url())?;
    while begun.elapsed() < WEBHOOKS {
        if sender.send_due(&*context.store, now).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Sends the commit statuses that are due, until none is.
async fn statuses(context: &Context, begun: Instant) -> Result<(), lambda_runtime::Error> {
    let (store, forge, public_url) = (&*context.store, &*context.forge, public_url());
    while begun.elapsed() < STATUSES {
        if send_due(store, forge, public_url.as_deref(), now).await? == 0 {
            break;
        }
    }
    Ok(())
}

fn public_url() -> Option<String> {
    std::env::var("RDEV_PUBLIC_URL").ok().filter(|url| !url.is_empty())
}

fn now() -> Timestamp {
    SystemTime::now().into()
}
