//! The function of the schedule: the sweep, every minute. What the event says does not matter.

mod wiring;

use std::process::ExitCode;

use rdev_functions::maintenance::sweep;
use serde_json::Value;

fn main() -> ExitCode {
    wiring::run(|context| {
        async move |_| {
            sweep(&*context.store, &*context.queue).await?;
            Ok(Value::Null)
        }
    })
}
