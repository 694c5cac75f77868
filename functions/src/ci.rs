//! Pipelines of a project. No CI is configured in this installation, and every
//! operation says so.

use axum::extract::State;
use rdev_domain::ids::ProjectId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Api;
use crate::extract::InPath;
use crate::problem::{Answer, Code, Problem};

/// `/projects/{id}/ci…`.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::default().routes(routes!(list)).routes(routes!(show))
}

/// A project's pipelines.
#[utoipa::path(
    get, path = "/projects/{id}/ci/pipelines", tag = "ci", operation_id = "list_pipelines",
    security(("key" = ["ci:read"])),
    params(("id" = ProjectId, Path, description = "The project")),
    responses((status = 409, description = "`ci_not_configured`", body = crate::problem::ProblemBody,
        content_type = "application/problem+json"))
)]
async fn list(State(api): State<Api>, InPath(id): InPath<ProjectId>) -> Answer<()> {
    not_configured(&api, &id).await
}

/// One pipeline.
#[utoipa::path(
    get, path = "/projects/{id}/ci/pipelines/{number}", tag = "ci", operation_id = "show_pipeline",
    security(("key" = ["ci:read"])),
    params(
        ("id" = ProjectId, Path, description = "The project"),
        ("number" = u64, Path, description = "The pipeline's number")
    ),
    responses((status = 409, description = "`ci_not_configured`", body = crate::problem::ProblemBody,
        content_type = "application/problem+json"))
)]
async fn show(State(api): State<Api>, InPath((id, _)): InPath<(ProjectId, u64)>) -> Answer<()> {
    not_configured(&api, &id).await
}

async fn not_configured(api: &Api, id: &ProjectId) -> Answer<()> {
    api.store().project(id).await?;
    Err(Problem::new(Code::CiNotConfigured, "this installation has no CI"))
}
