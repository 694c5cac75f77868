//! The Woodpecker adapter against a stateful server, and against one that answers wrongly.

pub(crate) mod activation;
pub(crate) mod calls;
pub(crate) mod check;
pub(crate) mod faults;
pub(crate) mod pages;
pub(crate) mod runs;
pub(crate) mod shapes;

use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::page::Page;
use rdev_domain::pipeline::{CiId, PipelineFilter};
use rdev_domain::ports::{Ci, CiRepository};
use rdev_domain::secret::Secret;
use rdev_domain::token::Token;
use rdev_platform::woodpecker::{Settings, Woodpecker};
use rdev_testkit::servers::woodpecker::{Seed, TOKEN, WoodpeckerServer};

/// Longer than any pipeline of these tests takes.
const LONG: Duration = Duration::from_secs(600);

/// The site's id on the forge.
const FORGE_ID: u64 = 42;

fn adapter(url: &str) -> Woodpecker {
    with(url, TOKEN, LONG.as_secs())
}

/// One that gives up after a second: for answers that never come.
fn hasty(url: &str) -> Woodpecker {
    with(url, TOKEN, 1)
}

fn with(url: &str, token: &str, timeout_s: u64) -> Woodpecker {
    let settings = Settings { url: url.to_owned(), timeout_s };
    Woodpecker::new(settings, Token::known(Secret::new(token))).expect("a URL")
}

fn site() -> CiRepository {
    named("site", FORGE_ID)
}

fn named(name: &str, forge_id: u64) -> CiRepository {
    let git_url = format!("https://git.example.com/team/{name}.git");
    CiRepository { forge_id, git_url: git_url.parse().expect("a clone URL") }
}

/// A server with an active repository.
async fn active() -> (WoodpeckerServer, Woodpecker, CiId) {
    let server = WoodpeckerServer::start();
    server.add_forge_repository(FORGE_ID, "team", "site");
    let ci = adapter(&server.url());
    let id = ci.activate(&site()).await.expect("it is activated");
    (server, ci, id)
}

/// A pipeline of `main` that was created then.
fn seed(status: &str, created: i64) -> Seed {
    Seed {
        event: "push".to_owned(),
        status: status.to_owned(),
        commit: "0123456789abcdef0123456789abcdef01234567".to_owned(),
        branch: "main".to_owned(),
        created,
        ..Seed::default()
    }
}

fn first(limit: u32) -> Page {
    Page { limit, before: None }
}

fn all() -> PipelineFilter {
    PipelineFilter::default()
}
