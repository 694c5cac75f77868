//! The function of `/projects/{id}/ci…` and `/hooks…`.

mod wiring;

use std::process::ExitCode;

use rdev_functions::lambda::{families, http_api};
use rdev_functions::serve;

fn main() -> ExitCode {
    wiring::run(|context| {
        let router = serve(families::ci(), context);
        async move |event| Ok(http_api::answer(&router, event).await)
    })
}
