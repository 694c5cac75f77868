//! Health, readiness, metrics, and the API's own description.

use std::fmt::Write;

use axum::Json;
use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use rdev_domain::worker::WorkerStatus;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::clock;
use crate::endpoints::openapi_json;
use crate::http::problem::{ApiResult, Code, Problem};
use crate::services::readiness::Checks;

/// `/health`, `/ready`, `/metrics`, `/openapi.json`, `/docs`.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(metrics))
        .routes(routes!(document))
        .routes(routes!(docs))
}

/// The process answers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: String,
    /// The program's version.
    pub version: String,
}

/// The server can accept and do work.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    /// Always `ready`.
    pub status: String,
    /// The results of the checks.
    pub checks: Checks,
}

/// Whether the process answers.
#[utoipa::path(
    get, path = "/health", tag = "ops", operation_id = "health", security(()),
    responses((status = 200, description = "It does", body = Health))
)]
async fn health() -> Json<Health> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(Health { status: "ok".to_owned(), version })
}

/// Whether the store and the queue answer, and a worker sent a heartbeat within 90 s.
#[utoipa::path(
    get, path = "/ready", tag = "ops", operation_id = "ready", security(()),
    responses(
        (status = 200, description = "It is", body = Ready),
        (status = 503, description = "`not_ready`, with `checks`",
            body = crate::http::problem::ProblemBody, content_type = "application/problem+json")
    )
)]
async fn ready(State(app): State<App>) -> ApiResult<Json<Ready>> {
    let checks = Checks::run(&app, clock::now()).await;
    if checks.ready() {
        return Ok(Json(Ready { status: "ready".to_owned(), checks }));
    }
    let checks = serde_json::to_value(checks).expect("names and numbers can be written as JSON");
    let detail = "the store, the queue or the workers do not answer; see checks";
    Err(Problem::new(Code::NotReady, detail).retry_after(5).with_checks(checks))
}

/// Metrics in Prometheus' text format. From this machine itself no key is needed.
#[utoipa::path(
    get, path = "/metrics", tag = "ops", operation_id = "metrics",
    security((), ("key" = ["workers:read"])),
    responses((status = 200, description = "Metrics", body = String, content_type = "text/plain"))
)]
async fn metrics(State(app): State<App>) -> ApiResult<Response> {
    let mut text = app.metrics().map(|metrics| metrics.render()).unwrap_or_default();
    let work = app.store().work_stats(clock::now()).await?;
    let queue = app.queue().stats().await?;
    let workers = app.store().workers().await?;
    let workers = WorkerStatus::ALL.map(|status| {
        let count = workers.iter().filter(|worker| worker.status == status).count();
        (status.as_str(), count as u64)
    });
    gauge(
        &mut text,
        "rdev_queue_depth",
        "Tasks by state; due and later are both queued.",
        "state",
        &[
            ("due", work.due),
            ("later", work.later),
            ("running", work.running),
            ("pushing", work.pushing),
        ],
    );
    gauge(
        &mut text,
        "rdev_wake_ups",
        "Messages in the queue, roughly.",
        "state",
        &[
            ("visible", queue.visible),
            ("in_flight", queue.in_flight),
            ("delayed", queue.delayed),
            ("dead", queue.dead),
        ],
    );
    gauge(&mut text, "rdev_workers", "Workers by status.", "status", &workers);
    let oldest = work.oldest_due_ms.unwrap_or(0) / 1000;
    single(&mut text, "rdev_queue_oldest_due_seconds", "Age of the oldest due task.", oldest);
    single(&mut text, "rdev_dead_letters", "Recorded dead letters.", work.dead_letters);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}

/// This description of the API.
#[utoipa::path(
    get, path = "/openapi.json", tag = "ops", operation_id = "openapi", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json")], openapi_json()).into_response()
}

/// This description of the API, as a page.
#[utoipa::path(
    get, path = "/docs", tag = "ops", operation_id = "docs", security(()),
    responses((status = 200, description = "A page", body = String, content_type = "text/html"))
)]
async fn docs() -> Response {
    // The page runs its own script and connects to this server only.
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                  connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    ([(CONTENT_SECURITY_POLICY, policy)], Html(include_str!("docs.html"))).into_response()
}

fn gauge(text: &mut String, name: &str, help: &str, label: &str, values: &[(&str, u64)]) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    for (value, count) in values {
        let _ = writeln!(text, "{name}{{{label}=\"{value}\"}} {count}");
    }
}

fn single(text: &mut String, name: &str, help: &str, value: u64) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
}
