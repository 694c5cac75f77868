//! A task's events and its diff. Both may be too large for one item, and are stored in parts.

use rdev_domain::event::BuildEvent;
use rdev_domain::ids::TaskId;
use rdev_domain::ports::{EventPage, PortResult, Record};
use rdev_domain::task::TaskState;

use super::context::{Change, Context};
use super::item::{Item, body, corrupt, expired, get_millis, get_text, item, seconds, text};
use super::lookup;
use super::rows::{Diff, Row};
use super::table::Query;
use super::writes::Writes;
use crate::error;
use crate::schema::{EXPIRES_AT, Key, events_above, task_partition};

/// The most bytes of one part: an item has at most 400 KB, keys included.
const PART_BYTES: usize = 350 * 1024;

/// How much longer than the retention a part is kept: when it is written, the end of its task
/// is not known. Readers use the expiry time of the task itself.
const UNFINISHED: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 60 * 60);

/// The most chunks of events that one query reads.
const MAX_CHUNKS: u32 = 8;

/// Events and a diff, encoded as the parts that are written.
#[derive(Debug, Clone, Default)]
pub(super) struct EncodedRecord {
    /// Chunks of events, each with the `seq` of its last event.
    pub(super) chunks: Vec<(u64, String)>,
    pub(super) diff: Option<Vec<String>>,
    /// See [`Record::shows_status`].
    pub(super) shows_status: bool,
}

impl EncodedRecord {
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
        let diff = record.diff.as_deref().map(parts);
        Ok(Self { chunks, diff, shows_status: record.shows_status })
    }

    /// Adds the events to a transaction. A chunk that exists is written again: the caller did
    /// not get the first answer.
    pub(super) fn write(&self, change: &Change<'_>, task: TaskId, writes: &mut Writes) {
        for (last, chunk) in &self.chunks {
            writes.put(part(change, Key::events(task, *last), chunk));
        }
    }

    /// Adds the diff to a transaction, as this version. The version before is deleted.
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
    if let Some(at) = change.context.retention.events_expire_at(change.now) {
        item.insert(EXPIRES_AT.to_owned(), seconds(at.plus(UNFINISHED)));
    }
    item
}

/// Splits a text into parts.
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

pub(super) async fn list(
    context: &Context,
    task: TaskId,
    after: u64,
    limit: u32,
) -> PortResult<EventPage> {
    let limit = limit as usize;
    let (state, item) = state_of(context, task).await?;
    let mut events = Vec::<BuildEvent>::new();
    let mut last = None;
    while !log_expired(context, &item) {
        let found = context
            .table
            .query(Query {
                keys: "#pk = :pk AND #sk BETWEEN :after AND :end",
                with: vec![
                    (":pk", text(task_partition(task))),
                    (":after", text(events_above(after.saturating_add(1)))),
                    (":end", text("E$")),
                ],
                limit: Some(MAX_CHUNKS),
                after: last,
                ..Query::default()
            })
            .await?;
        for chunk in &found.items {
            let above = events.last().map_or(after, |event| event.seq);
            let chunk: Vec<BuildEvent> = body(chunk)?;
            // A chunk that was sent again may begin before the end of the previous one.
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

pub(super) async fn diff(context: &Context, task: TaskId) -> PortResult<Option<String>> {
    let (_, item) = state_of(context, task).await?;
    let row = Row::of(&item, None, context.format)?;
    let Some(Diff { version, parts }) = row.diff else { return Ok(None) };
    if log_expired(context, &item) {
        return Ok(None);
    }
    let keys = (0..parts).map(|n| Key::diff(task, version, n)).collect();
    let mut found = context.table.get_all(keys).await?;
    if found.len() < parts as usize {
        // It was replaced between the two reads, or deleted before its task.
        return Ok(None);
    }
    found.sort_by(|a, b| get_text(a, "sk").cmp(&get_text(b, "sk")));
    let mut diff = String::new();
    for part in &found {
        diff.push_str(get_text(part, "body").ok_or_else(|| corrupt(part))?);
    }
    Ok(Some(diff))
}

/// A task's state, and its item.
async fn state_of(context: &Context, id: TaskId) -> PortResult<(TaskState, Item)> {
    let project =
        lookup::project_of(context, id).await?.ok_or_else(|| lookup::task_not_found(id))?;
    let item = context
        .table
        .get(Key::task(&project, id))
        .await?
        .ok_or_else(|| lookup::task_not_found(id))?;
    if expired(&item, context.latest()) {
        return Err(lookup::task_not_found(id));
    }
    let state = Row::of(&item, None, context.format)?.into_record().task.state;
    Ok((state, item))
}

fn log_expired(context: &Context, item: &Item) -> bool {
    get_millis(item, "events_expire_at").is_some_and(|at| at <= context.latest())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_split_between_characters_without_loss() {
        let text = "aü日🦀".repeat(100_000);
        let split = parts(&text);
        assert!(split.len() > 2 && split.iter().all(|part| part.len() <= PART_BYTES));
        assert_eq!(split.concat(), text);
        assert_eq!(parts(""), Vec::<String>::new());
    }
}
