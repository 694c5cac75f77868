//! Projects.

use rdev_domain::ids::ProjectId;
use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::{Conflict, PortError};
use rdev_domain::project::{Project, ProjectPatch, ProjectState};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{self, blob, bound};
use super::transaction::Tx;
use super::{audit, outbox, queue_entry, turns};
use crate::error::Error;

pub(super) fn create(tx: &Tx<'_>, project: Project) -> Result<Project, Error> {
    if let Some(there) = find(tx.conn, &project.id)? {
        if there.nonce != project.nonce {
            return Err(Conflict::ProjectExists.into());
        }
        return Ok(there);
    }
    tx.conn
        .prepare_cached(
            "INSERT INTO projects (id, nonce, state, changed_at, body) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            project.id.as_str(),
            blob(project.nonce),
            project.state.as_str(),
            project.updated_at.as_millis(),
            serde_json::to_string(&project)?,
        ])?;
    record(tx, "project.created", &project.id)?;
    Ok(project)
}

pub(super) fn find(conn: &Connection, id: &ProjectId) -> Result<Option<Project>, Error> {
    let mut one = conn.prepare_cached("SELECT body FROM projects WHERE id = ?1")?;
    Ok(one.query_row([id.as_str()], |row| rows::body(row, 0)).optional()?)
}

pub(super) fn get(conn: &Connection, id: &ProjectId) -> Result<Project, Error> {
    find(conn, id)?.ok_or_else(|| not_found(id).into())
}

pub(super) fn list(conn: &Connection, page: &Page) -> Result<Listed<Project>, Error> {
    let mut all = conn.prepare_cached(
        "SELECT body FROM projects WHERE nonce < ?1 ORDER BY nonce DESC LIMIT ?2",
    )?;
    let limit = i64::from(page.limit) + 1;
    let all = all.query_map(params![bound(page), limit], |row| rows::body(row, 0))?;
    let all = all.collect::<rusqlite::Result<Vec<Project>>>()?;
    Ok(Listed::from_one_more(all, page, |project| project.nonce))
}

pub(super) fn update(
    tx: &Tx<'_>,
    id: &ProjectId,
    patch: ProjectPatch,
) -> Result<(Project, Vec<OutboxEntry>), Error> {
    let before = get(tx.conn, id)?;
    if before.state == ProjectState::Deleting {
        return Err(Conflict::ProjectNotReady.into());
    }
    if !before.is_at(patch.expected.as_ref()) {
        return Err(Conflict::ProjectChanged.into());
    }
    let added = patch.build_limit.map_or(0, |limit| limit.saturating_sub(before.build_limit));
    let project = before.patched(patch, tx.now);
    write(tx, &project)?;
    record(tx, "project.updated", id)?;
    let mut outbox = Vec::new();
    for agent in queue_entry::due_agents(tx.conn, id, tx.now)?.for_slots(added) {
        outbox.extend(outbox::write(tx, id, agent, &[tx.now])?);
    }
    Ok((project, outbox))
}

/// Turns projects that have been `provisioning` since `since` or longer into
/// `provisioning_failed`. Returns whether there may be more.
pub(super) fn fail_stuck_provisioning(
    tx: &Tx<'_>,
    since: Timestamp,
    limit: u32,
) -> Result<bool, Error> {
    let stuck = readable(
        tx,
        "SELECT id, body FROM projects WHERE state = 'provisioning' AND changed_at <= ?1",
        since,
        limit,
    )?;
    let more = stuck.len() == limit as usize;
    for project in stuck {
        let state = ProjectState::ProvisioningFailed;
        let project = Project { state, updated_at: tx.now, ..project };
        write(tx, &project)?;
        record(tx, "project.provisioning_failed", &project.id)?;
    }
    Ok(more)
}

/// The first `limit` projects of a query for ids and bodies that can be read.
pub(super) fn readable(
    tx: &Tx<'_>,
    sql: &str,
    since: Timestamp,
    limit: u32,
) -> Result<Vec<Project>, Error> {
    let mut query = tx.conn.prepare_cached(sql)?;
    let mut rows = query.query([since.as_millis()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()?
        && found.len() < limit as usize
    {
        match rows::body(row, 1) {
            Ok(project) => found.push(project),
            Err(error) => {
                let id: String = row.get(0)?;
                tracing::error!(project = id, %error, "the project's record cannot be read");
            }
        }
    }
    Ok(found)
}

pub(super) fn write(tx: &Tx<'_>, project: &Project) -> Result<(), Error> {
    tx.conn
        .prepare_cached("UPDATE projects SET state = ?2, changed_at = ?3, body = ?4 WHERE id = ?1")?
        .execute(params![
            project.id.as_str(),
            project.state.as_str(),
            project.updated_at.as_millis(),
            serde_json::to_string(project)?,
        ])?;
    turns::refresh(tx, &project.id)
}

pub(super) fn record(tx: &Tx<'_>, action: &str, id: &ProjectId) -> Result<(), Error> {
    audit::record(tx, action, &format!("project/{id}"), Some(id))
}

fn not_found(id: &ProjectId) -> PortError {
    PortError::not_found(format!("project \"{id}\""))
}
