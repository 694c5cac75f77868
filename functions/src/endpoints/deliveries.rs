//! The log of what was sent to a project's webhook.

#![allow(unused_qualifications, reason = "`utoipa::path` writes `params` so")]

use axum::Json;
use axum::extract::State;
use rdev_domain::ids::ProjectId;
use rdev_domain::webhook::WebhookDelivery;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::http::cursor::{List, Listing, PageQuery};
use crate::http::extract::{InPath, InQuery};
use crate::http::problem::ApiResult;

/// `/projects/{id}/deliveries`.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(list))
}

/// A project's deliveries, newest first.
#[utoipa::path(
    get, path = "/projects/{id}/deliveries", tag = "projects", operation_id = "list_deliveries",
    security(("key" = ["projects:read"])),
    params(("id" = ProjectId, Path, description = "The project"), PageQuery),
    responses((status = 200, description = "A page", body = List<WebhookDelivery>))
)]
async fn list(
    State(app): State<App>,
    InPath(id): InPath<ProjectId>,
    InQuery(query): InQuery<PageQuery>,
) -> ApiResult<Json<List<WebhookDelivery>>> {
    let filters = [Some(id.as_str())];
    let listing = Listing::new("deliveries", &filters, query.limit, query.cursor.as_deref())?;
    let page = listing.page()?;
    app.store().project(&id).await?;
    let listed = app.store().deliveries(&id, &page).await?;
    Ok(Json(listing.answer(listed, |delivery| delivery.id, |delivery| delivery)))
}
