//! The audit log.

#![allow(unused_qualifications, reason = "`utoipa::path` writes `params` so")]

use axum::Json;
use axum::extract::State;
use rdev_domain::audit::AuditEvent;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::AuditFilter;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::http::cursor::{List, Listing};
use crate::http::extract::InQuery;
use crate::http::problem::ApiResult;

/// `/audit`.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(list))
}

/// Which audit events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// How many items at most: 1 to 100, 50 by default.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only this project's.
    project_id: Option<ProjectId>,
}

/// Who changed what, when, by which request; newest first.
#[utoipa::path(
    get, path = "/audit", tag = "audit", operation_id = "list_audit",
    security(("key" = ["admin"])),
    params(AuditQuery),
    responses((status = 200, description = "A page", body = List<AuditEvent>))
)]
async fn list(
    State(app): State<App>,
    InQuery(query): InQuery<AuditQuery>,
) -> ApiResult<Json<List<AuditEvent>>> {
    let filters = [query.project_id.as_ref().map(ProjectId::as_str)];
    let listing = Listing::new("audit", &filters, query.limit, query.cursor.as_deref())?;
    let filter = AuditFilter { project: query.project_id };
    let listed = app.store().audit(&filter, &listing.page()?).await?;
    Ok(Json(listing.answer(listed, |event| event.id, |event| event)))
}
