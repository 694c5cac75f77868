//! Domains of a project. No DNS provider is configured in this installation,
//! and every operation says so.

use axum::extract::State;
use rdev_domain::hostname::Hostname;
use rdev_domain::ids::ProjectId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Api;
use crate::extract::InPath;
use crate::problem::{Answer, Code, Problem};

/// `/projects/{id}/domains…`.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::default().routes(routes!(list, add)).routes(routes!(remove))
}

/// A project's domains.
#[utoipa::path(
    get, path = "/projects/{id}/domains", tag = "domains", operation_id = "list_domains",
    security(("key" = ["domains:read"])),
    params(("id" = ProjectId, Path, description = "The project")),
    responses((status = 409, description = "`dns_not_configured`", body = crate::problem::ProblemBody,
        content_type = "application/problem+json"))
)]
async fn list(State(api): State<Api>, InPath(id): InPath<ProjectId>) -> Answer<()> {
    not_configured(&api, &id).await
}

/// Adds a domain.
#[utoipa::path(
    post, path = "/projects/{id}/domains", tag = "domains", operation_id = "add_domain",
    security(("key" = ["domains:write"])),
    params(("id" = ProjectId, Path, description = "The project")),
    responses((status = 409, description = "`dns_not_configured`", body = crate::problem::ProblemBody,
        content_type = "application/problem+json"))
)]
async fn add(State(api): State<Api>, InPath(id): InPath<ProjectId>) -> Answer<()> {
    not_configured(&api, &id).await
}

/// Removes a domain.
#[utoipa::path(
    delete, path = "/projects/{id}/domains/{domain}", tag = "domains",
    operation_id = "remove_domain",
    security(("key" = ["domains:write"])),
    params(
        ("id" = ProjectId, Path, description = "The project"),
        ("domain" = Hostname, Path, description = "The domain")
    ),
    responses((status = 409, description = "`dns_not_configured`", body = crate::problem::ProblemBody,
        content_type = "application/problem+json"))
)]
async fn remove(
    State(api): State<Api>,
    InPath((id, _)): InPath<(ProjectId, Hostname)>,
) -> Answer<()> {
    not_configured(&api, &id).await
}

async fn not_configured(api: &Api, id: &ProjectId) -> Answer<()> {
    api.store().project(id).await?;
    Err(Problem::new(Code::DnsNotConfigured, "this installation has no DNS provider"))
}
