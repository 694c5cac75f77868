//! The systems around a build: forge, CI server and DNS provider, over HTTP.
//!
//! Each adapter talks to one system and knows its quirks. All adapters send through [`http`], so
//! that one place handles timeouts, size limits, redirects and tokens.

#![allow(missing_docs)]

mod check;
pub mod cloudflare;
pub mod config;
pub mod connect;
mod dns;
pub mod gitea;
pub mod http;
pub mod powerdns;
mod retry;
pub mod webhooks;
pub mod woodpecker;

pub use check::Finding;
pub use dns::DnsAdapter;
