//! Dead letters.

use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::{DeadLetter, PortResult};
use ulid::Ulid;

use super::audit;
use super::context::{Change, Context};
use super::item::{body, item, text};
use super::newest;
use crate::error;
use crate::schema::{DEAD_LETTERS, Key};

pub(super) async fn delete(change: &Change<'_>, id: Ulid) -> PortResult<()> {
    let Some(found) = change.context.table.get(Key::dead_letter(id)).await? else { return Ok(()) };
    let letter: DeadLetter = body(&found)?;
    let mut writes = change.context.table.writes();
    writes.delete(Key::dead_letter(id), "attribute_exists(#pk)", vec![]);
    let event = change.context.next_id(change.now);
    let subject = format!("dead_letter/{id}");
    let project = letter.project_id.as_ref();
    writes.put(audit::event(change, event, "dead_letter.deleted", subject, project)?);
    // If it is gone by now, another caller has deleted it and recorded that.
    change.context.table.transact(writes).await.map(drop)
}

pub(super) async fn record(context: &Context, letter: &DeadLetter) -> PortResult<()> {
    let body = serde_json::to_string(letter).map_err(error::defect)?;
    let record = item(Key::dead_letter(letter.id), [("body", text(body))]);
    context.table.put_if(record, "attribute_not_exists(#pk)", vec![]).await.map(drop)
}

pub(super) async fn list(context: &Context, page: &Page) -> PortResult<Listed<DeadLetter>> {
    let items = newest::in_partition(context, DEAD_LETTERS.to_owned(), page).await?;
    let letters = items.iter().map(body).collect::<PortResult<Vec<DeadLetter>>>()?;
    Ok(Listed::from_one_more(letters, page, |letter| letter.id))
}
