//! A task's log and its diff: too large for one item, so in parts.

use rdev_domain::event::BuildEvent;
use rdev_domain::ids::TaskId;
use rdev_domain::ports::{EventPage, PortResult, Record};
use rdev_domain::task::TaskState;

use super::calls::Query;
use super::item::{Item, body, broken, expired, get_millis, get_text, item, seconds, text};
use super::rows::{Diff, Row};
use super::tasks::not_found;
use super::writes::Writes;
use super::{Change, DynamoStore};
use crate::error;
use crate::schema::{EXPIRES_AT, Key, events_above, task_partition};

/// The most that one item carries: DynamoDB takes 400 KB, keys and all.
const PART_BYTES: usize = 350 * 1024;

/// For how long after its writing a part is kept at least, beside the retention: nobody knows
/// yet when its task ends. Readers go by the task's own time.
const UNFINISHED: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 60 * 60);

/// How many chunks of events one query reads.
const CHUNKS: u32 = 8;

/// Events and a diff as they are written.
#[derive(Debug, Clone, Default)]
pub(super) struct Encoded {
    /// Each with the `seq` of its last event.
    pub(super) chunks: Vec<(u64, String)>,
    pub(super) diff: Option<Vec<String>>,
}

impl Encoded {
    pub(super) fn of(record: &Record) -> PortResult<Self> {
        let mut chunks = Vec::new();
        let mut chunk = String::new();
        let mut last = 0;
        for event in &record.events {
            let event_body = serde_json::to_string(event).map_err(error::defect)?;
            if !chunk.is_empty() && chunk.len() + event_body.len() + 2 > PART_BYTES {
                chunks.push((last, format!("[{chunk}]")));
                chunk.clear();
            }
            if !chunk.is_empty() {
                chunk.push(',');
            }
            chunk.push_str(&event_body);
            last = event.seq;
        }
        if !chunk.is_empty() {
            chunks.push((last, format!("[{chunk}]")));
        }
        Ok(Self { chunks, diff: record.diff.as_deref().map(parts) })
    }

    /// Adds the events to a transaction. Those that are there already came twice: their first
    /// answer was lost.
    pub(super) fn write(&self, change: &Change<'_>, task: TaskId, writes: &mut Writes) {
        for (last, chunk) in &self.chunks {
            writes.put(part(change, Key::events(task, *last), chunk));
        }
    }

    /// Adds the diff to a transaction, as this version of it; the one before goes.
    pub(super) fn write_diff(
        &self,
        change: &Change<'_>,
        task: TaskId,
        before: Option<Diff>,
        version: u64,
        writes: &mut Writes,
    ) -> Option<Diff> {
        let Some(parts) = &self.diff else { return before };
        for n in 0..before.map_or(0, |before| before.parts) {
            writes.delete(Key::diff(task, before.map_or(0, |diff| diff.version), n), "", vec![]);
        }
        let mut count = 0;
        for one in parts {
            writes.put(part(change, Key::diff(task, version, count), one));
            count += 1;
        }
        Some(Diff { version, parts: count })
    }
}

fn part(change: &Change<'_>, key: Key, content: &str) -> Item {
    let mut item = item(key, [("body", text(content))]);
    if let Some(at) = change.store.retention.events_expire_at(change.now) {
        item.insert(EXPIRES_AT.to_owned(), seconds(at.plus(UNFINISHED)));
    }
    item
}

/// Cuts a text into parts.
fn parts(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.floor_char_boundary(PART_BYTES));
        parts.push(part.to_owned());
        rest = after;
    }
    parts
}

impl DynamoStore {
    pub(super) async fn list_events(
        &self,
        task: TaskId,
        after: u64,
        limit: u32,
    ) -> PortResult<EventPage> {
        let limit = limit as usize;
        let (state, item) = self.state_of(task).await?;
        let mut events = Vec::<BuildEvent>::new();
        let mut last = None;
        while !self.logs_expired(&item) {
            let found = self
                .query(Query {
                    keys: "#pk = :pk AND #sk BETWEEN :after AND :end",
                    with: vec![
                        (":pk", text(task_partition(task))),
                        (":after", text(events_above(after.saturating_add(1)))),
                        (":end", text("E$")),
                    ],
                    limit: Some(CHUNKS),
                    after: last,
                    ..Query::default()
                })
                .await?;
            for chunk in &found.items {
                let above = events.last().map_or(after, |event| event.seq);
                let chunk: Vec<BuildEvent> = body(chunk)?;
                // A chunk that was sent again may begin before the end of the one before it.
                events.extend(chunk.into_iter().filter(|event| event.seq > above));
            }
            last = found.last;
            if last.is_none() || events.len() >= limit {
                break;
            }
        }
        events.truncate(limit);
        Ok(EventPage { events, state })
    }

    pub(super) async fn read_diff(&self, task: TaskId) -> PortResult<Option<String>> {
        let (_, item) = self.state_of(task).await?;
        let row = Row::of(&item, None)?;
        let Some(Diff { version, parts }) = row.diff else { return Ok(None) };
        if self.logs_expired(&item) {
            return Ok(None);
        }
        let keys = (0..parts).map(|n| Key::diff(task, version, n)).collect();
        let mut found = self.get_all(keys).await?;
        if found.len() < parts as usize {
            // Replaced between the two reads, or gone before its task.
            return Ok(None);
        }
        found.sort_by(|a, b| get_text(a, "sk").cmp(&get_text(b, "sk")));
        let mut diff = String::new();
        for part in &found {
            diff.push_str(get_text(part, "body").ok_or_else(|| broken(part))?);
        }
        Ok(Some(diff))
    }

    /// A task's state, and its item.
    async fn state_of(&self, id: TaskId) -> PortResult<(TaskState, Item)> {
        let project = self.project_of(id).await?.ok_or_else(|| not_found(id))?;
        let item = self.get(Key::task(&project, id)).await?.ok_or_else(|| not_found(id))?;
        if expired(&item, self.latest()) {
            return Err(not_found(id));
        }
        let state = Row::of(&item, None)?.into_record().task.state;
        Ok((state, item))
    }

    fn logs_expired(&self, item: &Item) -> bool {
        get_millis(item, "events_expire_at").is_some_and(|at| at <= self.latest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_loses_nothing() {
        let text = "aü日🦀".repeat(100_000);
        let cut = parts(&text);
        assert!(cut.len() > 2 && cut.iter().all(|part| part.len() <= PART_BYTES));
        assert_eq!(cut.concat(), text);
        assert_eq!(parts(""), Vec::<String>::new());
    }
}
