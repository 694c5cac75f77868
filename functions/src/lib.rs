//! The HTTP API of rdev: routers over the ports of `rdev-domain`.
//!
//! [`api`] merges every router, as `rdev up` serves them; [`serve`] serves one
//! of them, as a Lambda function does. Either way the same middleware
//! runs before the handlers: request id, problem+json, authentication, rate
//! limit, body limit, idempotency. `docs/api.md` describes what clients see.
//!
//! Four rooms: [`endpoints`] (a file per family of routes) use [`services`] (what rdev does with a
//! request, without HTTP) and [`http`] (keys, problems, cursors, middleware); [`lambda`] turns
//! events of a gateway into requests. Services use neither `http` nor `endpoints`, and `http`
//! uses only the errors of services. `functions/tests/it/layers.rs` checks that.

#![allow(missing_docs, reason = "a comment says more than the name, or there is none")]

mod app;
mod clock;
pub mod endpoints;
pub mod http;
pub mod lambda;
pub mod services;
pub mod settings;

use axum::Router;
use utoipa_axum::router::OpenApiRouter;

pub use crate::http::cursor::List;
pub use crate::http::stream::Events;
pub use app::{App, Context, OnCancel};
pub use settings::{GitUser, HookSecrets, Settings};

/// The whole API.
pub fn api(context: Context) -> Router {
    serve(endpoints::routers(), context)
}

/// `router` with the middleware before its handlers.
///
/// # Panics
/// When an operation of the router does not declare the key it needs.
pub fn serve(router: OpenApiRouter<App>, context: Context) -> Router {
    services::metrics::describe();
    http::middleware::wrap(router, App::new(context))
}
