//! A task's events and its diff.

use rdev_domain::event::{BuildEvent, EventKind};
use rdev_domain::ids::TaskId;
use rdev_domain::ports::EventPage;
use rdev_domain::task::TaskState;
use rdev_domain::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};

use super::rows::{self, blob, signed, unsigned};
use crate::error::Error;

/// Events, encoded before they are sent to the writing thread.
pub(super) struct EncodedEvents(Vec<(i64, i64, EventKind, String)>);

impl EncodedEvents {
    pub(super) fn of(events: &[BuildEvent]) -> Self {
        let encode = |event: &BuildEvent| {
            (signed(event.seq), event.at.as_millis(), event.kind, event.data.to_string())
        };
        Self(events.iter().map(encode).collect())
    }
}

/// Adds events. Skips those that exist: the caller has sent them again because it did not
/// get the first answer.
pub(super) fn write(conn: &Connection, task: TaskId, events: &EncodedEvents) -> Result<(), Error> {
    if events.0.is_empty() {
        return Ok(());
    }
    let mut insert = conn.prepare_cached(
        "INSERT INTO events (task, seq, at, kind, data) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (task, seq) DO NOTHING",
    )?;
    for (seq, at, kind, data) in &events.0 {
        insert.execute(params![blob(task.0), seq, at, kind.as_str(), data])?;
    }
    Ok(())
}

/// Sets a task's diff; a later one replaces it.
pub(super) fn write_diff(conn: &Connection, task: TaskId, diff: &str) -> Result<(), Error> {
    conn.prepare_cached(
        "INSERT INTO diffs (task, diff) VALUES (?1, ?2)
         ON CONFLICT (task) DO UPDATE SET diff = excluded.diff",
    )?
    .execute(params![blob(task.0), diff])?;
    Ok(())
}

pub(super) fn list(
    conn: &Connection,
    task: TaskId,
    after: u64,
    limit: u32,
    latest: Timestamp,
) -> Result<EventPage, Error> {
    let snapshot = conn.unchecked_transaction()?;
    let (state, expired) = state_of(&snapshot, task, latest)?;
    let mut events = Vec::new();
    if !expired {
        let mut page = snapshot.prepare_cached(
            "SELECT seq, at, kind, data FROM events WHERE task = ?1 AND seq > ?2
             ORDER BY seq LIMIT ?3",
        )?;
        let page = page.query_map(params![blob(task.0), signed(after), limit], |row| {
            Ok(BuildEvent {
                seq: unsigned(row.get(0)?),
                at: Timestamp::from_millis(row.get(1)?),
                kind: kind(row.get_ref(2)?.as_str()?).map_err(|error| {
                    rusqlite::Error::FromSqlConversionFailure(
                        2,
                        rusqlite::types::Type::Text,
                        Box::new(error),
                    )
                })?,
                data: rows::body(row, 3)?,
            })
        })?;
        for event in page {
            events.push(event?);
        }
    }
    snapshot.commit()?;
    Ok(EventPage { events, state })
}

pub(super) fn diff(
    conn: &Connection,
    task: TaskId,
    latest: Timestamp,
) -> Result<Option<String>, Error> {
    let snapshot = conn.unchecked_transaction()?;
    let (_, expired) = state_of(&snapshot, task, latest)?;
    let diff = if expired {
        None
    } else {
        snapshot
            .prepare_cached("SELECT diff FROM diffs WHERE task = ?1")?
            .query_row([blob(task.0)], |row| row.get(0))
            .optional()?
    };
    snapshot.commit()?;
    Ok(diff)
}

/// A task's state, and whether its events and diff have expired.
fn state_of(
    conn: &Connection,
    task: TaskId,
    latest: Timestamp,
) -> Result<(TaskState, bool), Error> {
    let mut one = conn.prepare_cached(
        "SELECT state, events_expire_at IS NOT NULL AND events_expire_at <= ?2 FROM tasks
         WHERE id = ?1 AND (expires_at IS NULL OR expires_at > ?2)",
    )?;
    let found = one
        .query_row(params![blob(task.0), latest.as_millis()], |row| {
            Ok((rows::state(row, 0)?, row.get(1)?))
        })
        .optional()?;
    found.ok_or_else(|| rows::task_not_found(task).into())
}

fn kind(text: &str) -> Result<EventKind, ValueError> {
    let text: StrDeserializer<'_, ValueError> = text.into_deserializer();
    EventKind::deserialize(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_event_reads_back_as_it_is_written() {
        for written in [
            EventKind::State,
            EventKind::Phase,
            EventKind::AgentText,
            EventKind::AgentToolUse,
            EventKind::AgentToolResult,
            EventKind::AgentUsage,
            EventKind::Log,
        ] {
            assert_eq!(kind(written.as_str()), Ok(written));
        }
        assert!(kind("agent.thought").is_err());
    }
}
