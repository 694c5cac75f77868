//! Domains of a project: names in the configured zone.

#![allow(unused_qualifications, reason = "`utoipa::path` writes `params` so")]

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::LOCATION;
use rdev_domain::dns::{Domain, DomainName, DomainState, RecordKind, Ttl};
use rdev_domain::ids::ProjectId;
use rdev_domain::page::Listed;
use rdev_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::clock;
use crate::http::auth::Caller;
use crate::http::cursor::{List, Listing, PageQuery};
use crate::http::extract::{InPath, InQuery, JsonBody};
use crate::http::idempotency::IdempotentRequest;
use crate::http::problem::{ApiResult, Problem};
use crate::services::domain_records::{self, Adding, WantedDomain};

/// `/projects/{id}/domains…`.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(list, add)).routes(routes!(remove))
}

/// A domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DomainView {
    /// The name.
    pub domain: DomainName,
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: RecordKind,
    /// Where it leads.
    pub target: String,
    /// Whether traffic goes through the provider's proxy.
    pub proxied: bool,
    /// Seconds that resolvers may cache answers; 1 is the provider's own choice.
    pub ttl: Ttl,
    /// Whether its record exists.
    pub state: DomainState,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A project's domains, newest first.
#[utoipa::path(
    get, path = "/projects/{id}/domains", tag = "domains", operation_id = "list_domains",
    security(("key" = ["domains:read"])),
    params(("id" = ProjectId, Path, description = "The project"), PageQuery),
    responses((status = 200, description = "A page", body = List<DomainView>))
)]
async fn list(
    State(app): State<App>,
    InPath(id): InPath<ProjectId>,
    InQuery(query): InQuery<PageQuery>,
) -> ApiResult<Json<List<DomainView>>> {
    let filters = [Some(id.as_str())];
    let listing = Listing::new("domains", &filters, query.limit, query.cursor.as_deref())?;
    let page = listing.page()?;
    app.store().project(&id).await?;
    domain_records::provider(&app)?;
    let mut domains = app.store().domains(&id).await?;
    domains.retain(|domain| page.before.is_none_or(|before| domain.id < before));
    domains.truncate(page.limit as usize + 1);
    let listed = Listed::from_one_more(domains, &page, |domain| domain.id);
    Ok(Json(listing.answer(listed, |domain| domain.id, DomainView::from)))
}

/// Adds a domain, or changes where it leads.
#[utoipa::path(
    post, path = "/projects/{id}/domains", tag = "domains", operation_id = "add_domain",
    security(("key" = ["domains:write"])),
    params(("id" = ProjectId, Path, description = "The project")),
    request_body = WantedDomain,
    responses(
        (status = 200, description = "The project had it already", body = DomainView),
        (status = 201, description = "Added", body = DomainView,
            headers(("location" = String, description = "Where the domain is")))
    )
)]
async fn add(
    State(app): State<App>,
    InPath(id): InPath<ProjectId>,
    caller: Caller,
    request: IdempotentRequest,
    JsonBody(body): JsonBody<WantedDomain>,
) -> ApiResult<Response> {
    let by = caller.actor();
    let adding =
        Adding { key: &caller.key, by: &by, nonce: request.nonce, resumed: request.resumed };
    let (domain, added) = domain_records::add(&app, adding, &id, body, clock::now()).await?;
    let location = format!("/projects/{id}/domains/{}", domain.spec.domain);
    let status = if added { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [(LOCATION, location)], Json(DomainView::from(domain))).into_response())
}

/// Removes a domain and its record.
#[utoipa::path(
    delete, path = "/projects/{id}/domains/{domain}", tag = "domains",
    operation_id = "remove_domain",
    security(("key" = ["domains:write"])),
    params(
        ("id" = ProjectId, Path, description = "The project"),
        ("domain" = DomainName, Path, description = "The domain")
    ),
    responses((status = 204, description = "Removed"))
)]
async fn remove(
    State(app): State<App>,
    InPath((id, domain)): InPath<(ProjectId, String)>,
    caller: Caller,
) -> ApiResult<StatusCode> {
    app.store().project(&id).await?;
    let (_, defaults) = domain_records::provider(&app)?;
    let name = DomainName::in_zone(&domain, &defaults.zone).map_err(|_| Problem::not_found())?;
    domain_records::check_reserved(&caller.key, &name, defaults, "domain")?;
    domain_records::remove(&app, &caller.actor(), &id, &name, clock::now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<Domain> for DomainView {
    fn from(domain: Domain) -> Self {
        Self {
            kind: domain.spec.target.kind(),
            target: domain.spec.target.content(),
            domain: domain.spec.domain,
            proxied: domain.spec.proxied,
            ttl: domain.spec.ttl,
            state: domain.state,
            created_at: domain.created_at,
            updated_at: domain.updated_at,
        }
    }
}
