//! Steps 1 and 4 to 10: enqueue, renew, and every other event of a task.

use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::lease::{Holder, LEASE, Lease};
use rdev_domain::ports::{
    Advanced, Conflict, Enqueued, PortError, PortResult, Renewal, TaskRecord,
};
use rdev_domain::result::Usage;
use rdev_domain::step::{Event, Refusal, step};
use rdev_domain::task::{Task, TaskState};

use super::calls::pause;
use super::events::Encoded;
use super::item::{Item, Values, get_flag, get_number, get_text, item, millis, number, text};
use super::rows::{self, Found, Row, new_entry, new_task, place_of, usage as usage_value};
use super::transition::{self, subject, write_outbox};
use super::writes::Writes;
use super::{Change, DynamoStore, audit, projects};
use crate::error;
use crate::schema::Key;
use aws_sdk_dynamodb::types::AttributeValue;

/// How often a lost race is run again before the caller is told.
const RACES: u32 = 5;

/// The chunks of events that one transaction takes beside a diff, of its 4 MB.
const CHUNKS: usize = 6;

pub(super) async fn enqueue(change: &Change<'_>, task: &Task) -> PortResult<Enqueued> {
    let store = change.store;
    for race in 1..=RACES {
        let place = place_of(task, false, change.now);
        let mut writes = Writes::new(&store.table);
        let pointer = [("project", text(task.project_id.as_str()))];
        let pointer = writes.put_new(item(Key::pointer(task.id), pointer));
        writes.put_new(new_task(task, place.as_deref())?);
        let ready = vec![(":ready", text("ready"))];
        let ready = writes.check(Key::project(&task.project_id), "#state = :ready", ready);
        if let Some(place) = &place {
            writes.put(new_entry(task, place));
        }
        let noted = match task.retry_of {
            Some(old) => note_retry(change, &task.project_id, old, task.id, &mut writes).await?,
            None => None,
        };
        let id = store.next_id(change.now);
        let (what, project) = (subject(task.id), Some(&task.project_id));
        writes.put(audit::event(change, id, "task.enqueued", what, project)?);
        let times = [task.available_at.max(change.now)];
        let outbox = write_outbox(change, &mut writes, &task.project_id, &times);
        let Err(lost) = store.transact(writes).await? else {
            store.held.note_project(task.id, &task.project_id);
            return Ok(Enqueued { task: task.clone(), outbox });
        };
        if lost.at(pointer) {
            let there = lost.item(pointer).and_then(|item| get_text(item, "project"));
            if there != Some(task.project_id.as_str()) {
                return Err(Conflict::IdTaken.into());
            }
            let there = store.read(task.id).await?.map(Row::into_record);
            return match there {
                Some(TaskRecord { task: there, .. }) if there.lineage == task.lineage => {
                    Ok(Enqueued { task: there, outbox: Vec::new() })
                }
                _ => Err(Conflict::IdTaken.into()),
            };
        }
        if lost.at(ready) {
            return Err(match lost.item(ready) {
                Some(_) => Conflict::ProjectNotReady.into(),
                None => projects::not_found(&task.project_id),
            });
        }
        // The old task changed meanwhile, or the new one's item outlived its pointer.
        if noted.is_none_or(|noted| !lost.at(noted)) {
            return Err(Conflict::IdTaken.into());
        }
        pause(race).await;
    }
    Err(Conflict::Contended.into())
}

/// Notes on a task that it was retried. One that has expired meanwhile needs no note.
async fn note_retry(
    change: &Change<'_>,
    project: &ProjectId,
    old: TaskId,
    new: TaskId,
    writes: &mut Writes,
) -> PortResult<Option<usize>> {
    // Nearly always of the same project: that saves looking for it.
    let found = change.store.get(Key::task(project, old)).await?;
    let found = match found {
        Some(item) => Some(Row::of(&item, None)?),
        None => change.store.read(old).await?,
    };
    let Some(Row { found: Found::Task(record), rev, .. }) = found else { return Ok(None) };
    let task = Task { retried_as: Some(new), updated_at: change.now, ..record.task };
    let body = serde_json::to_string(&task).map_err(error::defect)?;
    let with = vec![(":body", text(body)), (":rev", number(rev + 1)), (":seen", number(rev))];
    let key = Key::task(&task.project_id, old);
    Ok(Some(writes.update(key, "SET #body = :body, #rev = :rev", "#rev = :seen", with)))
}

pub(super) async fn renew(
    change: &Change<'_>,
    id: TaskId,
    holder: &Holder,
    log: Encoded,
    usage: Option<Usage>,
) -> PortResult<Renewal> {
    let store = change.store;
    let mut set = "SET #heartbeat = #heartbeat + :one, #until = :until".to_owned();
    let mut with = holds(holder);
    let until = change.now.plus(LEASE);
    with.extend([(":one", number(1)), (":until", millis(until))]);
    if let Some(usage) = &usage {
        set.push_str(", #usage = :usage");
        with.push((":usage", usage_value(usage)?));
    }
    let cancel_requested = if log.chunks.is_empty() {
        match store.update(Key::lease(id), &set, HOLDS, with).await? {
            Ok(lease) => get_flag(&lease, "cancel"),
            Err(_) => return Err(lost(store, id)),
        }
    } else {
        let known = store.held.row(id, holder);
        let known = known.and_then(|row| row.into_record().lease);
        let mut cancel = known.is_some_and(|lease| lease.cancel_requested);
        for chunks in log.chunks.chunks(CHUNKS) {
            let log = Encoded { chunks: chunks.to_vec(), diff: None };
            cancel = renew_with(change, id, holder, &log, (&set, &with), cancel).await?;
        }
        cancel
    };
    store.held.renewed(id, holder, |lease: &mut Lease| {
        lease.heartbeat += 1;
        lease.until = until;
        lease.usage = usage.unwrap_or(lease.usage);
        lease.cancel_requested = cancel_requested;
    });
    Ok(Renewal { cancel_requested, until })
}

/// Renews in a transaction that carries events. A transaction answers no values: that the flag
/// is what was known of it is a condition. Answers the flag.
async fn renew_with(
    change: &Change<'_>,
    id: TaskId,
    holder: &Holder,
    log: &Encoded,
    (set, with): (&str, &Values),
    mut cancel: bool,
) -> PortResult<bool> {
    // The flag is only ever raised: the second try is the last.
    for _ in 0..3 {
        let mut writes = Writes::new(&change.store.table);
        let mut with = with.clone();
        with.push((":cancel", AttributeValue::Bool(cancel)));
        let condition = format!("{HOLDS} AND #cancel = :cancel");
        let lease = writes.update(Key::lease(id), set, &condition, with);
        log.write(change, id, &mut writes);
        let Err(lost_race) = change.store.transact(writes).await? else { return Ok(cancel) };
        match lost_race.item(lease) {
            Some(lease) if is_held_by(lease, holder) => cancel = get_flag(lease, "cancel"),
            _ => return Err(lost(change.store, id)),
        }
    }
    Err(Conflict::Contended.into())
}

const HOLDS: &str = "#fence = :fence AND #owner = :owner";

fn holds(holder: &Holder) -> Values {
    vec![(":fence", number(holder.fence)), (":owner", text(holder.owner.as_str()))]
}

fn is_held_by(lease: &Item, holder: &Holder) -> bool {
    get_number(lease, "fence") == Some(holder.fence.0)
        && get_text(lease, "owner") == Some(holder.owner.as_str())
}

fn lost(store: &DynamoStore, id: TaskId) -> PortError {
    store.held.forget(id);
    Refusal::Stale.into()
}

/// Applies an event. Whoever touches a task that cannot be read ends it, and hears that it
/// has ended.
pub(super) async fn advance(
    change: &Change<'_>,
    id: TaskId,
    event: Event,
    mut log: Encoded,
) -> PortResult<Advanced> {
    let store = change.store;
    let holder = holder_of(&event).cloned();
    let silent = matches!(event, Event::Recover { .. });
    let mut here = holder.as_ref().and_then(|holder| store.held.row(id, holder));
    if holder.is_none() {
        store.held.forget(id);
    }
    for race in 1..=RACES {
        let guessed = here.is_some();
        let row = match here.take() {
            Some(row) => row,
            None => store.read(id).await?.ok_or_else(|| not_found(id))?,
        };
        let record = match &row.found {
            Found::Task(record) => record,
            Found::Unreadable(unreadable) if unreadable.state.is_terminal() => {
                return Err(Refusal::Ended(unreadable.state).into());
            }
            Found::Unreadable(unreadable) => {
                match transition::poison(change, &row, unreadable).await? {
                    Some(_) => return Err(Refusal::Ended(TaskState::Failed).into()),
                    None => continue,
                }
            }
        };
        if matches!(event, Event::Claim { .. }) {
            // Only claim_next counts the project's slots in the same transaction.
            return Err(Refusal::WrongState(record.task.state).into());
        }
        let step = match step(&record.task, record.lease.as_ref(), event.clone(), change.now) {
            Ok(step) => step,
            Err(_) if guessed => continue,
            Err(refusal) => return Err(refusal.into()),
        };
        if log.chunks.len() > CHUNKS
            && let Some(holder) = &holder
        {
            log = write_ahead(change, id, holder, log).await?;
        }
        if let Some(written) = transition::write(change, &row, step, &log, silent).await? {
            let record = written.row.clone().into_record();
            if holder.is_some() && record.lease.is_some() {
                store.held.keep(id, written.row);
            } else {
                store.held.forget(id);
            }
            return Ok(Advanced { task: record.task, lease: record.lease, outbox: written.outbox });
        }
        store.held.forget(id);
        if !guessed {
            pause(race).await;
        }
    }
    Err(Conflict::Contended.into())
}

/// Writes the events that one transaction cannot take beside the rest, before it.
async fn write_ahead(
    change: &Change<'_>,
    id: TaskId,
    holder: &Holder,
    log: Encoded,
) -> PortResult<Encoded> {
    let (ahead, rest) = log.chunks.split_at(log.chunks.len() - CHUNKS);
    for chunks in ahead.chunks(CHUNKS) {
        let mut writes = Writes::new(&change.store.table);
        writes.check(Key::lease(id), HOLDS, holds(holder));
        Encoded { chunks: chunks.to_vec(), diff: None }.write(change, id, &mut writes);
        if change.store.transact(writes).await?.is_err() {
            return Err(lost(change.store, id));
        }
    }
    Ok(Encoded { chunks: rest.to_vec(), diff: log.diff })
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

impl DynamoStore {
    /// A task with its lease, expired or not.
    pub(super) async fn read(&self, id: TaskId) -> PortResult<Option<Row>> {
        match self.project_of(id).await? {
            Some(project) => self.read_of(&project, id).await,
            None => Ok(None),
        }
    }

    /// A task of that project with its lease: both as they were at one time.
    pub(super) async fn read_of(&self, project: &ProjectId, id: TaskId) -> PortResult<Option<Row>> {
        for race in 1..=RACES {
            let items = self.get_all(vec![Key::task(project, id), Key::lease(id)]).await?;
            let (mut task, mut lease) = (None, None);
            for item in items {
                if get_text(&item, "sk") == Some("LEASE") {
                    lease = Some(rows::lease(&item)?);
                } else {
                    task = Some(item);
                }
            }
            let Some(item) = task else { return Ok(None) };
            // A batch is no snapshot. Whatever gives or takes a lease says so on the task.
            if agree(&item, lease.as_ref()) {
                return Row::of(&item, lease).map(Some);
            }
            pause(race).await;
        }
        Err(Conflict::Contended.into())
    }

    /// The project of a task.
    pub(super) async fn project_of(&self, id: TaskId) -> PortResult<Option<ProjectId>> {
        if let Some(project) = self.held.project(id) {
            return Ok(Some(project));
        }
        let Some(pointer) = self.get(Key::pointer(id)).await? else { return Ok(None) };
        let project = get_text(&pointer, "project").and_then(|project| project.parse().ok());
        if let Some(project) = &project {
            self.held.note_project(id, project);
        }
        Ok(project)
    }
}

/// Whether a task and what was read as its lease belong together.
pub(super) fn agree(task: &Item, lease: Option<&Lease>) -> bool {
    get_number::<u64>(task, "held") == lease.map(|lease| lease.fence.0)
}

/// There is no such task.
pub(super) fn not_found(id: TaskId) -> PortError {
    PortError::not_found(format!("task \"{id}\""))
}
