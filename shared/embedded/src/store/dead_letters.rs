//! Dead letters.

use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::DeadLetter;
use rusqlite::{Connection, OptionalExtension, params};
use ulid::Ulid;

use super::audit;
use super::rows::{self, blob, bound};
use super::transaction::Tx;
use crate::error::Error;

pub(super) fn record(conn: &Connection, letter: &DeadLetter) -> Result<(), Error> {
    conn.prepare_cached(
        "INSERT INTO dead_letters (id, body) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING",
    )?
    .execute(params![blob(letter.id), serde_json::to_string(letter)?])?;
    Ok(())
}

pub(super) fn list(conn: &Connection, page: &Page) -> Result<Listed<DeadLetter>, Error> {
    let mut all = conn
        .prepare_cached("SELECT body FROM dead_letters WHERE id < ?1 ORDER BY id DESC LIMIT ?2")?;
    let limit = i64::from(page.limit) + 1;
    let all = all.query_map(params![bound(page), limit], |row| rows::body(row, 0))?;
    let all = all.collect::<rusqlite::Result<Vec<DeadLetter>>>()?;
    Ok(Listed::from_one_more(all, page, |letter| letter.id))
}

pub(super) fn delete(tx: &Tx<'_>, id: Ulid) -> Result<(), Error> {
    let mut delete =
        tx.conn.prepare_cached("DELETE FROM dead_letters WHERE id = ?1 RETURNING body")?;
    let letter: Option<DeadLetter> =
        delete.query_row([blob(id)], |row| rows::body(row, 0)).optional()?;
    if let Some(letter) = letter {
        let subject = format!("dead_letter/{id}");
        audit::record(tx, "dead_letter.deleted", &subject, letter.project_id.as_ref())?;
    }
    Ok(())
}
