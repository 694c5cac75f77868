//! Writing what a step of the state machine returns: the only place that changes a task.
//!
//! Everything beside the task follows from the record before and after: the queue entry it
//! leaves and the one it enters, the lease that appears (a slot taken), changes or goes (a
//! slot freed), the outbox entries, the audit event, and when it ends the time it expires and the
//! message to the project's webhook. All of it is one transaction, under the condition that the task is still what the step was made from.

use aws_sdk_dynamodb::types::AttributeValue;
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::lease::Lease;
use rdev_domain::ports::{PortResult, TaskRecord};
use rdev_domain::step::Step;
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use ulid::Ulid;

use super::events::Encoded;
use super::fit::fitted;
use super::item::{Item, Values, get_text, item, millis, number, seconds, text};
use super::rows::{Found, Row, Unreadable, lease_part, new_entry, new_lease, place_of, usage};
use super::writes::Writes;
use super::{Change, audit, deliveries};
use crate::schema::Key;

/// What a transaction has written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) row: Row,
    pub(super) outbox: Vec<OutboxEntry>,
}

/// Writes `step`, which was made from `before`, and `log` with it. `None` where the task, its
/// lease or the project's slots are no longer what they were.
///
/// A recoverer must have seen the holder's last heartbeat: `silent`.
pub(super) async fn write(
    change: &Change<'_>,
    before: &Row,
    step: Step,
    log: &Encoded,
    silent: bool,
) -> PortResult<Option<Written>> {
    let Step { mut task, lease, wake_ups, action } = step;
    let body = fitted(&mut task)?;
    let old = match &before.found {
        Found::Task(record) => record.lease.as_ref(),
        Found::Unreadable(unreadable) => unreadable.lease.as_ref(),
    };
    let place = place_of(&task, lease.is_some(), change.now);
    let nonce = change.store.next_id(change.now);
    let mut writes = Writes::new(&change.store.table);

    let mut row = Row {
        found: Found::Task(Box::new(TaskRecord { task, lease })),
        rev: before.rev + 1,
        place,
        diff: before.diff,
        expires_at: None,
    };
    let Found::Task(record) = &row.found else { return Ok(None) };
    let (task, lease) = (&record.task, record.lease.as_ref());
    row.diff = log.write_diff(change, task.id, before.diff, row.rev, &mut writes);
    log.write(change, task.id, &mut writes);

    let place_in_writes = update_task(change, before.rev, &row, record, (body, nonce), &mut writes);
    if let Some(place) = &before.place {
        writes.delete(Key::entry(&task.project_id, place), "", vec![]);
    }
    if let Some(place) = &row.place {
        writes.put(new_entry(task, place));
    }
    let was = match &before.found {
        Found::Task(record) => record.task.state,
        Found::Unreadable(unreadable) => unreadable.state,
    };
    write_lease(&mut writes, was, task, old, lease, silent)?;
    let subject = subject(task.id);
    writes.put(audit::event(change, nonce, action, subject, Some(&task.project_id))?);
    if !was.is_terminal() {
        deliveries::announce(change, task, &mut writes)?;
    }
    let outbox = write_outbox(change, &mut writes, &task.project_id, &wake_ups);

    if let Err(lost) = change.store.transact(writes).await? {
        // An answer that was lost: it is this very transaction that is in its way.
        let there = lost.item(place_in_writes).and_then(|item| get_text(item, "nonce"));
        if there != Some(nonce.to_string().as_str()) {
            return Ok(None);
        }
    }
    Ok(Some(Written { row, outbox }))
}

/// Ends a task that cannot be read as `poison`: a raw write that asks nothing of its body,
/// which is kept aside. `None` where somebody else has changed it.
pub(super) async fn poison(
    change: &Change<'_>,
    before: &Row,
    unreadable: &Unreadable,
) -> PortResult<Option<Vec<OutboxEntry>>> {
    let mut task = unreadable.rebuild();
    task.state = TaskState::Failed;
    task.updated_at = change.now;
    task.finished_at = Some(change.now);
    tracing::error!(task = %task.id, project = %task.project_id, "a task's record cannot be read");
    let mut writes = Writes::new(&change.store.table);
    let aside = Key::task(&task.project_id, task.id);
    // The right sides see the item as it was.
    writes.update(
        aside,
        "SET #unreadable = if_not_exists(#unreadable, #body), #rev = :rev",
        "#rev = :seen",
        vec![(":rev", number(before.rev + 1)), (":seen", number(before.rev))],
    );
    if change.store.transact(writes).await?.is_err() {
        return Ok(None);
    }
    let before = Row { rev: before.rev + 1, ..before.clone() };
    let wake_ups = if unreadable.lease.is_some() { vec![change.now] } else { vec![] };
    let step = Step { task, lease: None, wake_ups, action: "task.failed" };
    let written = write(change, &before, step, &Encoded::default(), false).await?;
    Ok(written.map(|written| written.outbox))
}

/// What the audit log calls a task.
pub(super) fn subject(id: TaskId) -> String {
    format!("task/{id}")
}

fn update_task(
    change: &Change<'_>,
    seen: u64,
    row: &Row,
    record: &TaskRecord,
    (body, nonce): (String, Ulid),
    writes: &mut Writes,
) -> usize {
    let TaskRecord { task, lease } = record;
    let mut set = "SET #body = :body, #rev = :rev, #nonce = :nonce, #state = :state, \
                   #available_at = :available_at"
        .to_owned();
    let mut remove = Vec::new();
    let mut with: Values = vec![
        (":seen", number(seen)),
        (":body", text(body)),
        (":rev", number(row.rev)),
        (":nonce", text(nonce.to_string())),
        (":state", text(task.state.as_str())),
        (":available_at", millis(task.available_at)),
    ];
    let mut optional = |name: &str, holder: &'static str, value: Option<AttributeValue>| match value
    {
        Some(value) => {
            set.push_str(&format!(", #{name} = {holder}"));
            with.push((holder, value));
        }
        None => remove.push(format!("#{name}")),
    };
    optional("held", ":held", lease.as_ref().map(|lease| number(lease.fence)));
    optional("place", ":place", row.place.as_deref().map(text));
    optional("diff", ":diff", row.diff.map(|diff| text(diff.write())));
    let ended = task.state.is_terminal();
    let retention = &change.store.retention;
    let expires_at = ended.then(|| retention.task_expires_at(task, change.now)).flatten();
    let events = ended.then(|| retention.events_expire_at(change.now)).flatten();
    // Events do not outlive their task.
    let events = match (expires_at, events) {
        (Some(task), Some(events)) => Some(task.min(events)),
        (task, events) => task.or(events),
    };
    optional("expires_at", ":expires_at", expires_at.map(seconds));
    optional("events_expire_at", ":events_expire_at", events.map(millis));
    if !remove.is_empty() {
        set.push_str(" REMOVE ");
        set.push_str(&remove.join(", "));
    }
    let key = Key::task(&task.project_id, task.id);
    let place = writes.update(key, &set, "#rev = :seen", with);
    if let Some(at) = expires_at {
        let with = vec![(":at", seconds(at))];
        writes.update(Key::pointer(task.id), "SET #expires_at = :at", "", with);
    }
    place
}

fn write_lease(
    writes: &mut Writes,
    was: TaskState,
    task: &Task,
    before: Option<&Lease>,
    after: Option<&Lease>,
    silent: bool,
) -> PortResult<()> {
    const HELD: &str = "#fence = :fence AND #owner = :owner";
    let held = |lease: &Lease| -> Values {
        vec![(":fence", number(lease.fence)), (":owner", text(lease.owner.as_str()))]
    };
    let slot = || AttributeValue::Ss(vec![task.id.to_string()]);
    match (before, after) {
        (None, Some(lease)) => {
            writes.put_new(new_lease(task, lease)?);
            // Their number, and not that it was read, is the condition: claims of other tasks
            // do not disturb this one.
            writes.update(
                Key::slots(&task.project_id),
                "ADD #held :task, #rev :one",
                "attribute_exists(#limit) AND attribute_not_exists(#closed) \
                 AND (attribute_not_exists(#held) OR size(#held) < #limit)",
                vec![(":task", slot()), (":one", number(1))],
            );
        }
        (Some(before), Some(lease)) => {
            let (mut set, mut with) = (Vec::new(), held(before));
            if before.cancel_requested != lease.cancel_requested {
                set.push("#cancel = :cancel");
                with.push((":cancel", AttributeValue::Bool(lease.cancel_requested)));
            }
            if before.usage != lease.usage {
                set.push("#usage = :usage");
                with.push((":usage", usage(&lease.usage)?));
            }
            if was != task.state {
                set.push("#dpk = :part");
                with.push((":part", text(lease_part(task.state, task.id))));
            }
            if !set.is_empty() {
                let set = format!("SET {}", set.join(", "));
                writes.update(Key::lease(task.id), &set, HELD, with);
            }
        }
        (Some(lease), None) => {
            let mut with = held(lease);
            let mut condition = HELD.to_owned();
            if silent {
                condition.push_str(" AND #heartbeat = :heartbeat");
                with.push((":heartbeat", number(lease.heartbeat)));
            }
            writes.delete(Key::lease(task.id), &condition, with);
            writes.update(
                Key::slots(&task.project_id),
                "DELETE #held :task ADD #rev :one",
                "",
                vec![(":task", slot()), (":one", number(1))],
            );
        }
        (None, None) => {}
    }
    Ok(())
}

/// Writes an outbox entry for each time at which the project is to be woken.
pub(super) fn write_outbox(
    change: &Change<'_>,
    writes: &mut Writes,
    project: &ProjectId,
    times: &[Timestamp],
) -> Vec<OutboxEntry> {
    let outbox = new_outbox_entries(project, times);
    for entry in &outbox {
        writes.put(outbox_item(entry));
    }
    let local = |entry: OutboxEntry| OutboxEntry {
        send_at: change.store.clock.local(entry.send_at),
        ..entry
    };
    outbox.into_iter().map(local).collect()
}

/// Outbox entries whose ids are in the order of their times.
fn new_outbox_entries(project: &ProjectId, times: &[Timestamp]) -> Vec<OutboxEntry> {
    let entry = |&send_at: &Timestamp| {
        let id = Ulid::from_parts(ulid_time(send_at), Ulid::generate().random());
        OutboxEntry { id, project_id: project.clone(), send_at }
    };
    times.iter().map(entry).collect()
}

fn outbox_item(entry: &OutboxEntry) -> Item {
    let project = text(entry.project_id.as_str());
    item(Key::outbox_entry(entry), [("project", project), ("send_at", millis(entry.send_at))])
}

/// A time as ULIDs have it.
pub(super) fn ulid_time(at: Timestamp) -> u64 {
    const LATEST: i64 = (1 << 48) - 1;
    u64::try_from(at.as_millis().clamp(0, LATEST)).unwrap_or(0)
}
