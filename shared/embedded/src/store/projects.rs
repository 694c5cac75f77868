//! Projects.

use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::{Conflict, PortError};
use rdev_domain::project::{Project, ProjectPatch, ProjectState};
use rdev_domain::step::{Event, step};
use rdev_domain::task::TaskState;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{self, Found, blob, bound};
use super::{Tx, audit, claim, domains, transition, webhooks};
use crate::failed::Failed;

/// The most outbox entries that one raised limit writes.
const MAX_MARKS: u32 = 100;

/// How many queued tasks of a deleted project one transaction cancels.
const CANCELLED_AT_ONCE: u32 = 500;

pub(super) fn create(tx: &Tx<'_>, project: Project) -> Result<Project, Failed> {
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

pub(super) fn find(conn: &Connection, id: &ProjectId) -> Result<Option<Project>, Failed> {
    let mut one = conn.prepare_cached("SELECT body FROM projects WHERE id = ?1")?;
    Ok(one.query_row([id.as_str()], |row| rows::body(row, 0)).optional()?)
}

pub(super) fn get(conn: &Connection, id: &ProjectId) -> Result<Project, Failed> {
    find(conn, id)?.ok_or_else(|| not_found(id).into())
}

pub(super) fn state(conn: &Connection, id: &ProjectId) -> Result<ProjectState, Failed> {
    let mut one = conn.prepare_cached("SELECT state = 'ready' FROM projects WHERE id = ?1")?;
    match one.query_row([id.as_str()], |row| row.get(0)).optional()? {
        Some(true) => Ok(ProjectState::Ready),
        Some(false) => Ok(get(conn, id)?.state),
        None => Err(not_found(id).into()),
    }
}

pub(super) fn list(conn: &Connection, page: &Page) -> Result<Listed<Project>, Failed> {
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
) -> Result<(Project, Vec<OutboxEntry>), Failed> {
    let before = get(tx.conn, id)?;
    if before.state == ProjectState::Deleting {
        return Err(Conflict::ProjectNotReady.into());
    }
    let added = patch.build_limit.map_or(0, |limit| limit.saturating_sub(before.build_limit));
    let project = before.patched(patch, tx.now);
    write(tx, &project)?;
    record(tx, "project.updated", id)?;
    let times = vec![tx.now; added.min(MAX_MARKS) as usize];
    let outbox = transition::write_outbox(tx, id, &times)?;
    Ok((project, outbox))
}

/// Gives up projects that were `provisioning` since `time`; whether there may be more.
pub(super) fn give_up_provisioning(
    tx: &Tx<'_>,
    since: Timestamp,
    limit: u32,
) -> Result<bool, Failed> {
    let stuck: Vec<Project> = tx
        .conn
        .prepare_cached(
            "SELECT body FROM projects WHERE state = 'provisioning' AND changed_at <= ?1 LIMIT ?2",
        )?
        .query_map(params![since.as_millis(), limit], |row| rows::body(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    let more = stuck.len() == limit as usize;
    for project in stuck {
        let state = ProjectState::ProvisioningFailed;
        let project = Project { state, updated_at: tx.now, ..project };
        write(tx, &project)?;
        record(tx, "project.provisioning_failed", &project.id)?;
    }
    Ok(more)
}

/// Shuts a project and cancels one page of what is queued; the project, when
/// nothing more is.
pub(super) fn begin_delete(tx: &Tx<'_>, id: &ProjectId) -> Result<Option<Project>, Failed> {
    let before = get(tx.conn, id)?;
    if claim::slots_taken(tx, id)? > 0 || is_pushing(tx, id)? {
        return Err(Conflict::TasksRunning.into());
    }
    let project = if before.state == ProjectState::Deleting {
        before
    } else {
        let project = Project { state: ProjectState::Deleting, updated_at: tx.now, ..before };
        write(tx, &project)?;
        record(tx, "project.deleting", id)?;
        project
    };
    let cancelled = cancel_queued(tx, id)?;
    Ok((cancelled < CANCELLED_AT_ONCE as usize).then_some(project))
}

pub(super) fn forget(tx: &Tx<'_>, id: &ProjectId) -> Result<(), Failed> {
    if get(tx.conn, id)?.state != ProjectState::Deleting {
        return Err(Conflict::ProjectNotReady.into());
    }
    // A crash may have ended the cancelling half-way.
    while cancel_queued(tx, id)? > 0 {}
    webhooks::forget(tx, id)?;
    domains::forget_all(tx, id)?;
    tx.conn.prepare_cached("DELETE FROM projects WHERE id = ?1")?.execute([id.as_str()])?;
    record(tx, "project.deleted", id)
}

fn is_pushing(tx: &Tx<'_>, id: &ProjectId) -> Result<bool, Failed> {
    let mut any = tx
        .conn
        .prepare_cached("SELECT 1 FROM tasks WHERE project = ?1 AND state = 'pushing' LIMIT 1")?;
    Ok(any.exists([id.as_str()])?)
}

fn cancel_queued(tx: &Tx<'_>, id: &ProjectId) -> Result<usize, Failed> {
    let queued = tx
        .conn
        .prepare_cached(
            "SELECT task FROM due WHERE project = ?1
             UNION ALL SELECT task FROM later WHERE project = ?1 LIMIT ?2",
        )?
        .query_map(params![id.as_str(), CANCELLED_AT_ONCE], |row| rows::ulid(row, 0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for &task in &queued {
        match rows::find(tx.conn, TaskId(task), Timestamp::from_millis(i64::MIN))? {
            Some(Found::Task(record)) if record.task.state == TaskState::Queued => {
                let step = step(&record.task, record.lease.as_ref(), Event::Cancel, tx.now)?;
                transition::write(tx, &record, &step)?;
            }
            Some(Found::Unreadable(unreadable)) => {
                transition::poison(tx, &unreadable)?;
            }
            // A push that nobody holds: not ours to end.
            Some(Found::Task(_)) => return Err(Conflict::TasksRunning.into()),
            None => return Err(rusqlite::Error::QueryReturnedNoRows.into()),
        }
    }
    Ok(queued.len())
}

pub(super) fn write(tx: &Tx<'_>, project: &Project) -> Result<(), Failed> {
    tx.conn
        .prepare_cached("UPDATE projects SET state = ?2, changed_at = ?3, body = ?4 WHERE id = ?1")?
        .execute(params![
            project.id.as_str(),
            project.state.as_str(),
            project.updated_at.as_millis(),
            serde_json::to_string(project)?,
        ])?;
    Ok(())
}

pub(super) fn record(tx: &Tx<'_>, action: &str, id: &ProjectId) -> Result<(), Failed> {
    audit::record(tx, action, &format!("project/{id}"), Some(id))
}

fn not_found(id: &ProjectId) -> PortError {
    PortError::not_found(format!("project \"{id}\""))
}
