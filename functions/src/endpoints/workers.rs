//! Workers: list, show, drain, resume.

use axum::Json;
use axum::extract::State;
use rdev_domain::ids::WorkerId;
use rdev_domain::worker::Worker;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::clock;
use crate::http::auth::Caller;
use crate::http::cursor::{List, Listing, PageQuery};
use crate::http::extract::{EmptyBody, InPath, InQuery, OptionalJson};
use crate::http::problem::ApiResult;

/// `/workers…`.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(drain))
        .routes(routes!(resume))
}

/// Workers that reported within the last day, by id.
#[utoipa::path(
    get, path = "/workers", tag = "workers", operation_id = "list_workers",
    security(("key" = ["workers:read"])),
    params(PageQuery),
    responses((status = 200, description = "A page", body = List<Worker>))
)]
async fn list(
    State(app): State<App>,
    InQuery(query): InQuery<PageQuery>,
) -> ApiResult<Json<List<Worker>>> {
    let listing = Listing::new("workers", &[], query.limit, query.cursor.as_deref())?;
    let mut workers = app.store().workers().await?;
    workers.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Json(listing.cut(workers, |worker| worker.id.to_string())))
}

/// One worker.
#[utoipa::path(
    get, path = "/workers/{id}", tag = "workers", operation_id = "show_worker",
    security(("key" = ["workers:read"])),
    params(("id" = WorkerId, Path, description = "The worker")),
    responses((status = 200, description = "The worker", body = Worker))
)]
async fn show(State(app): State<App>, InPath(id): InPath<WorkerId>) -> ApiResult<Json<Worker>> {
    Ok(Json(app.store().worker(&id).await?))
}

/// Drains a worker: it finishes what it runs and claims nothing new. It starts with its next
/// heartbeat (30 s).
#[utoipa::path(
    post, path = "/workers/{id}/drain", tag = "workers", operation_id = "drain_worker",
    security(("key" = ["workers:write"])),
    params(("id" = WorkerId, Path, description = "The worker")),
    responses((status = 200, description = "The worker", body = Worker))
)]
async fn drain(
    State(app): State<App>,
    InPath(id): InPath<WorkerId>,
    caller: Caller,
    _: OptionalJson<EmptyBody>,
) -> ApiResult<Json<Worker>> {
    Ok(Json(app.store().set_drain(&id, true, &caller.actor(), clock::now()).await?))
}

/// Lets a drained worker claim work again.
#[utoipa::path(
    post, path = "/workers/{id}/resume", tag = "workers", operation_id = "resume_worker",
    security(("key" = ["workers:write"])),
    params(("id" = WorkerId, Path, description = "The worker")),
    responses((status = 200, description = "The worker", body = Worker))
)]
async fn resume(
    State(app): State<App>,
    InPath(id): InPath<WorkerId>,
    caller: Caller,
    _: OptionalJson<EmptyBody>,
) -> ApiResult<Json<Worker>> {
    Ok(Json(app.store().set_drain(&id, false, &caller.actor(), clock::now()).await?))
}
