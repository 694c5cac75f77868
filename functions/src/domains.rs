//! Domains of a project: names in the configured zone.
//!
//! A name is reserved in the store first, then written at the provider, then noted as active.
//! Each step can be repeated, so a domain that stayed `pending` is completed by the same request.

#![allow(unused_qualifications, reason = "`utoipa::path` writes `params` so")]

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::LOCATION;
use rdev_domain::audit::Actor;
use rdev_domain::dns::{
    DnsDefaults, Domain, DomainName, DomainSpec, DomainState, RecordKind, Target, Ttl,
};
use rdev_domain::ids::ProjectId;
use rdev_domain::key::Scope;
use rdev_domain::page::Listed;
use rdev_domain::ports::{Conflict, Dns, PortError, PortResult};
use rdev_domain::project::ProjectState;
use rdev_domain::spec::FieldError;
use rdev_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Api;
use crate::auth::Caller;
use crate::cursor::{List, Listing, PageQuery};
use crate::extract::{InPath, InQuery, JsonBody};
use crate::idempotency::Try;
use crate::problem::{Answer, Code, Problem, refused};

/// How many domains a project may have.
const MOST: usize = 100;

/// `/projects/{id}/domains…`.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::default().routes(routes!(list, add)).routes(routes!(remove))
}

/// A domain that is wanted. Absent (or `null`) fields take the configured defaults.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WantedDomain {
    /// A name in the zone, or a bare label, which becomes `<label>.<zone>`; the project's name
    /// when absent. Unicode becomes Punycode.
    #[serde(default)]
    pub domain: Option<String>,
    /// `A` or `CNAME`; given together with `target`.
    #[serde(default, rename = "type")]
    #[schema(value_type = Option<RecordKind>)]
    pub kind: Option<String>,
    /// An IPv4 address, or a name.
    #[serde(default)]
    pub target: Option<String>,
    /// Whether the provider's proxy stands before it, where there is one.
    #[serde(default)]
    pub proxied: Option<bool>,
    /// Seconds that answers may be kept: 60 to 86400, or 1 for the provider's own choice.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86400)]
    pub ttl: Option<u64>,
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
    /// Whether the provider's proxy stands before it.
    pub proxied: bool,
    /// Seconds that answers may be kept; 1 is the provider's own choice.
    pub ttl: Ttl,
    /// How far it is.
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
    State(api): State<Api>,
    InPath(id): InPath<ProjectId>,
    InQuery(query): InQuery<PageQuery>,
) -> Answer<Json<List<DomainView>>> {
    let filters = [Some(id.as_str())];
    let listing = Listing::new("domains", &filters, query.limit, query.cursor.as_deref())?;
    let page = listing.page()?;
    api.store().project(&id).await?;
    configured(&api)?;
    let mut domains = api.store().domains(&id).await?;
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
        (status = 200, description = "It was the project's already", body = DomainView),
        (status = 201, description = "Added", body = DomainView,
            headers(("location" = String, description = "Where the domain is")))
    )
)]
async fn add(
    State(api): State<Api>,
    InPath(id): InPath<ProjectId>,
    caller: Caller,
    attempt: Try,
    JsonBody(wanted): JsonBody<WantedDomain>,
) -> Answer<Response> {
    let now = crate::now();
    let project = api.store().project(&id).await?;
    let (dns, _) = configured(&api)?;
    if project.state == ProjectState::Deleting {
        return Err(PortError::from(Conflict::ProjectNotReady).into());
    }
    let spec = read(&api, &caller, &id, wanted, "")?;
    let own = api.store().domains(&id).await?;
    if own.len() >= MOST && own.iter().all(|domain| domain.spec.domain != spec.domain) {
        return Err(Problem::field("domain", format!("a project may have {MOST} domains")));
    }
    let made = !own.iter().any(|domain| domain.spec.domain == spec.domain) || attempt.resumed;
    let wanted = Domain::wanted(&id, spec, attempt.nonce, now);
    let domain = put(&api, dns, wanted, &caller.actor(), now).await?;
    let location = format!("/projects/{id}/domains/{}", domain.spec.domain);
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
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
    State(api): State<Api>,
    InPath((id, domain)): InPath<(ProjectId, String)>,
    caller: Caller,
) -> Answer<StatusCode> {
    let now = crate::now();
    api.store().project(&id).await?;
    let (dns, defaults) = configured(&api)?;
    let name = DomainName::in_zone(&domain, &defaults.zone).map_err(|_| Problem::not_found())?;
    may_use(&caller, &name, defaults, "domain")?;
    match api.store().domain(&name).await {
        Ok(domain) if domain.project_id == id => {
            withdraw(&api, dns, domain, &caller.actor(), now).await?;
            Ok(StatusCode::NO_CONTENT)
        }
        Ok(_) => Err(PortError::from(Conflict::DomainTaken).into()),
        // What rdev did not make it does not delete either, and says which of both it is.
        Err(PortError::NotFound { .. }) if !dns.records(&name).await?.is_empty() => {
            Err(PortError::from(Conflict::RecordNotOurs).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// What is wanted, checked. `prefix` is what stands before its fields in the request.
pub(crate) fn read(
    api: &Api,
    caller: &Caller,
    project: &ProjectId,
    wanted: WantedDomain,
    prefix: &str,
) -> Answer<DomainSpec> {
    let (_, defaults) = configured(api)?;
    let mut errors = Vec::new();
    let named = wanted.domain.as_deref().unwrap_or(project.as_str());
    let domain = keep("domain", DomainName::in_zone(named, &defaults.zone), &mut errors);
    let target = match (wanted.kind, wanted.target) {
        (None, None) => match &defaults.target {
            Some(target) => Some(target.clone()),
            None => {
                errors.push(field("target", "must be given: no default is configured"));
                None
            }
        },
        (Some(kind), Some(target)) => keep("type", kind.parse(), &mut errors).and_then(|kind| {
            keep("target", Target::parse(kind, &target, defaults.allow_private), &mut errors)
        }),
        (None, Some(_)) => {
            errors.push(field("type", "must be given with `target`"));
            None
        }
        (Some(_), None) => {
            errors.push(field("target", "must be given with `type`"));
            None
        }
    };
    let ttl = match wanted.ttl {
        Some(seconds) => keep("ttl", Ttl::try_from(seconds), &mut errors),
        None => Some(defaults.ttl),
    };
    let proxied = wanted.proxied.unwrap_or(defaults.proxied);
    let spec = domain.zip(target).zip(ttl);
    let spec = spec.map(|((domain, target), ttl)| DomainSpec { domain, target, proxied, ttl });
    if let Some(Err(invalid)) = spec.as_ref().map(DomainSpec::check) {
        errors.push(refused("target", &invalid));
    }
    for error in &mut errors {
        error.field.insert_str(0, prefix);
    }
    match spec {
        Some(spec) if errors.is_empty() => {
            may_use(caller, &spec.domain, defaults, &format!("{prefix}domain"))?;
            Ok(spec)
        }
        _ => Err(Problem::invalid(errors)),
    }
}

/// Makes a domain what is wanted: reserves it, writes its record, notes its id. Repeated, it
/// goes on where it stopped.
pub(crate) async fn put(
    api: &Api,
    dns: &dyn Dns,
    wanted: Domain,
    by: &Actor,
    now: Timestamp,
) -> PortResult<Domain> {
    let store = api.store();
    let there = store.reserve_domain(&wanted, by, now).await?;
    let fresh = there.id == wanted.id;
    if there.state == DomainState::Deleting {
        return Err(Conflict::DomainLeaving.into());
    }
    if there.state == DomainState::Active && there.spec == wanted.spec {
        return Ok(there);
    }
    // Noted before it is done, so that a crash leaves no record that says something else.
    let domain = if there.spec == wanted.spec && there.state == DomainState::Pending {
        there
    } else {
        let spec = wanted.spec;
        let changed = Domain { spec, state: DomainState::Pending, ..there };
        store.update_domain(&changed, by, now).await?
    };
    let id = match dns.put(&domain.spec, &domain.ownership_tag()).await {
        Ok(id) => id,
        Err(error @ (PortError::Conflict(Conflict::RecordNotOurs) | PortError::Invalid(_)))
            if fresh =>
        {
            // It never will be made: the name is free again. An earlier try may have made ours,
            // its answer lost, before somebody put theirs beside it.
            match dns.delete(&domain.spec.domain, None, &domain.ownership_tag()).await {
                Ok(()) | Err(PortError::Conflict(Conflict::RecordNotOurs)) => {}
                Err(error) => return Err(error),
            }
            store.forget_domain(&domain, by, now).await?;
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    let state = DomainState::Active;
    let active = Domain { state, provider_record_id: Some(id), ..domain };
    store.update_domain(&active, by, now).await
}

/// Deletes a domain's record, then the domain. Repeated, it goes on where it stopped.
pub(crate) async fn withdraw(
    api: &Api,
    dns: &dyn Dns,
    domain: Domain,
    by: &Actor,
    now: Timestamp,
) -> PortResult<()> {
    let store = api.store();
    let domain = if domain.state == DomainState::Deleting {
        domain
    } else {
        let leaving = Domain { state: DomainState::Deleting, ..domain };
        store.update_domain(&leaving, by, now).await?
    };
    let id = domain.provider_record_id.as_deref();
    dns.delete(&domain.spec.domain, id, &domain.ownership_tag()).await?;
    store.forget_domain(&domain, by, now).await
}

/// The DNS provider.
pub(crate) fn configured(api: &Api) -> Answer<(&dyn Dns, &DnsDefaults)> {
    let missing =
        || Problem::new(Code::DnsNotConfigured, "this installation has no DNS provider ([dns])");
    api.dns().ok_or_else(missing)
}

fn may_use(caller: &Caller, name: &DomainName, defaults: &DnsDefaults, field: &str) -> Answer<()> {
    if name.is_reserved(&defaults.zone) && !caller.key.allows(Scope::DomainsAdmin) {
        let scope = Scope::DomainsAdmin;
        let detail = format!(
            "`{field}` is the zone itself, a wildcard or a name with `_`: the key lacks the \
             scope {scope}"
        );
        return Err(Problem::new(Code::MissingScope, detail));
    }
    Ok(())
}

fn keep<T>(
    name: &str,
    read: Result<T, rdev_domain::Invalid>,
    errors: &mut Vec<FieldError>,
) -> Option<T> {
    read.map_err(|invalid| errors.push(refused(name, &invalid))).ok()
}

fn field(name: &str, message: impl Into<String>) -> FieldError {
    FieldError { field: name.to_owned(), message: message.into() }
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
