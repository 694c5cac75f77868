//! The function of `/project…` and `/projects…`.

mod wiring;

use std::process::ExitCode;

use rdev_functions::{lambda, projects, serve};

fn main() -> ExitCode {
    wiring::run(|context| {
        let router = serve(projects::router(), context);
        async move |event| Ok(lambda::http_api::answer(&router, event).await)
    })
}
