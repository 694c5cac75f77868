//! The adapters against stateful test servers, and against servers that answer wrongly.
//!
//! Each adapter has its own modules; add their lines in alphabetical order.

mod cloudflare;
mod cloudflare_server;
mod dns;
mod dns_faults;
mod gitea;
mod gitea_around;
mod gitea_completion;
mod gitea_contract;
mod gitea_faults;
mod gitea_standing;
mod http;
mod powerdns;
mod replay;
mod woodpecker;

use std::process::ExitCode;

use rdev_testkit::tools::trial;

fn main() -> ExitCode {
    let all = [
        cloudflare::conformance(),
        cloudflare::trials(),
        cloudflare_server::trials(),
        dns_faults::trials(),
        gitea::trials(),
        gitea_around::trials(),
        gitea_completion::trials(),
        gitea_contract::trials(),
        gitea_faults::trials(),
        gitea_standing::trials(),
        http::trials(),
        powerdns::conformance(),
        powerdns::trials(),
        replay::all(),
        woodpecker::activation::trials(),
        woodpecker::calls::trials(),
        woodpecker::check::trials(),
        woodpecker::faults::trials(),
        woodpecker::pages::trials(),
        woodpecker::runs::trials(),
        woodpecker::shapes::trials(),
    ];
    trial::run(None, all)
}
