//! The function that reads the dead-letter queue.

mod wiring;

use std::process::ExitCode;

use rdev_functions::lambda::dead_letters;

fn main() -> ExitCode {
    wiring::run(|context| {
        async move |event| Ok(dead_letters::batch(&*context.store, &*context.queue, event).await?)
    })
}
