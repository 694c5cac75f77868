//! Writing the result of a step of the state machine. Only this module changes a task.
//!
//! All other records follow from the task before and after the step: its queue entry, its lease
//! (which is one of the project's slots), the outbox entries, the audit event, when its commit
//! status is due, and when the task has ended its expiry time and the webhook delivery. All of them are one transaction, on
//! condition that the task is still the one that the step was computed from.

use aws_sdk_dynamodb::types::AttributeValue;
use rdev_domain::ids::TaskId;
use rdev_domain::lease::Lease;
use rdev_domain::ports::{PortResult, TaskRecord};
use rdev_domain::step::Step;
use rdev_domain::task::{Task, TaskState};
use rdev_domain::wake_up::OutboxEntry;
use ulid::Ulid;

use super::context::Change;
use super::counts::{self, Moved};
use super::events::EncodedRecord;
use super::item::{Values, get_text, millis, number, seconds, text};
use super::queue_entry::{new_entry, place_of};
use super::rows::{CorruptTask, Found, Row, lease_part, new_lease, own_refs, usage};
use super::writes::Writes;
use super::{audit, deliveries, item_size, outbox, statuses, turns};
use crate::schema::Key;

/// The condition on the lease that a transaction changes or deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseCondition {
    /// It belongs to the same holder.
    Holder,
    /// It belongs to the same holder, and was not renewed since it was read.
    LastHeartbeat,
    /// There is none, and the task is claimed.
    New {
        /// The project's slots when nothing else of the project was due: with this claim it waits
        /// no more, if they are still the same.
        last_due: Option<LastDue>,
    },
    /// There is none, and the project is being deleted: its queue is counted afterwards.
    Closed,
}

/// A project's slots when the only task that was due in it was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastDue {
    pub(super) rev: u64,
    /// How many tasks were due later.
    pub(super) parked: i64,
}

/// The result of a transaction.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) row: Row,
    pub(super) outbox: Vec<OutboxEntry>,
}

/// Writes `step`, which was computed from `before`, together with `log`. Returns `None` if the
/// task, its lease or the project's slots have changed meanwhile.
pub(super) async fn write(
    change: &Change<'_>,
    before: &Row,
    step: Step,
    log: &EncodedRecord,
    condition: LeaseCondition,
) -> PortResult<Option<Written>> {
    write_all(change, before, step, log, condition, Body::Replaced).await
}

/// What becomes of the body that was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Replaced,
    /// It cannot be read, and stays in an attribute of its own. In one update, because an item has
    /// no room for the body twice.
    Kept,
}

async fn write_all(
    change: &Change<'_>,
    before: &Row,
    step: Step,
    log: &EncodedRecord,
    condition: LeaseCondition,
    old_body: Body,
) -> PortResult<Option<Written>> {
    let Step { mut task, lease, wake_ups, action } = step;
    let body = item_size::encode(&mut task, change.context.format)?;
    let old = before.found.lease();
    let place = place_of(&task, lease.is_some(), change.now);
    let nonce = change.context.next_id(change.now);
    let mut writes = change.context.table.writes();

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

    let new = NewTaskItem { row: &row, record, body, old_body, nonce };
    let place_in_writes = update_task(change, before.rev, new, &mut writes);
    if let Some(place) = &before.place {
        writes.delete(Key::queue_entry(&task.project_id, place), "", vec![]);
    }
    if let Some(place) = &row.place {
        writes.put(new_entry(task, place));
    }
    let was = before.found.state();
    write_lease(&mut writes, was, task, (old, lease), condition)?;
    let moved = Moved::between(before.place.as_deref(), row.place.as_deref());
    write_slots(change, &mut writes, task, (old.is_some(), lease.is_some()), moved, condition);
    let subject = subject(task.id);
    writes.put(audit::event(change, nonce, action, subject, Some(&task.project_id))?);
    if !was.is_terminal() {
        deliveries::create(change, task, &mut writes)?;
    }
    let agent = task.work.agent();
    let wake_ups: Vec<_> = wake_ups.into_iter().map(|at| (agent, at)).collect();
    let outbox = outbox::write(change, &mut writes, &task.project_id, &wake_ups);

    if let Err(cancelled) = change.context.table.transact(writes).await? {
        // After a lost answer, the condition fails because this very transaction was applied.
        let there = cancelled.item(place_in_writes).and_then(|item| get_text(item, "nonce"));
        if there != Some(nonce.to_string().as_str()) {
            return Ok(None);
        }
    }
    Ok(Some(Written { row, outbox }))
}

/// Ends a task whose record is corrupt as `poison`. Nothing is read from its body, which is kept
/// in an attribute of its own. Returns `None` if the task has changed meanwhile.
pub(super) async fn poison(
    change: &Change<'_>,
    before: &Row,
    corrupt: &CorruptTask,
) -> PortResult<Option<Vec<OutboxEntry>>> {
    let mut task = corrupt.rebuild();
    task.state = TaskState::Failed;
    task.updated_at = change.now;
    task.finished_at = Some(change.now);
    tracing::error!(task = %task.id, project = %task.project_id, "a task's record cannot be read");
    let wake_ups = if corrupt.lease.is_some() { vec![change.now] } else { vec![] };
    let step = Step { task, lease: None, wake_ups, action: "task.failed" };
    let log = EncodedRecord::default();
    let written = write_all(change, before, step, &log, LeaseCondition::Holder, Body::Kept).await?;
    Ok(written.map(|written| written.outbox))
}

/// The name of a task in the audit log.
pub(super) fn subject(id: TaskId) -> String {
    format!("task/{id}")
}

/// The new content of a task's item.
struct NewTaskItem<'a> {
    row: &'a Row,
    record: &'a TaskRecord,
    body: String,
    old_body: Body,
    /// Recognises this transaction after a lost answer.
    nonce: Ulid,
}

fn update_task(change: &Change<'_>, seen: u64, new: NewTaskItem<'_>, writes: &mut Writes) -> usize {
    let NewTaskItem { row, record: TaskRecord { task, lease }, body, old_body, nonce } = new;
    let mut set = "SET #body = :body, #rev = :rev, #nonce = :nonce, #state = :state, \
                   #available_at = :available_at"
        .to_owned();
    if old_body == Body::Kept {
        // The right sides of an update are evaluated before it.
        set.push_str(", #unreadable = if_not_exists(#unreadable, #body)");
    }
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
    let due_at = statuses::due_at(task);
    optional("dpk", ":dpk", due_at.map(|_| text(statuses::part(task.id))));
    optional("dsk", ":dsk", due_at.map(|at| text(statuses::place(task.id, at))));
    let ended = task.state.is_terminal();
    let retention = &change.context.retention;
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
    (before, after): (Option<&Lease>, Option<&Lease>),
    condition: LeaseCondition,
) -> PortResult<()> {
    const SAME_HOLDER: &str = "#fence = :fence AND #owner = :owner";
    let holder = |lease: &Lease| -> Values {
        vec![(":fence", number(lease.fence)), (":owner", text(lease.owner.as_str()))]
    };
    match (before, after) {
        (None, Some(lease)) => {
            writes.put_new(new_lease(task, lease)?);
        }
        (Some(before), Some(lease)) => {
            let (mut set, mut with) = (Vec::new(), holder(before));
            if before.cancel_requested != lease.cancel_requested {
                set.push("#cancel = :cancel");
                with.push((":cancel", AttributeValue::Bool(lease.cancel_requested)));
            }
            if before.usage != lease.usage {
                set.push("#usage = :usage");
                with.push((":usage", usage(&lease.usage)?));
            }
            if let Some(refs) =
                lease.own_refs.as_ref().filter(|_| before.own_refs != lease.own_refs)
            {
                set.push("#refs = :refs");
                with.push((":refs", own_refs(refs)?));
            }
            if was != task.state {
                set.push("#dpk = :part");
                with.push((":part", text(lease_part(task.state, task.id))));
            }
            if !set.is_empty() {
                let set = format!("SET {}", set.join(", "));
                writes.update(Key::lease(task.id), &set, SAME_HOLDER, with);
            }
        }
        (Some(lease), None) => {
            let mut with = holder(lease);
            let mut expression = SAME_HOLDER.to_owned();
            if condition == LeaseCondition::LastHeartbeat {
                expression.push_str(" AND #heartbeat = :heartbeat");
                with.push((":heartbeat", number(lease.heartbeat)));
            }
            writes.delete(Key::lease(task.id), &expression, with);
        }
        (None, None) => {}
    }
    Ok(())
}

/// Takes or frees a slot of the project, counts its queue, and keeps its turn.
fn write_slots(
    change: &Change<'_>,
    writes: &mut Writes,
    task: &Task,
    (was_leased, is_leased): (bool, bool),
    moved: Moved,
    condition: LeaseCondition,
) {
    let project = &task.project_id;
    let slot = AttributeValue::Ss(vec![task.id.to_string()]);
    let last_due = match condition {
        LeaseCondition::New { last_due } if is_leased && !was_leased => last_due,
        _ => None,
    };
    // Nothing is left in the due part then, whatever was counted.
    let counted = if last_due.is_some() { moved.without_queued() } else { moved };
    let (mut set, mut add, mut with) = counted.update(project, is_leased);
    add.push("#rev :one");
    with.push((":one", number(1)));
    match (was_leased, is_leased) {
        (false, true) => {
            // The condition is the number of slots and not the rev that was read, so that claims
            // of other tasks do not cancel this one.
            let mut condition_on = "attribute_exists(#limit) AND attribute_not_exists(#closed) \
                 AND (attribute_not_exists(#held) OR size(#held) < #limit)"
                .to_owned();
            set.extend(["#served = :served", "#dsk = :place"]);
            add.push("#held :task");
            with.push((":task", slot));
            with.push((":served", millis(change.now)));
            with.push((":place", text(turns::place(Some(change.now), project))));
            let mut leave = "";
            if let Some(seen) = last_due {
                set.push("#queued = :none");
                with.push((":none", number(0)));
                leave = turns::leave(seen.parked + moved.parked, &mut with);
                condition_on.push_str(" AND #rev = :seen");
                with.push((":seen", number(seen.rev)));
            }
            let update = format!("ADD {} SET {}{leave}", add.join(", "), set.join(", "));
            writes.update(Key::slots(project), &update, &condition_on, with);
        }
        (true, false) => {
            let mut update = format!("DELETE #held :task ADD {}", add.join(", "));
            with.push((":task", slot));
            if !set.is_empty() {
                update.push_str(&format!(" SET {}", set.join(", ")));
            }
            writes.update(Key::slots(project), &update, "", with);
        }
        (false, false) if condition != LeaseCondition::Closed => {
            counts::write(writes, project, moved);
        }
        (false, false) | (true, true) => {}
    }
}
