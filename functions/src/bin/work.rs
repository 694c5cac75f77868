//! The function of `/work…`.

mod wiring;

use std::process::ExitCode;

use rdev_functions::endpoints::work;
use rdev_functions::{lambda, serve};

fn main() -> ExitCode {
    wiring::run(|context| {
        let router = serve(work::router(), context);
        async move |event| Ok(lambda::http_api::answer(&router, event).await)
    })
}
