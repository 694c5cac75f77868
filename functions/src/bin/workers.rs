//! The function of `/workers…`.

mod wiring;

use std::process::ExitCode;

use rdev_functions::endpoints::workers;
use rdev_functions::{lambda, serve};

fn main() -> ExitCode {
    wiring::run(|context| {
        let router = serve(workers::router(), context);
        async move |event| Ok(lambda::http_api::answer(&router, event).await)
    })
}
