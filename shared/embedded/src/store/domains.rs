//! Domains. A name belongs to at most one project.

use rdev_domain::dns::{Domain, DomainName, DomainState};
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{Conflict, PortError};
use rdev_domain::project::{Project, ProjectState};
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{self, blob};
use super::transaction::Tx;
use super::{audit, projects};
use crate::error::Error;

pub(super) fn reserve(tx: &Tx<'_>, domain: Domain) -> Result<Domain, Error> {
    let project = projects::get(tx.conn, &domain.project_id)?;
    if project.state == ProjectState::Deleting {
        return Err(Conflict::ProjectNotReady.into());
    }
    if !project.owns(domain.project_nonce, domain.id) {
        return Err(Conflict::ProjectReplaced.into());
    }
    if let Some(there) = find(tx.conn, &domain.spec.domain)? {
        if !is_of(&there, &project) {
            return Err(Conflict::DomainTaken.into());
        }
        return Ok(there);
    }
    let domain = Domain { state: DomainState::Pending, ..domain };
    tx.conn
        .prepare_cached("INSERT INTO domains (fqdn, project, id, body) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            domain.spec.domain.as_str(),
            domain.project_id.as_str(),
            blob(domain.id),
            serde_json::to_string(&domain)?,
        ])?;
    record(tx, "domain.reserved", &domain)?;
    Ok(domain)
}

pub(super) fn update(tx: &Tx<'_>, domain: Domain) -> Result<Domain, Error> {
    let name = &domain.spec.domain;
    let there = find(tx.conn, name)?.is_some_and(|there| is_same_reservation(&there, &domain));
    if !there {
        return Err(not_found(name).into());
    }
    let domain = Domain { updated_at: tx.now, ..domain };
    tx.conn
        .prepare_cached("UPDATE domains SET body = ?2 WHERE fqdn = ?1")?
        .execute(params![domain.spec.domain.as_str(), serde_json::to_string(&domain)?])?;
    record(tx, "domain.updated", &domain)?;
    Ok(domain)
}

pub(super) fn forget(tx: &Tx<'_>, domain: &Domain) -> Result<(), Error> {
    match find(tx.conn, &domain.spec.domain)? {
        Some(there) if is_same_reservation(&there, domain) => remove(tx, &there),
        _ => Ok(()),
    }
}

/// Removes all domains of a project.
pub(super) fn forget_all(tx: &Tx<'_>, project: &ProjectId) -> Result<(), Error> {
    for domain in list(tx.conn, project)? {
        remove(tx, &domain)?;
    }
    Ok(())
}

pub(super) fn get(conn: &Connection, name: &DomainName) -> Result<Domain, Error> {
    find(conn, name)?.ok_or_else(|| not_found(name).into())
}

/// Whether the domain belongs to the project, and not to an earlier one of its name.
fn is_of(domain: &Domain, project: &Project) -> bool {
    domain.project_id == project.id && project.owns(domain.project_nonce, domain.id)
}

pub(super) fn list(conn: &Connection, project: &ProjectId) -> Result<Vec<Domain>, Error> {
    let owner = projects::find(conn, project)?;
    let mut all =
        conn.prepare_cached("SELECT body FROM domains WHERE project = ?1 ORDER BY id DESC")?;
    let all = all.query_map([project.as_str()], |row| rows::body(row, 0))?;
    let mut all: Vec<Domain> = all.collect::<rusqlite::Result<_>>()?;
    all.retain(|domain| owner.as_ref().is_none_or(|project| is_of(domain, project)));
    Ok(all)
}

fn find(conn: &Connection, name: &DomainName) -> Result<Option<Domain>, Error> {
    let mut one = conn.prepare_cached("SELECT body FROM domains WHERE fqdn = ?1")?;
    Ok(one.query_row([name.as_str()], |row| rows::body(row, 0)).optional()?)
}

/// Whether both are the same reservation of the name, and not an earlier and a later one.
fn is_same_reservation(there: &Domain, domain: &Domain) -> bool {
    there.id == domain.id && there.project_id == domain.project_id
}

fn remove(tx: &Tx<'_>, domain: &Domain) -> Result<(), Error> {
    tx.conn
        .prepare_cached("DELETE FROM domains WHERE fqdn = ?1")?
        .execute([domain.spec.domain.as_str()])?;
    record(tx, "domain.removed", domain)
}

fn record(tx: &Tx<'_>, action: &str, domain: &Domain) -> Result<(), Error> {
    let subject = format!("domain/{}", domain.spec.domain);
    audit::record(tx, action, &subject, Some(&domain.project_id))
}

fn not_found(name: &DomainName) -> PortError {
    PortError::not_found(format!("domain \"{name}\""))
}
