//! Dead letters.

use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::{DeadLetter, PortResult};
use ulid::Ulid;

use super::item::{body, item, text};
use super::lists::bound;
use super::writes::Writes;
use super::{Change, DynamoStore, audit};
use crate::error;
use crate::schema::{Key, LETTERS};

pub(super) async fn delete(change: &Change<'_>, id: Ulid) -> PortResult<()> {
    let Some(found) = change.store.get(Key::letter(id)).await? else { return Ok(()) };
    let letter: DeadLetter = body(&found)?;
    let mut writes = Writes::new(&change.store.table);
    writes.delete(Key::letter(id), "attribute_exists(#pk)", vec![]);
    let event = change.store.next_id(change.now);
    let subject = format!("dead_letter/{id}");
    let project = letter.project_id.as_ref();
    writes.put(audit::event(change, event, "dead_letter.deleted", subject, project)?);
    // Where it is gone by now, somebody else has said so in the log.
    change.store.transact(writes).await.map(drop)
}

impl DynamoStore {
    pub(super) async fn keep_letter(&self, letter: &DeadLetter) -> PortResult<()> {
        let body = serde_json::to_string(letter).map_err(error::defect)?;
        let record = item(Key::letter(letter.id), [("body", text(body))]);
        self.put_if(record, "attribute_not_exists(#pk)", vec![]).await.map(drop)
    }

    pub(super) async fn list_letters(&self, page: &Page) -> PortResult<Listed<DeadLetter>> {
        let items = self.newest_of(LETTERS.to_owned(), bound(page), page.limit + 1).await?;
        let letters = items.iter().map(body).collect::<PortResult<Vec<DeadLetter>>>()?;
        Ok(Listed::from_one_more(letters, page, |letter| letter.id))
    }
}
