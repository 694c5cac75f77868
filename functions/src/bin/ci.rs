//! The function of `/projects/{id}/ci…`.

mod wiring;

use std::process::ExitCode;

use rdev_functions::{ci, lambda, serve};

fn main() -> ExitCode {
    wiring::run(|context| {
        let router = serve(ci::router(), context);
        async move |event| Ok(lambda::http_api::answer(&router, event).await)
    })
}
