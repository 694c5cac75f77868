//! Which function serves which families of endpoints. `infra/template.yaml` has a route for each.

use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::endpoints::{
    agents, audit, builds, ci, deliveries, domains, hooks, keys, ops, projects, templates, work,
    workers,
};
use crate::http::openapi;

/// Makes the router of a function.
pub type Family = fn() -> OpenApiRouter<App>;

/// Every function of the API, by the name of its program.
pub const FUNCTIONS: [(&str, Family); 7] = [
    ("projects", projects),
    ("builds", builds),
    ("domains", domains::router),
    ("workers", workers::router),
    ("ci", ci),
    ("work", work::router),
    ("ops", ops),
];

/// A route of the gateway.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// `GET`, `POST`, `PATCH` or `DELETE`.
    pub method: &'static str,
    /// The path, with its variables in braces.
    pub path: String,
    /// The function that answers.
    pub function: &'static str,
}

/// What the function `projects` serves: projects, the deliveries of their webhooks, templates.
pub fn projects() -> OpenApiRouter<App> {
    projects::router().merge(deliveries::router()).merge(templates::router())
}

/// What the function `builds` serves: builds, and the agents that do them.
pub fn builds() -> OpenApiRouter<App> {
    builds::router().merge(agents::router())
}

/// What the function `ci` serves: pipelines, and the webhooks of Gitea and Woodpecker.
pub fn ci() -> OpenApiRouter<App> {
    ci::router().merge(hooks::router())
}

/// What the function `ops` serves: health, metrics, the API's description, keys, the audit log.
pub fn ops() -> OpenApiRouter<App> {
    ops::router().merge(keys::router()).merge(audit::router())
}

/// Every route, in the order of methods and paths.
pub fn routes() -> Vec<Route> {
    let mut routes = Vec::new();
    for (function, router) in FUNCTIONS {
        for (method, path, _) in openapi::operations(router().get_openapi()) {
            routes.push(Route { method, path: path.to_owned(), function });
        }
    }
    routes.sort_unstable();
    routes
}
