//! Domains of a project, and their records at the DNS provider.
//!
//! A name is reserved in the store first, then written at the provider, then recorded as active.
//! Each step can be repeated, so the same request completes a domain that stayed `pending`.

use rdev_domain::audit::Actor;
use rdev_domain::dns::{
    DnsDefaults, Domain, DomainName, DomainSpec, DomainState, RecordKind, Target, Ttl,
};
use rdev_domain::ids::ProjectId;
use rdev_domain::key::{ApiKey, Scope};
use rdev_domain::ports::{Conflict, Dns, PortError, PortResult};
use rdev_domain::project::ProjectState;
use rdev_domain::spec::FieldError;
use rdev_domain::time::Timestamp;
use serde::Deserialize;
use ulid::Ulid;
use utoipa::ToSchema;

use crate::app::App;
use crate::services::error::{ServiceError, ServiceResult, field, refused};

/// How many domains a project may have.
const MAX_DOMAINS: usize = 100;

/// A domain to add. Absent (or `null`) fields take the configured defaults.
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
    /// Whether traffic goes through the provider's proxy, if it has one.
    #[serde(default)]
    pub proxied: Option<bool>,
    /// Seconds that resolvers may cache answers: 60 to 86400, or 1 for the provider's own choice.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86400)]
    pub ttl: Option<u64>,
}

/// Who adds a domain, and in which request.
pub(crate) struct Adding<'a> {
    pub(crate) key: &'a ApiKey,
    pub(crate) by: &'a Actor,
    /// The id of the domain, if it is new.
    pub(crate) nonce: Ulid,
    /// An earlier try of the request may have added it.
    pub(crate) resumed: bool,
}

/// Adds a domain to a project, or changes where it leads; whether it was added.
pub(crate) async fn add(
    app: &App,
    adding: Adding<'_>,
    id: &ProjectId,
    request: WantedDomain,
    now: Timestamp,
) -> ServiceResult<(Domain, bool)> {
    let project = app.store().project(id).await?;
    let (dns, _) = provider(app)?;
    if project.state == ProjectState::Deleting {
        return Err(Conflict::ProjectNotReady.into());
    }
    let spec = parse(app, adding.key, id, request, "")?;
    let own = app.store().domains(id).await?;
    let known = own.iter().any(|domain| domain.spec.domain == spec.domain);
    if own.len() >= MAX_DOMAINS && !known {
        let message = format!("a project may have {MAX_DOMAINS} domains");
        return Err(ServiceError::Invalid(vec![field("domain", message)]));
    }
    let domain = Domain::new(&project, spec, adding.nonce, now);
    let domain = put(app, dns, domain, adding.by, now).await?;
    Ok((domain, !known || adding.resumed))
}

/// Removes a project's domain and its record.
pub(crate) async fn remove(
    app: &App,
    by: &Actor,
    id: &ProjectId,
    name: &DomainName,
    now: Timestamp,
) -> ServiceResult<()> {
    let (dns, _) = provider(app)?;
    match app.store().domain(name).await {
        Ok(domain) if domain.project_id == *id => Ok(withdraw(app, dns, domain, by, now).await?),
        Ok(_) => Err(Conflict::DomainTaken.into()),
        // rdev does not delete a record that it did not create.
        Err(PortError::NotFound { .. }) if !dns.records(name).await?.is_empty() => {
            Err(Conflict::RecordNotOurs.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Checks a request for a domain. `prefix` is the path of its fields in the request.
pub(crate) fn parse(
    app: &App,
    key: &ApiKey,
    project: &ProjectId,
    request: WantedDomain,
    prefix: &str,
) -> ServiceResult<DomainSpec> {
    let (_, defaults) = provider(app)?;
    let mut errors = Vec::new();
    let named = request.domain.as_deref().unwrap_or(project.as_str());
    let domain = keep("domain", DomainName::in_zone(named, &defaults.zone), &mut errors);
    let target = match (request.kind, request.target) {
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
    let ttl = match request.ttl {
        Some(seconds) => keep("ttl", Ttl::try_from(seconds), &mut errors),
        None => Some(defaults.ttl),
    };
    let proxied = request.proxied.unwrap_or(defaults.proxied);
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
            check_reserved(key, &spec.domain, defaults, &format!("{prefix}domain"))?;
            Ok(spec)
        }
        _ => Err(ServiceError::Invalid(errors)),
    }
}

/// Whether the key may use `name`, which the request has in `field`.
pub(crate) fn check_reserved(
    key: &ApiKey,
    name: &DomainName,
    defaults: &DnsDefaults,
    field: &str,
) -> ServiceResult<()> {
    if name.is_reserved(&defaults.zone) && !key.allows(Scope::DomainsAdmin) {
        let scope = Scope::DomainsAdmin;
        return Err(ServiceError::MissingScope(format!(
            "`{field}` is the zone itself, a wildcard or a name with `_`: the key lacks the \
             scope {scope}"
        )));
    }
    Ok(())
}

/// Reserves a domain, writes its record, and records it as active. Repeated, it resumes where it
/// stopped.
pub(crate) async fn put(
    app: &App,
    dns: &dyn Dns,
    new: Domain,
    by: &Actor,
    now: Timestamp,
) -> PortResult<Domain> {
    let store = app.store();
    let existing = store.reserve_domain(&new, by, now).await?;
    let fresh = existing.id == new.id;
    if existing.state == DomainState::Deleting {
        return Err(Conflict::DomainLeaving.into());
    }
    if existing.state == DomainState::Active && existing.spec == new.spec {
        return Ok(existing);
    }
    // Recorded before it is written, so that after a crash no record differs from the store.
    let domain = if existing.spec == new.spec && existing.state == DomainState::Pending {
        existing
    } else {
        let changed = Domain { spec: new.spec, state: DomainState::Pending, ..existing };
        store.update_domain(&changed, by, now).await?
    };
    let id = match dns.put(&domain.spec, &domain.ownership_tag()).await {
        Ok(id) => id,
        Err(error @ (PortError::Conflict(Conflict::RecordNotOurs) | PortError::Invalid(_)))
            if fresh =>
        {
            // The provider will always refuse it, so the name is free again. An earlier try whose
            // answer was lost may have written our record before another one was added.
            remove_record(dns, &domain).await?;
            store.forget_domain(&domain, by, now).await?;
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    let state = DomainState::Active;
    let active = Domain { state, provider_record_id: Some(id), ..domain };
    let updated = store.update_domain(&active, by, now).await;
    if let Err(PortError::NotFound { .. }) = updated {
        // It was withdrawn meanwhile, perhaps before its record was written.
        remove_record(dns, &active).await?;
    }
    updated
}

/// Deletes a domain's record, then the domain. Repeated, it resumes where it stopped.
pub(crate) async fn withdraw(
    app: &App,
    dns: &dyn Dns,
    domain: Domain,
    by: &Actor,
    now: Timestamp,
) -> PortResult<()> {
    let store = app.store();
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

/// Deletes the record that was written for the domain, if there is one. One that somebody else has
/// written stays.
pub(crate) async fn remove_record(dns: &dyn Dns, domain: &Domain) -> PortResult<()> {
    let id = domain.provider_record_id.as_deref();
    match dns.delete(&domain.spec.domain, id, &domain.ownership_tag()).await {
        Err(PortError::Conflict(Conflict::RecordNotOurs)) => Ok(()),
        deleted => deleted,
    }
}

/// The DNS provider, and how domain names are read.
pub(crate) fn provider(app: &App) -> ServiceResult<(&dyn Dns, &DnsDefaults)> {
    app.dns().ok_or(ServiceError::DnsNotConfigured)
}

/// The value of a field; when its type refuses it, that is an error.
fn keep<T>(
    name: &str,
    value: Result<T, rdev_domain::Invalid>,
    errors: &mut Vec<FieldError>,
) -> Option<T> {
    value.map_err(|invalid| errors.push(refused(name, &invalid))).ok()
}
