//! The event log of one claim: events wait here until a renewal or the settlement writes them.

use std::sync::Mutex;

use rdev_domain::event::{BuildEvent, EventKind, seq};
use rdev_domain::ids::Fence;
use rdev_domain::time::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// The largest write, in bytes of JSON: below the limit of a DynamoDB item.
const CHUNK_BYTES: usize = 300 * 1024;

/// The largest event, in bytes of JSON.
const EVENT_BYTES: usize = 64 * 1024;

/// Collects the events of one claim, numbered and capped.
#[derive(Debug)]
pub(crate) struct EventLog {
    fence: Fence,
    max_bytes: usize,
    inner: Mutex<Inner>,
    /// Notified when there is something to write.
    pub(crate) added: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    bytes: usize,
    full: bool,
    waiting: Vec<(usize, BuildEvent)>,
}

impl EventLog {
    /// An empty log for the claim with `fence`, of at most `max_bytes` in all.
    pub(crate) fn new(fence: Fence, max_bytes: usize) -> Self {
        Self { fence, max_bytes, inner: Mutex::default(), added: Notify::new() }
    }

    /// Adds an event. Past the cap it adds one last note and drops the rest.
    pub(crate) fn add(&self, kind: EventKind, data: Value, now: Timestamp) {
        let mut inner = self.lock();
        if inner.full {
            return;
        }
        let (kind, data) = if inner.bytes > self.max_bytes {
            inner.full = true;
            let text = "the log is full; what follows is not kept";
            (EventKind::Log, json!({"stream": "rdev", "text": text}))
        } else {
            (kind, capped(data))
        };
        let bytes = data.to_string().len() + 80;
        let event = BuildEvent { seq: seq(self.fence, inner.next), at: now, kind, data };
        inner.next += 1;
        inner.bytes += bytes;
        inner.waiting.push((bytes, event));
        drop(inner);
        self.added.notify_one();
    }

    /// Adds a line for people, from rdev itself.
    pub(crate) fn note(&self, text: &str, now: Timestamp) {
        self.add(EventKind::Log, json!({"stream": "rdev", "text": text}), now);
    }

    /// Removes and returns the events of the next write, oldest first.
    pub(crate) fn take_chunk(&self) -> Vec<BuildEvent> {
        let mut inner = self.lock();
        let mut bytes = 0;
        let fit = inner.waiting.iter().take_while(|(size, _)| {
            bytes += size;
            bytes <= CHUNK_BYTES
        });
        let count = fit.count().max(usize::from(!inner.waiting.is_empty()));
        inner.waiting.drain(..count).map(|(_, event)| event).collect()
    }

    /// Puts back the events of a write that failed.
    pub(crate) fn put_back(&self, events: Vec<BuildEvent>) {
        let mut inner = self.lock();
        let again = events.into_iter().map(|event| (event.data.to_string().len() + 80, event));
        inner.waiting.splice(0..0, again);
    }

    /// Whether no event waits to be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the list whole: each change is one push or drain.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Cuts the texts of an event that is too large.
fn capped(data: Value) -> Value {
    if data.to_string().len() <= EVENT_BYTES {
        return data;
    }
    let mut data = data;
    let strings = count_strings(&data).max(1);
    cut_strings(&mut data, EVENT_BYTES / 4 / strings);
    match data {
        Value::Object(mut fields)
            if serde_json::to_string(&fields).is_ok_and(|s| s.len() <= EVENT_BYTES) =>
        {
            fields.insert("truncated".to_owned(), Value::Bool(true));
            Value::Object(fields)
        }
        _ => json!({"truncated": true}),
    }
}

fn count_strings(data: &Value) -> usize {
    match data {
        Value::String(_) => 1,
        Value::Array(items) => items.iter().map(count_strings).sum(),
        Value::Object(fields) => fields.values().map(count_strings).sum(),
        _ => 0,
    }
}

fn cut_strings(data: &mut Value, limit: usize) {
    match data {
        Value::String(text) if text.len() > limit => {
            let cut = text.floor_char_boundary(limit);
            text.truncate(cut);
            text.push('…');
        }
        Value::Array(items) => items.iter_mut().for_each(|item| cut_strings(item, limit)),
        Value::Object(fields) => fields.values_mut().for_each(|item| cut_strings(item, limit)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(max_bytes: usize) -> EventLog {
        EventLog::new(Fence(2), max_bytes)
    }

    #[test]
    fn events_are_numbered_by_claim_and_keep_their_order_when_a_write_fails() {
        let (log, now) = (log(1 << 20), Timestamp::from_millis(0));
        for n in 0..3 {
            log.note(&n.to_string(), now);
        }
        let chunk = log.take_chunk();
        log.note("3", now);
        log.put_back(chunk);
        let seqs: Vec<u64> = log.take_chunk().iter().map(|event| event.seq).collect();
        assert_eq!(seqs, [2_000_000, 2_000_001, 2_000_002, 2_000_003]);
        assert!(log.is_empty());
    }

    #[test]
    fn a_flood_ends_with_one_note_and_a_large_event_is_cut() {
        let (log, now) = (log(100_000), Timestamp::from_millis(0));
        for _ in 0..1000 {
            log.note(&"x".repeat(200_000), now);
        }
        let mut events = Vec::new();
        while !log.is_empty() {
            events.extend(log.take_chunk());
        }
        assert!(events.iter().all(|event| event.data.to_string().len() <= EVENT_BYTES + 40));
        assert_eq!(
            events.last().map(|e| e.data["text"].as_str()),
            Some(Some("the log is full; what follows is not kept"))
        );
        assert!(events.len() < 20, "{}", events.len());
    }
}
