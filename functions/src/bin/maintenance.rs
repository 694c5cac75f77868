//! The function of the schedule: the sweep, every minute, and the webhooks that are due. What the
//! event says does not matter.

mod wiring;

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use rdev_functions::Context;
use rdev_functions::services::maintenance::sweep;
use rdev_platform::webhooks::Sender;
use serde_json::Value;

/// For how long new rounds of webhooks are begun; the next minute sends the rest.
const WEBHOOKS: Duration = Duration::from_secs(40);

fn main() -> ExitCode {
    wiring::run(|context| {
        async move |_| {
            // One that fails does not keep the other from its work.
            let swept = sweep(&context, || SystemTime::now().into()).await;
            webhooks(&context).await?;
            swept?;
            Ok(Value::Null)
        }
    })
}

/// Sends what is due, until nothing is.
async fn webhooks(context: &Context) -> Result<(), lambda_runtime::Error> {
    let public_url = std::env::var("RDEV_PUBLIC_URL").ok().filter(|url| !url.is_empty());
    let sender = Sender::new(context.settings.webhooks_to_private_addresses, public_url)?;
    let begun = Instant::now();
    while begun.elapsed() < WEBHOOKS {
        if sender.send_due(&*context.store, || SystemTime::now().into()).await? == 0 {
            break;
        }
    }
    Ok(())
}
