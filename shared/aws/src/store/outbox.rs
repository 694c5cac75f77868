//! The outbox: wake-ups that are to be sent, written in the transaction that makes them
//! necessary.

use std::time::Duration;

use rdev_domain::ids::ProjectId;
use rdev_domain::ports::PortResult;
use rdev_domain::spec::AgentName;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use ulid::Ulid;

use super::context::{Change, Context};
use super::item::{Item, get_millis, get_text, item, key_of, millis, text, ulid_time};
use super::table::Query;
use super::writes::Writes;
use crate::schema::Key;

/// The process that wrote an outbox entry this old will not send it.
const OVERDUE_AFTER: Duration = Duration::from_secs(30);

/// Adds to the writes an outbox entry for each agent of the project that is to be woken, and when.
pub(super) fn write(
    change: &Change<'_>,
    writes: &mut Writes,
    project: &ProjectId,
    wanted: &[(Option<AgentName>, Timestamp)],
) -> Vec<OutboxEntry> {
    let outbox = new_entries(project, wanted);
    for entry in &outbox {
        writes.put(entry_item(entry));
    }
    let local = |entry: OutboxEntry| OutboxEntry {
        send_at: change.context.clock.local(entry.send_at),
        ..entry
    };
    outbox.into_iter().map(local).collect()
}

/// Entries whose ids are in the order of their times.
fn new_entries(project: &ProjectId, wanted: &[(Option<AgentName>, Timestamp)]) -> Vec<OutboxEntry> {
    let entry = |&(agent, send_at): &(Option<AgentName>, Timestamp)| {
        let id = Ulid::from_parts(ulid_time(send_at), Ulid::generate().random());
        OutboxEntry { id, project_id: project.clone(), agent, send_at }
    };
    wanted.iter().map(entry).collect()
}

fn entry_item(entry: &OutboxEntry) -> Item {
    let project = text(entry.project_id.as_str());
    let values = [("project", project), ("send_at", millis(entry.send_at))];
    let mut item = item(Key::outbox_entry(entry), values);
    if let Some(agent) = entry.agent {
        item.insert("agent".to_owned(), text(agent.as_str()));
    }
    item
}

pub(super) async fn delete(context: &Context, outbox: &[OutboxEntry]) -> PortResult<()> {
    context.table.delete_all(outbox.iter().map(Key::outbox_entry).collect()).await
}

/// The first `limit` entries of a shard that their writers should have sent by now, and whether
/// there may be more.
pub(super) async fn overdue(
    change: &Change<'_>,
    shard: u128,
    limit: usize,
) -> PortResult<(Vec<OutboxEntry>, bool)> {
    // Ids begin with the time to send: those below the next millisecond are due.
    let until = change.now.minus(OVERDUE_AFTER).plus(Duration::from_millis(1));
    let query = Query {
        keys: "#pk = :pk AND #sk < :until",
        with: vec![
            (":pk", text(format!("O#{shard}"))),
            (":until", text(Ulid::from_parts(ulid_time(until), 0).to_string())),
        ],
        limit: Some(u32::try_from(limit).unwrap_or(u32::MAX)),
        ..Query::default()
    };
    let found = change.context.table.query(query).await?;
    let mut outbox = Vec::with_capacity(found.items.len());
    let mut unreadable = Vec::new();
    for item in &found.items {
        let read = || {
            Some(OutboxEntry {
                id: Ulid::from_string(get_text(item, "sk")?).ok()?,
                project_id: get_text(item, "project")?.parse().ok()?,
                agent: get_text(item, "agent").and_then(|agent| agent.parse().ok()),
                send_at: change.context.clock.local(get_millis(item, "send_at")?),
            })
        };
        match read() {
            Some(entry) => outbox.push(entry),
            None => {
                // It names no project that could be woken.
                let Key { pk, sk } = key_of(item);
                tracing::error!(pk, sk, "an outbox entry cannot be read and is deleted");
                unreadable.push(Key { pk, sk });
            }
        }
    }
    change.context.table.delete_all(unreadable).await?;
    Ok((outbox, found.last.is_some()))
}
