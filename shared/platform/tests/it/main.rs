//! The adapters against stateful test servers, and against servers that answer wrongly.
//!
//! Each adapter has its own modules; add their lines in alphabetical order.

mod cloudflare;
mod cloudflare_server;
mod dns;
mod dns_faults;
mod gitea;
mod gitea_around;
mod gitea_contract;
mod gitea_faults;
mod http;
mod powerdns;
mod woodpecker;
