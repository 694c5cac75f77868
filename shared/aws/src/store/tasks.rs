//! Steps 1 and 4 to 10: enqueue, renew, and every other event of a task.

use aws_sdk_dynamodb::types::AttributeValue;
use rdev_domain::ids::TaskId;
use rdev_domain::lease::{Holder, LEASE, Lease, Progress};
use rdev_domain::ports::{
    Advanced, Conflict, Enqueued, PortError, PortResult, Record, Renewal, TaskRecord,
};
use rdev_domain::step::{self, Event, Refusal, step};
use rdev_domain::task::{Task, TaskState};

use super::context::{Change, Context};
use super::counts::{self, Moved};
use super::events::EncodedRecord;
use super::item::{Item, Values, get_flag, get_number, get_text, item, millis, number, text};
use super::queue_entry::{new_entry, place_of};
use super::rows::{Found, Row, new_task, own_refs as own_refs_value, usage as usage_value};
use super::table::pause;
use super::transition::{self, LeaseCondition, subject};
use super::writes::Writes;
use super::{audit, lookup, outbox, projects};
use crate::error;
use crate::schema::Key;

/// How many times an operation is tried that races with another one.
const MAX_RACES: u32 = 5;

/// The most chunks of events in a transaction, whose limit is 4 MB with the diff.
const MAX_CHUNKS: usize = 6;

pub(super) async fn enqueue(change: &Change<'_>, task: &Task) -> PortResult<Enqueued> {
    let context = change.context;
    let (is_ready, ready_values) = is_ready(change, task).await?;
    for race in 1..=MAX_RACES {
        let place = place_of(task, false, change.now);
        let mut writes = context.table.writes();
        let pointer = [("project", text(task.project_id.as_str()))];
        let pointer = writes.put_new(item(Key::pointer(task.id), pointer));
        writes.put_new(new_task(task, place.as_deref(), context.format)?);
        let ready = writes.check(Key::project(&task.project_id), is_ready, ready_values.clone());
        if let Some(place) = &place {
            writes.put(new_entry(task, place));
        }
        counts::write(&mut writes, &task.project_id, Moved::between(None, place.as_deref()));
        let recorded = match task.retry_of {
            Some(old) => match record_retry(change, old, task, &mut writes).await {
                Ok(place) => Some(place),
                // As every store, it says first that the project takes no such task.
                Err(
                    error
                    @ (PortError::Refused(_) | PortError::Conflict(Conflict::ProjectReplaced)),
                ) => {
                    projects::check_takes(context, task).await?;
                    return Err(error);
                }
                Err(error) => return Err(error),
            },
            None => None,
        };
        let id = context.next_id(change.now);
        let (what, project) = (subject(task.id), Some(&task.project_id));
        writes.put(audit::event(change, id, "task.enqueued", what, project)?);
        let wake_up = (task.work.agent(), task.available_at.max(change.now));
        let outbox = outbox::write(change, &mut writes, &task.project_id, &[wake_up]);
        let Err(cancelled) = context.table.transact(writes).await? else {
            context.leases.insert_project(task.id, &task.project_id);
            return Ok(Enqueued { task: task.clone(), outbox });
        };
        if cancelled.failed_at(pointer) {
            let there = cancelled.item(pointer).and_then(|item| get_text(item, "project"));
            if there != Some(task.project_id.as_str()) {
                return Err(Conflict::IdTaken.into());
            }
            let there = lookup::task(context, task.id).await?.map(Row::into_record);
            return match there {
                Some(TaskRecord { task: there, .. }) if there.lineage == task.lineage => {
                    Ok(Enqueued { task: there, outbox: Vec::new() })
                }
                _ => Err(Conflict::IdTaken.into()),
            };
        }
        if cancelled.failed_at(ready) {
            return Err(match cancelled.item(ready) {
                Some(item) if get_text(item, "state") == Some("ready") => {
                    Conflict::ProjectReplaced.into()
                }
                Some(_) => Conflict::ProjectNotReady.into(),
                None => projects::not_found(&task.project_id),
            });
        }
        // The old task has changed meanwhile, or the item of the new task exists without its
        // pointer.
        if recorded.is_none_or(|place| !cancelled.failed_at(place)) {
            return Err(Conflict::IdTaken.into());
        }
        pause(race).await;
    }
    Err(Conflict::Contended.into())
}

/// The condition on the project's item: it is ready, and the one that the task names. A task that
/// was made by a version which wrote no nonce costs a read.
async fn is_ready(change: &Change<'_>, task: &Task) -> PortResult<(&'static str, Values)> {
    let ready = (":ready", text("ready"));
    if !task.project_nonce.is_nil() {
        let nonce = (":nonce", text(task.project_nonce.to_string()));
        return Ok(("#state = :ready AND #lsk = :nonce", vec![ready, nonce]));
    }
    if !projects::get(change.context, &task.project_id).await?.owns_task(task) {
        return Err(Conflict::ProjectReplaced.into());
    }
    Ok(("#state = :ready", vec![ready]))
}

/// Records on a task that it is retried as `new`, and returns the place of that write. Without its
/// record nobody can tell whether it was retried before, so one that has expired is not retried.
async fn record_retry(
    change: &Change<'_>,
    old: TaskId,
    new: &Task,
    writes: &mut Writes,
) -> PortResult<usize> {
    // It is nearly always of the same project, and is tried there first.
    let found = change.context.table.get(Key::task(&new.project_id, old)).await?;
    let found = match found {
        Some(item) => Some(Row::of(&item, None, change.context.format)?),
        None => lookup::task(change.context, old).await?,
    };
    let Row { found, rev, .. } = found.ok_or_else(|| lookup::task_not_found(old))?;
    let record = match found {
        Found::Task(record) => record,
        Found::Corrupt(corrupt) => return Err(Refusal::NotRetryable(corrupt.state).into()),
        Found::Newer(_) => return Err(Refusal::NewerRecord.into()),
    };
    let of_same_project = if record.task.project_nonce.is_nil() {
        projects::get(change.context, &new.project_id).await?.owns_task(&record.task)
    } else {
        record.task.project_nonce == new.project_nonce
    };
    if !of_same_project {
        return Err(Conflict::ProjectReplaced.into());
    }
    let task = step::record_retry(&record.task, new.id, change.now)?;
    let body = change.context.format.encode(&task).map_err(error::defect)?;
    let with = vec![(":body", text(body)), (":rev", number(rev + 1)), (":seen", number(rev))];
    let key = Key::task(&task.project_id, old);
    Ok(writes.update(key, "SET #body = :body, #rev = :rev", "#rev = :seen", with))
}

pub(super) async fn renew(
    change: &Change<'_>,
    id: TaskId,
    holder: &Holder,
    progress: Progress<'_>,
) -> PortResult<Renewal> {
    let context = change.context;
    let Progress { events, usage, own_refs } = progress;
    let log = EncodedRecord::of(&Record { events: events.to_vec(), ..Record::default() })?;
    let mut set = "SET #heartbeat = #heartbeat + :one, #until = :until".to_owned();
    let mut with = holder_values(holder);
    let until = change.now.plus(LEASE);
    with.extend([(":one", number(1)), (":until", millis(until))]);
    if let Some(usage) = &usage {
        set.push_str(", #usage = :usage");
        with.push((":usage", usage_value(usage)?));
    }
    if let Some(own_refs) = own_refs {
        set.push_str(", #refs = :refs");
        with.push((":refs", own_refs_value(own_refs)?));
    }
    let cancel_requested = if log.chunks.is_empty() {
        match context.table.update(Key::lease(id), &set, IS_HOLDER, with).await? {
            Ok(lease) => get_flag(&lease, "cancel"),
            Err(_) => return Err(lost_lease(context, id)),
        }
    } else {
        let renewal = LeaseUpdate { task: id, holder, set: &set, with: &with };
        let cached = context.leases.row(id, holder);
        let cached = cached.and_then(|row| row.into_record().lease);
        let mut cancel = cached.is_some_and(|lease| lease.cancel_requested);
        for chunks in log.chunks.chunks(MAX_CHUNKS) {
            let log = EncodedRecord { chunks: chunks.to_vec(), ..EncodedRecord::default() };
            cancel = renew_with_events(change, &renewal, &log, cancel).await?;
        }
        cancel
    };
    context.leases.update_lease(id, holder, |lease: &mut Lease| {
        lease.heartbeat += 1;
        lease.until = until;
        lease.usage = usage.unwrap_or(lease.usage);
        if let Some(own_refs) = own_refs {
            lease.own_refs = Some(own_refs.to_vec());
        }
        lease.cancel_requested = cancel_requested;
    });
    Ok(Renewal { cancel_requested, until })
}

/// An update of a lease by its holder.
struct LeaseUpdate<'a> {
    task: TaskId,
    holder: &'a Holder,
    set: &'a str,
    with: &'a Values,
}

/// Renews a lease in a transaction with events, and returns the flag `cancel_requested`. A
/// transaction returns no values, so the expected flag is one of its conditions.
async fn renew_with_events(
    change: &Change<'_>,
    renewal: &LeaseUpdate<'_>,
    log: &EncodedRecord,
    mut cancel: bool,
) -> PortResult<bool> {
    let LeaseUpdate { task, holder, set, with } = *renewal;
    // The flag never becomes false again: the second try is the last.
    for _ in 0..3 {
        let mut writes = change.context.table.writes();
        let mut with = with.clone();
        with.push((":cancel", AttributeValue::Bool(cancel)));
        let condition = format!("{IS_HOLDER} AND #cancel = :cancel");
        let lease = writes.update(Key::lease(task), set, &condition, with);
        log.write(change, task, &mut writes);
        let Err(cancelled) = change.context.table.transact(writes).await? else {
            return Ok(cancel);
        };
        match cancelled.item(lease) {
            Some(lease) if is_holder(lease, holder) => cancel = get_flag(lease, "cancel"),
            _ => return Err(lost_lease(change.context, task)),
        }
    }
    Err(Conflict::Contended.into())
}

const IS_HOLDER: &str = "#fence = :fence AND #owner = :owner";

fn holder_values(holder: &Holder) -> Values {
    vec![(":fence", number(holder.fence)), (":owner", text(holder.owner.as_str()))]
}

fn is_holder(lease: &Item, holder: &Holder) -> bool {
    get_number(lease, "fence") == Some(holder.fence.0)
        && get_text(lease, "owner") == Some(holder.owner.as_str())
}

fn lost_lease(context: &Context, id: TaskId) -> PortError {
    context.leases.remove(id);
    Refusal::Stale.into()
}

/// Applies an event. An event for a corrupt task ends the task, and its caller learns that it
/// has ended.
pub(super) async fn advance(
    change: &Change<'_>,
    id: TaskId,
    event: Event,
    mut log: EncodedRecord,
) -> PortResult<Advanced> {
    let context = change.context;
    let holder = holder_of(&event).cloned();
    let condition = match event {
        Event::Recover { .. } => LeaseCondition::LastHeartbeat,
        _ => LeaseCondition::Holder,
    };
    let mut cached = holder.as_ref().and_then(|holder| context.leases.row(id, holder));
    if holder.is_none() {
        context.leases.remove(id);
    }
    for race in 1..=MAX_RACES {
        let from_cache = cached.is_some();
        let mut row = match cached.take() {
            Some(row) => row,
            None => lookup::task(context, id).await?.ok_or_else(|| lookup::task_not_found(id))?,
        };
        if let Found::Task(record) = &mut row.found {
            record.task.shows_status |= log.shows_status;
        }
        let record = match &row.found {
            Found::Task(record) => record,
            Found::Newer(_) => return Err(Refusal::NewerRecord.into()),
            Found::Corrupt(corrupt) if corrupt.state.is_terminal() => {
                return Err(Refusal::Ended(corrupt.state).into());
            }
            Found::Corrupt(corrupt) => match transition::poison(change, &row, corrupt).await? {
                Some(_) => return Err(Refusal::Ended(TaskState::Failed).into()),
                None => continue,
            },
        };
        if matches!(event, Event::Claim { .. }) {
            // Only `claim_next` counts the project's slots in the same transaction.
            return Err(Refusal::WrongState(record.task.state).into());
        }
        let step = match step(&record.task, record.lease.as_ref(), event.clone(), change.now) {
            Ok(step) => step,
            Err(_) if from_cache => continue,
            Err(refusal) => return Err(refusal.into()),
        };
        if log.chunks.len() > MAX_CHUNKS
            && let Some(holder) = &holder
        {
            log = write_ahead(change, id, holder, log).await?;
        }
        if let Some(written) = transition::write(change, &row, step, &log, condition).await? {
            let record = written.row.clone().into_record();
            if holder.is_some() && record.lease.is_some() {
                context.leases.insert(id, written.row);
            } else {
                context.leases.remove(id);
            }
            return Ok(Advanced { task: record.task, lease: record.lease, outbox: written.outbox });
        }
        context.leases.remove(id);
        if !from_cache {
            pause(race).await;
        }
    }
    Err(Conflict::Contended.into())
}

/// Writes the events first that do not fit into the transaction.
async fn write_ahead(
    change: &Change<'_>,
    id: TaskId,
    holder: &Holder,
    log: EncodedRecord,
) -> PortResult<EncodedRecord> {
    let (ahead, rest) = log.chunks.split_at(log.chunks.len() - MAX_CHUNKS);
    for chunks in ahead.chunks(MAX_CHUNKS) {
        let mut writes = change.context.table.writes();
        writes.check(Key::lease(id), IS_HOLDER, holder_values(holder));
        let ahead = EncodedRecord { chunks: chunks.to_vec(), ..EncodedRecord::default() };
        ahead.write(change, id, &mut writes);
        if change.context.table.transact(writes).await?.is_err() {
            return Err(lost_lease(change.context, id));
        }
    }
    Ok(EncodedRecord { chunks: rest.to_vec(), ..log })
}

fn holder_of(event: &Event) -> Option<&Holder> {
    match event {
        Event::Prepare { holder, .. }
        | Event::Finish { holder, .. }
        | Event::Complete { holder, .. }
        | Event::Fail { holder, .. }
        | Event::Release { holder }
        | Event::Restart { holder } => Some(holder),
        Event::Claim { .. } | Event::Cancel | Event::Recover { .. } => None,
    }
}
