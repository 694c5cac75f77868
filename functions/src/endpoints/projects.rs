//! Projects: create (also with a first build), list, show, change, delete.

#![allow(unused_qualifications, reason = "`utoipa::path` writes `params` so")]

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use rdev_domain::ids::ProjectId;
use rdev_domain::project::Project;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::clock;
use crate::endpoints::creation;
use crate::http::auth::Caller;
use crate::http::cursor::{List, Listing, PageQuery};
use crate::http::extract::{EmptyBody, InPath, InQuery, JsonBody, OptionalJson};
use crate::http::problem::ApiResult;
use crate::services::projects::{self, ChangeProject, Deleted};
use crate::services::remains::Remains;
use crate::services::repository_view::{self, ProjectView};

/// `/project…` and `/projects…`, without builds, domains and CI.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(list))
        .merge(creation::router())
        .routes(routes!(show, change, delete))
        .routes(routes!(resume))
}

/// How to delete.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeleteQuery {
    /// Delete its repository too, which rdev created. `false` by default.
    delete_repository: Option<bool>,
}

/// A project that was deleted, but not all that it had.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DeletedProject {
    /// The project.
    pub id: ProjectId,
    /// What other systems refused to remove.
    pub stays: Vec<Remains>,
}

/// Projects, newest first.
#[utoipa::path(
    get, path = "/projects", tag = "projects", operation_id = "list_projects",
    security(("key" = ["projects:read"])),
    params(PageQuery),
    responses((status = 200, description = "A page", body = List<Project>))
)]
async fn list(
    State(app): State<App>,
    InQuery(query): InQuery<PageQuery>,
) -> ApiResult<Json<List<Project>>> {
    let listing = Listing::new("projects", &[], query.limit, query.cursor.as_deref())?;
    let listed = app.store().projects(&listing.page()?).await?;
    Ok(Json(listing.answer(listed, |project| project.nonce, |project| project)))
}

/// One project.
#[utoipa::path(
    get, path = "/projects/{id}", tag = "projects", operation_id = "show_project",
    security(("key" = ["projects:read"])),
    params(("id" = ProjectId, Path, description = "The project")),
    responses((status = 200, description = "The project", body = ProjectView))
)]
async fn show(
    State(app): State<App>,
    InPath(id): InPath<ProjectId>,
) -> ApiResult<Json<ProjectView>> {
    let project = app.store().project(&id).await?;
    Ok(Json(repository_view::of_project(&app, project).await))
}

/// Changes a project.
#[utoipa::path(
    patch, path = "/projects/{id}", tag = "projects", operation_id = "change_project",
    security(("key" = ["projects:write"])),
    params(("id" = ProjectId, Path, description = "The project")),
    request_body = ChangeProject,
    responses((status = 200, description = "The project after it", body = Project))
)]
async fn change(
    State(app): State<App>,
    InPath(id): InPath<ProjectId>,
    caller: Caller,
    JsonBody(body): JsonBody<ChangeProject>,
) -> ApiResult<Json<Project>> {
    let project = projects::change(&app, &caller.actor(), &id, body, clock::now()).await?;
    Ok(Json(project))
}

/// Resumes a project's creation after a step failed or the server stopped.
#[utoipa::path(
    post, path = "/projects/{id}/provision", tag = "projects", operation_id = "provision_project",
    security(("key" = ["projects:write"])),
    params(("id" = ProjectId, Path, description = "The project")),
    responses((status = 200, description = "It is ready", body = Project))
)]
async fn resume(
    State(app): State<App>,
    InPath(id): InPath<ProjectId>,
    caller: Caller,
    _: OptionalJson<EmptyBody>,
) -> ApiResult<Json<Project>> {
    Ok(Json(projects::resume(&app, &caller.actor(), &id, clock::now()).await?))
}

/// Deletes a project, unless one of its tasks runs; what is queued is cancelled.
#[utoipa::path(
    delete, path = "/projects/{id}", tag = "projects", operation_id = "delete_project",
    security(("key" = ["projects:write"])),
    params(("id" = ProjectId, Path, description = "The project"), DeleteQuery),
    responses(
        (status = 204, description = "Deleted"),
        (
            status = 200, body = DeletedProject,
            description = "Deleted, but for what other systems refused to remove"
        ),
        (
            status = 202, body = Project,
            description = "A step of its creation may be under way: it is `deleting`, and gone some minutes later"
        ),
    )
)]
async fn delete(
    State(app): State<App>,
    InPath(id): InPath<ProjectId>,
    InQuery(query): InQuery<DeleteQuery>,
    caller: Caller,
) -> ApiResult<Response> {
    let with_repository = query.delete_repository.unwrap_or(false);
    let deleted =
        projects::delete(&app, &caller.actor(), &id, with_repository, clock::now()).await?;
    Ok(match deleted {
        Deleted::Now(stays) if stays.is_empty() => StatusCode::NO_CONTENT.into_response(),
        Deleted::Now(stays) => Json(DeletedProject { id, stays }).into_response(),
        Deleted::Later(project) => (StatusCode::ACCEPTED, Json(project)).into_response(),
    })
}
