//! When repositories are looked through for refs that nobody needs.

use rdev_domain::git_url::GitUrl;
use rdev_domain::ref_look::RefLook;
use rdev_domain::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::rows;
use crate::error::Error;

pub(super) fn plan(
    conn: &Connection,
    repository: &GitUrl,
    at: Timestamp,
    now: Timestamp,
) -> Result<(), Error> {
    let before = get(conn, repository)?;
    write(conn, &RefLook::planned(before, repository, at, now))
}

pub(super) fn due(conn: &Connection, now: Timestamp, limit: u32) -> Result<Vec<RefLook>, Error> {
    let mut due = conn.prepare_cached(
        "SELECT body, repository FROM ref_looks WHERE due <= ?1 ORDER BY due, repository",
    )?;
    let mut rows = due.query([now.as_millis()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()?
        && found.len() < limit as usize
    {
        match rows::body(row, 0) {
            Ok(look) => found.push(look),
            Err(error) => {
                let repository: String = row.get(1)?;
                tracing::error!(repository, %error, "the plan of a look for refs cannot be read");
            }
        }
    }
    Ok(found)
}

pub(super) fn update(
    conn: &Connection,
    before: &RefLook,
    after: Option<&RefLook>,
) -> Result<bool, Error> {
    if get(conn, &before.repository)?.as_ref() != Some(before) {
        return Ok(false);
    }
    match after {
        Some(after) => write(conn, after)?,
        None => {
            let mut delete = conn.prepare_cached("DELETE FROM ref_looks WHERE repository = ?1")?;
            delete.execute([before.repository.as_str()])?;
        }
    }
    Ok(true)
}

/// One that cannot be read is as good as none: the next plan replaces it.
fn get(conn: &Connection, repository: &GitUrl) -> Result<Option<RefLook>, Error> {
    let mut one = conn.prepare_cached("SELECT body FROM ref_looks WHERE repository = ?1")?;
    let body: Option<String> = one.query_row([repository.as_str()], |row| row.get(0)).optional()?;
    Ok(body.and_then(|body| serde_json::from_str(&body).ok()))
}

fn write(conn: &Connection, look: &RefLook) -> Result<(), Error> {
    conn.prepare_cached(
        "INSERT INTO ref_looks (repository, due, body) VALUES (?1, ?2, ?3)
         ON CONFLICT (repository) DO UPDATE SET due = excluded.due, body = excluded.body",
    )?
    .execute(params![
        look.repository.as_str(),
        look.due.as_millis(),
        serde_json::to_string(look)?,
    ])?;
    Ok(())
}
