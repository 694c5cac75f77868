//! Webhook deliveries.

use rdev_domain::ids::ProjectId;
use rdev_domain::page::{Listed, Page};
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use rdev_domain::webhook::{KEPT, WebhookDelivery};
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{self, blob, bound};
use super::transaction::Tx;
use crate::error::Error;

/// Creates the delivery that reports the end of a task, if the task asks for one.
pub(super) fn create(tx: &Tx<'_>, task: &Task) -> Result<(), Error> {
    if !task.notify {
        return Ok(());
    }
    let Some(delivery) = WebhookDelivery::of(task, tx.context.next_id(tx.now), tx.now) else {
        return Ok(());
    };
    tx.conn
        .prepare_cached(
            "INSERT INTO deliveries (id, project, next_at, expires_at, body, project_nonce)
             VALUES (?1, ?2, ?3, ?4, ?5, (SELECT project_nonce FROM tasks WHERE id = ?6))",
        )?
        .execute(params![
            blob(delivery.id),
            delivery.project_id.as_str(),
            delivery.next_at.map(Timestamp::as_millis),
            expires_at(&delivery).map(Timestamp::as_millis),
            serde_json::to_string(&delivery)?,
            blob(task.id.0),
        ])?;
    Ok(())
}

pub(super) fn due(
    conn: &Connection,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<WebhookDelivery>, Error> {
    let mut due = conn.prepare_cached(
        "SELECT id, body FROM deliveries WHERE next_at <= ?1 ORDER BY next_at, id",
    )?;
    let mut rows = due.query([now.as_millis()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()?
        && found.len() < limit as usize
    {
        match rows::body(row, 1) {
            Ok(delivery) => found.push(delivery),
            Err(error) => {
                let id = rows::ulid(row, 0)?;
                tracing::error!(delivery = %id, %error, "a webhook delivery cannot be read");
            }
        }
    }
    Ok(found)
}

pub(super) fn update(
    conn: &Connection,
    before: &WebhookDelivery,
    after: &WebhookDelivery,
) -> Result<bool, Error> {
    let mut one = conn.prepare_cached("SELECT body FROM deliveries WHERE id = ?1")?;
    let there: Option<WebhookDelivery> =
        one.query_row([blob(before.id)], |row| rows::body(row, 0)).optional()?;
    if there.as_ref() != Some(before) {
        return Ok(false);
    }
    conn.prepare_cached(
        "UPDATE deliveries SET next_at = ?2, expires_at = ?3, body = ?4 WHERE id = ?1",
    )?
    .execute(params![
        blob(before.id),
        after.next_at.map(Timestamp::as_millis),
        expires_at(after).map(Timestamp::as_millis),
        serde_json::to_string(after)?,
    ])?;
    Ok(true)
}

pub(super) fn list(
    conn: &Connection,
    project: &ProjectId,
    page: &Page,
    latest: Timestamp,
) -> Result<Listed<WebhookDelivery>, Error> {
    let mut all = conn.prepare_cached(
        "SELECT body FROM deliveries
         WHERE project = ?1 AND id < ?2 AND (expires_at IS NULL OR expires_at > ?3)
               AND NOT EXISTS (SELECT 1 FROM projects p
                               WHERE p.id = project AND p.nonce <> project_nonce)
         ORDER BY id DESC LIMIT ?4",
    )?;
    let limit = i64::from(page.limit) + 1;
    let all = all
        .query_map(params![project.as_str(), bound(page), latest.as_millis(), limit], |row| {
            rows::body(row, 0)
        })?
        .collect::<rusqlite::Result<Vec<WebhookDelivery>>>()?;
    Ok(Listed::from_one_more(all, page, |delivery| delivery.id))
}

/// A delivery expires after it has ended. One that is still to be sent does not.
fn expires_at(delivery: &WebhookDelivery) -> Option<Timestamp> {
    delivery.next_at.is_none().then(|| delivery.updated_at.plus(KEPT))
}
