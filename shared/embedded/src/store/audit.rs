//! The audit log.

use rdev_domain::audit::AuditEvent;
use rdev_domain::ids::ProjectId;
use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::AuditFilter;
use rdev_domain::time::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};
use ulid::Ulid;

use super::rows::{self, blob, bound};
use super::transaction::Tx;
use crate::error::Error;

/// Records that the actor of the transaction has done `action` to `subject`.
pub(super) fn record(
    tx: &Tx<'_>,
    action: &str,
    subject: &str,
    project: Option<&ProjectId>,
) -> Result<(), Error> {
    record_with(tx, action, subject, project, None)
}

/// Like [`record`], with what else is to be known of it.
pub(super) fn record_with(
    tx: &Tx<'_>,
    action: &str,
    subject: &str,
    project: Option<&ProjectId>,
    detail: Option<&str>,
) -> Result<(), Error> {
    let expires_at = tx.context.retention.audit_expires_at(tx.now);
    tx.conn
        .prepare_cached(
            "INSERT INTO audit (id, at, actor, action, subject, project, request_id, expires_at,
                                detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            blob(tx.context.next_id(tx.now)),
            tx.now.as_millis(),
            tx.by.name(),
            action,
            subject,
            project.map(ProjectId::as_str),
            tx.by.request_id,
            expires_at.map(Timestamp::as_millis),
            detail,
        ])?;
    Ok(())
}

/// The newest id in the log. New ids are greater, even if the clock went back.
pub(super) fn last_id(conn: &Connection) -> rusqlite::Result<Ulid> {
    let last = conn.query_row("SELECT max(id) FROM audit", [], |row| row.get(0))?;
    Ok(Option::map_or(last, Ulid::nil(), Ulid::from_bytes))
}

pub(super) fn list(
    conn: &Connection,
    filter: &AuditFilter,
    page: &Page,
    latest: Timestamp,
) -> Result<Listed<AuditEvent>, Error> {
    const ALL: &str =
        "SELECT id, at, actor, action, subject, project, request_id, detail FROM audit
         WHERE id < ?1 AND (expires_at IS NULL OR expires_at > ?2)
         ORDER BY id DESC LIMIT ?3";
    const OF_PROJECT: &str =
        "SELECT id, at, actor, action, subject, project, request_id, detail FROM audit
         WHERE project = ?4 AND id < ?1 AND (expires_at IS NULL OR expires_at > ?2)
         ORDER BY id DESC LIMIT ?3";
    let (before, latest, limit) = (bound(page), latest.as_millis(), i64::from(page.limit) + 1);
    let events = match &filter.project {
        None => conn
            .prepare_cached(ALL)?
            .query_map(params![before, latest, limit], event)?
            .collect::<rusqlite::Result<_>>()?,
        Some(project) => conn
            .prepare_cached(OF_PROJECT)?
            .query_map(params![before, latest, limit, project.as_str()], event)?
            .collect::<rusqlite::Result<_>>()?,
    };
    Ok(Listed::from_one_more(events, page, |event: &AuditEvent| event.id))
}

fn event(row: &Row<'_>) -> rusqlite::Result<AuditEvent> {
    let has_project = row.get_ref(5)? != ValueRef::Null;
    Ok(AuditEvent {
        id: rows::ulid(row, 0)?,
        at: Timestamp::from_millis(row.get(1)?),
        actor: row.get(2)?,
        action: row.get(3)?,
        subject: row.get(4)?,
        project_id: if has_project { Some(rows::parsed(row, 5)?) } else { None },
        request_id: row.get(6)?,
        detail: row.get(7)?,
    })
}
