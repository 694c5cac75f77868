//! Webhooks. The URL is in the project, the secret in a table of its own.

use rdev_domain::ids::ProjectId;
use rdev_domain::ports::Conflict;
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::secret::Secret;
use rdev_domain::webhook::Webhook;
use rusqlite::{Connection, OptionalExtension, params};

use super::transaction::Tx;
use super::{projects, rows};
use crate::error::Error;

pub(super) fn set(
    tx: &Tx<'_>,
    id: &ProjectId,
    webhook: Option<&Webhook>,
) -> Result<Project, Error> {
    let before = projects::get(tx.conn, id)?;
    if before.state == ProjectState::Deleting {
        return Err(Conflict::ProjectNotReady.into());
    }
    if webhook.is_none() && before.webhook_url.is_none() {
        return Ok(before);
    }
    let webhook_url = webhook.map(|webhook| webhook.url.clone());
    let project = Project { webhook_url, updated_at: tx.now, ..before };
    projects::write(tx, &project)?;
    let action = match webhook {
        Some(webhook) => {
            tx.conn
                .prepare_cached(
                    "INSERT OR REPLACE INTO webhooks (project, secret) VALUES (?1, ?2)",
                )?
                .execute(params![id.as_str(), webhook.secret.expose()])?;
            "project.webhook_set"
        }
        None => {
            forget(tx, id)?;
            "project.webhook_removed"
        }
    };
    projects::record(tx, action, id)?;
    Ok(project)
}

pub(super) fn get(conn: &Connection, id: &ProjectId) -> Result<Option<Webhook>, Error> {
    let mut one = conn.prepare_cached(
        "SELECT p.body, w.secret FROM webhooks w JOIN projects p ON p.id = w.project
         WHERE w.project = ?1",
    )?;
    let found = one.query_row([id.as_str()], |row| {
        Ok((rows::body::<Project>(row, 0)?, row.get::<_, String>(1)?))
    });
    Ok(found.optional()?.and_then(|(project, secret)| {
        Some(Webhook { url: project.webhook_url?, secret: Secret::new(secret) })
    }))
}

/// Deletes the secret of a project's webhook.
pub(super) fn forget(tx: &Tx<'_>, id: &ProjectId) -> Result<(), Error> {
    tx.conn.prepare_cached("DELETE FROM webhooks WHERE project = ?1")?.execute([id.as_str()])?;
    Ok(())
}
