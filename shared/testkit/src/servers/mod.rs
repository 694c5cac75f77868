//! The systems that rdev talks to, as servers on 127.0.0.1.

pub mod cloudflare;
pub mod emulator;
pub mod faults;
pub mod git_http;
pub mod gitea;
mod host;
pub mod model;
pub mod powerdns;
pub mod proxy;
pub mod runtime_api;
pub mod woodpecker;
