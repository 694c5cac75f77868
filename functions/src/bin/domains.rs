//! The function of `/projects/{id}/domains…`.

mod wiring;

use std::process::ExitCode;

use rdev_functions::endpoints::domains;
use rdev_functions::{lambda, serve};

fn main() -> ExitCode {
    wiring::run(|context| {
        let router = serve(domains::router(), context);
        async move |event| Ok(lambda::http_api::answer(&router, event).await)
    })
}
