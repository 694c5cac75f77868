//! What is around a build: the forge, the CI server and the DNS provider, over HTTP.
//!
//! Each adapter speaks to one system and knows its quirks; all of them send through
//! [`http`], so that time-outs, size limits, redirects and the care for tokens are in one place.

mod check;
pub mod cloudflare;
pub mod config;
mod dns;
pub mod gitea;
pub mod http;
pub mod powerdns;
pub mod webhooks;
pub mod woodpecker;

pub use check::Finding;
