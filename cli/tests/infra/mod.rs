//! What `infra/` and `templates/` say: that the tools of AWS, Kubernetes and Node take it, and
//! that it agrees with the code.

mod bootstrap;
mod image;
mod kubernetes;
mod local;
mod pages;
#[path = "../it/rdev.rs"]
#[allow(dead_code, reason = "another binary uses the rest")]
mod rdev;
mod settings;
mod statements;
mod template;
mod tools;

use rdev_testkit::tools::trial::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    [
        bootstrap::trials(),
        image::trials(),
        kubernetes::trials(),
        local::trials(),
        pages::trials(),
        settings::trials(),
        statements::trials(),
        template::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
