//! `rdev up` among the systems around a build: a Gitea and a Woodpecker for tests, a real
//! PowerDNS, and before each a server that can break what goes through it.

mod bad_input;
mod cookbook;
mod deletion;
mod deliveries;
mod doctor;
mod domains;
mod faults;
mod hooks;
mod killed;
mod life;
mod pipelines;
mod pull_requests;
mod standing;
mod statuses;
mod world;

use rdev_testkit::tools::trial::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    [
        bad_input::trials(),
        cookbook::trials(),
        deletion::trials(),
        deliveries::trials(),
        doctor::trials(),
        domains::trials(),
        faults::trials(),
        hooks::trials(),
        killed::trials(),
        life::trials(),
        pipelines::trials(),
        pull_requests::trials(),
        standing::trials(),
        statuses::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
