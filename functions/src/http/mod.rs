//! What every request goes through, and the forms that requests and answers have.

pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod cursor;
pub(crate) mod extract;
pub(crate) mod idempotency;
pub mod key_text;
pub(crate) mod middleware;
pub mod openapi;
pub mod problem;
pub(crate) mod request_id;
pub(crate) mod stream;
