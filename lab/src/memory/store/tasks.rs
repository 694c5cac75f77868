//! Steps 1 and 4 to 10: enqueue, renew, and every other event of a task; and its log.

use rdev_domain::event::BuildEvent;
use rdev_domain::ids::TaskId;
use rdev_domain::lease::{Holder, Progress};
use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::{
    Advanced, Conflict, Enqueued, EventPage, PortResult, Record, Renewal, TaskFilter, TaskRecord,
};
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::spec::BuildSpec;
use rdev_domain::step::{self, Event, Refusal};
use rdev_domain::task::{Task, TaskState};

use super::lists;
use super::rows::{Reading, Row, not_found, subject};
use super::transaction::{State, Tx, expired};

pub(super) fn enqueue(tx: &mut Tx<'_>, task: &Task) -> PortResult<Enqueued> {
    if let Some(row) = tx.state.tasks.get(&task.id) {
        let there = row.record(tx.state.format).task;
        if there.lineage != task.lineage || there.project_id != task.project_id {
            return Err(Conflict::IdTaken.into());
        }
        return Ok(Enqueued { task: there, outbox: Vec::new() });
    }
    let project = tx.state.project(&task.project_id)?.clone();
    if project.state != ProjectState::Ready {
        return Err(Conflict::ProjectNotReady.into());
    }
    if !project.owns_task(task) {
        return Err(Conflict::ProjectReplaced.into());
    }
    if let Some(old) = task.retry_of {
        record_retry(tx, &project, old, task.id)?;
    }
    tx.state.live.insert((task.project_id.clone(), task.id));
    tx.state.tasks.insert(task.id, Row::new(task.clone(), tx.now, tx.state.format));
    tx.record("task.enqueued", subject(task.id), Some(&task.project_id));
    let outbox = tx.wake(&task.project_id, task.work.agent(), &[task.available_at.max(tx.now)]);
    Ok(Enqueued { task: task.clone(), outbox })
}

/// Records on a task that it is retried as `new`. Without its record nobody can tell whether it
/// was retried before, so one that has expired is not retried.
fn record_retry(tx: &mut Tx<'_>, project: &Project, old: TaskId, new: TaskId) -> PortResult<()> {
    let (now, format) = (tx.now, tx.state.format);
    let row = tx.state.row(old)?;
    match row.reading(format) {
        Reading::Readable if !project.owns_task(&row.task) => {
            return Err(Conflict::ProjectReplaced.into());
        }
        Reading::Readable => row.write(step::record_retry(&row.task, new, now)?, format),
        Reading::Corrupt => return Err(Refusal::NotRetryable(row.task.state).into()),
        Reading::Newer => return Err(Refusal::NewerRecord.into()),
    }
    Ok(())
}

pub(super) fn renew(
    tx: &mut Tx<'_>,
    id: TaskId,
    holder: &Holder,
    progress: Progress<'_>,
) -> PortResult<Renewal> {
    let now = tx.now;
    let row = tx.state.tasks.get_mut(&id).ok_or(Refusal::Stale)?;
    let lease = row.lease.as_ref().ok_or(Refusal::Stale)?.renewed(holder, progress, now)?;
    row.add_events(progress.events);
    let renewal = Renewal { cancel_requested: lease.cancel_requested, until: lease.until };
    row.lease = Some(lease);
    Ok(renewal)
}

pub(super) fn advance(
    tx: &mut Tx<'_>,
    id: TaskId,
    event: Event,
    record: Record,
) -> PortResult<Advanced> {
    let format = tx.state.format;
    let row = tx.state.row(id)?;
    match row.reading(format) {
        Reading::Readable => {}
        Reading::Newer => return Err(Refusal::NewerRecord.into()),
        Reading::Corrupt if row.task.state.is_terminal() => {
            return Err(Refusal::Ended(row.task.state).into());
        }
        // An event for a corrupt task ends it, and its caller learns that it has ended.
        Reading::Corrupt => {
            tx.poison(id)?;
            return Err(Refusal::Ended(TaskState::Failed).into());
        }
    }
    if matches!(event, Event::Claim { .. }) {
        // Only `claim_next` counts the project's slots in the same transaction.
        return Err(Refusal::WrongState(row.task.state).into());
    }
    let outbox = tx.apply_told(id, event, record.shows_status)?;
    let row = tx.state.row(id)?;
    row.add_events(&record.events);
    row.diff = record.diff.or(row.diff.take());
    let TaskRecord { task, lease } = row.record(format);
    Ok(Advanced { task, lease, outbox })
}

/// One task, unless it has expired.
fn seen(state: &State, id: TaskId) -> PortResult<&Row> {
    let row = state.tasks.get(&id).filter(|row| !expired(row.expires_at, state.latest));
    row.ok_or_else(|| not_found(id))
}

pub(super) fn task(state: &State, id: TaskId) -> PortResult<TaskRecord> {
    seen(state, id).map(|row| row.record(state.format))
}

pub(super) fn tasks(state: &State, filter: &TaskFilter, page: &Page) -> Listed<TaskRecord> {
    let owner = filter.project.as_ref().and_then(|project| state.projects.get(project));
    let wanted = |row: &&Row| {
        !expired(row.expires_at, state.latest)
            && filter.project.as_ref().is_none_or(|project| *project == row.task.project_id)
            && owner.is_none_or(|project| project.owns_task(&row.task))
            && filter.state.is_none_or(|state| state == row.task.state)
            && (!filter.builds_only || row.task.work.kind() == BuildSpec::KIND)
    };
    let all = state.tasks.values().rev().filter(wanted).map(|row| row.record(state.format));
    lists::page(all, page, |record| record.task.id.0)
}

pub(super) fn events(state: &State, id: TaskId, after: u64, limit: u32) -> PortResult<EventPage> {
    let row = seen(state, id)?;
    let kept = !expired(row.events_expire_at, state.latest);
    let events = row.events.values().filter(|event| kept && event.seq > after);
    let events: Vec<BuildEvent> = events.take(limit as usize).cloned().collect();
    Ok(EventPage { events, state: row.task.state })
}

pub(super) fn diff(state: &State, id: TaskId) -> PortResult<Option<String>> {
    let row = seen(state, id)?;
    let kept = !expired(row.events_expire_at, state.latest);
    Ok(row.diff.clone().filter(|_| kept))
}
