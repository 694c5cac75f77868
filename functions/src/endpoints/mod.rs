//! The routes: one file per family, with its handlers and `router()`.

pub mod agents;
pub mod audit;
pub mod builds;
pub mod ci;
pub mod creation;
pub mod deliveries;
pub mod domains;
pub mod hooks;
pub mod keys;
pub mod ops;
pub mod projects;
mod task_response;
pub mod templates;
pub mod work;
pub mod workers;

use std::sync::OnceLock;

use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::http::openapi;

/// The OpenAPI document of the whole API as text, as `docs/openapi.json` has it.
pub fn openapi_json() -> &'static str {
    static JSON: OnceLock<String> = OnceLock::new();
    JSON.get_or_init(|| {
        let text = openapi_document().to_pretty_json();
        text.expect("the document can be written as JSON") + "\n"
    })
}

/// The OpenAPI document of the whole API.
pub fn openapi_document() -> OpenApi {
    openapi::complete(routers().into_openapi())
}

/// Every router, merged, without layers.
pub(crate) fn routers() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .merge(projects::router())
        .merge(builds::router())
        .merge(domains::router())
        .merge(ci::router())
        .merge(deliveries::router())
        .merge(hooks::router())
        .merge(templates::router())
        .merge(work::router())
        .merge(workers::router())
        .merge(agents::router())
        .merge(keys::router())
        .merge(audit::router())
        .merge(ops::router())
}
