//! Domains. A name belongs to at most one project.

use rdev_domain::dns::{Domain, DomainName, DomainState};
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{Conflict, PortError, PortResult};
use rdev_domain::project::Project;

use super::transaction::{State, Tx};

pub(super) fn reserve(tx: &mut Tx<'_>, domain: &Domain) -> PortResult<Domain> {
    let project = tx.state.open_project(&domain.project_id)?;
    if !is_of(domain, project) {
        return Err(Conflict::ProjectReplaced.into());
    }
    if let Some(there) = tx.state.domains.get(&domain.spec.domain) {
        if !is_of(there, project) {
            return Err(Conflict::DomainTaken.into());
        }
        return Ok(there.clone());
    }
    let domain = Domain { state: DomainState::Pending, ..domain.clone() };
    write(tx, &domain, "domain.reserved");
    Ok(domain)
}

pub(super) fn update(tx: &mut Tx<'_>, domain: &Domain) -> PortResult<Domain> {
    if !is_reserved(tx.state, domain) {
        return Err(not_found(&domain.spec.domain));
    }
    let domain = Domain { updated_at: tx.now, ..domain.clone() };
    write(tx, &domain, "domain.updated");
    Ok(domain)
}

pub(super) fn forget(tx: &mut Tx<'_>, domain: &Domain) {
    if is_reserved(tx.state, domain)
        && let Some(there) = tx.state.domains.remove(&domain.spec.domain)
    {
        record(tx, "domain.removed", &there);
    }
}

/// Removes all domains of a project.
pub(super) fn forget_all(tx: &mut Tx<'_>, project: &ProjectId) {
    for domain in list(tx.state, project) {
        forget(tx, &domain);
    }
}

pub(super) fn get(state: &State, name: &DomainName) -> PortResult<Domain> {
    state.domains.get(name).cloned().ok_or_else(|| not_found(name))
}

pub(super) fn list(state: &State, project: &ProjectId) -> Vec<Domain> {
    let owner = state.projects.get(project);
    let of_project = state.domains.values().filter(|domain| {
        domain.project_id == *project && owner.is_none_or(|owner| is_of(domain, owner))
    });
    let mut all: Vec<Domain> = of_project.cloned().collect();
    all.sort_by_key(|domain| std::cmp::Reverse(domain.id));
    all
}

/// Whether the domain belongs to the project, and not to an earlier one of its name.
fn is_of(domain: &Domain, project: &Project) -> bool {
    domain.project_id == project.id && project.owns(domain.project_nonce, domain.id)
}

/// Whether the store has this reservation of the name, and not an earlier or a later one.
fn is_reserved(state: &State, domain: &Domain) -> bool {
    state
        .domains
        .get(&domain.spec.domain)
        .is_some_and(|there| there.id == domain.id && there.project_id == domain.project_id)
}

fn write(tx: &mut Tx<'_>, domain: &Domain, action: &str) {
    tx.state.domains.insert(domain.spec.domain.clone(), domain.clone());
    record(tx, action, domain);
}

fn record(tx: &mut Tx<'_>, action: &str, domain: &Domain) {
    tx.record(action, format!("domain/{}", domain.spec.domain), Some(&domain.project_id));
}

fn not_found(name: &DomainName) -> PortError {
    PortError::not_found(format!("domain \"{name}\""))
}
