//! Deleting a project: it is closed, its queued tasks are cancelled, and then its records go.

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::{StreamExt, TryStreamExt, stream};
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{Conflict, PortResult};
use rdev_domain::project::{Deletion, Project, ProjectState, Stage};
use rdev_domain::step::{Event, Refusal, step};
use rdev_domain::task::TaskState;
use rdev_domain::time::Timestamp;

use super::context::{Change, Context};
use super::events::EncodedRecord;
use super::indexes::Pages;
use super::item::{Item, get_text, key_of, number};
use super::projects::{self, MAX_RACES, SlotsItem, StoredProject};
use super::queue_entry::Entry;
use super::rows::{Found, Row};
use super::table::{Query, pause};
use super::transition::{self, LeaseCondition};
use super::{audit, counts, domains, lookup};
use crate::error::alone;
use crate::schema::{Key, SLOTS};

/// How many queued tasks are cancelled at the same time.
const CANCELLED_AT_ONCE: usize = 8;

/// Closes a project and cancels its queued tasks.
pub(super) async fn begin(
    change: &Change<'_>,
    id: &ProjectId,
    deletion: Deletion,
    expected: Option<&Stage>,
) -> PortResult<Project> {
    let project = close(change, id, deletion, expected).await?;
    cancel_queued(change, id).await?;
    // Not in each transaction: all of them would write the one item.
    let (_, slots) = project_and_slots(change.context, id).await?;
    counts::count(change, id, &slots).await?;
    Ok(project)
}

async fn close(
    change: &Change<'_>,
    id: &ProjectId,
    deletion: Deletion,
    expected: Option<&Stage>,
) -> PortResult<Project> {
    let context = change.context;
    for race in 1..=MAX_RACES {
        let (stored, slots) = project_and_slots(context, id).await?;
        if !stored.project.is_at(expected) {
            return Err(Conflict::ProjectChanged.into());
        }
        if !slots.leased.is_empty() || Box::pin(is_pushing(context, id)).await? {
            return Err(Conflict::TasksRunning.into());
        }
        let StoredProject { project, rev } = stored;
        if has_newer(context, id).await? {
            return Err(Refusal::NewerRecord.into());
        }
        if project.state == ProjectState::Deleting && project.deletion == Some(deletion) {
            return Ok(project);
        }
        let project = project.deleting(deletion, change.now);
        let mut writes = context.table.writes();
        projects::write(&mut writes, &project, rev)?;
        // A holder that has ended meanwhile and left a push without a lease has changed this, and
        // so has whoever has queued a task.
        writes.update(
            Key::slots(id),
            "SET #closed = :closed, #rev = :rev",
            "#rev = :seen AND attribute_not_exists(#held)",
            vec![
                (":closed", AttributeValue::Bool(true)),
                (":rev", number(slots.rev + 1)),
                (":seen", number(slots.rev)),
            ],
        );
        projects::record_change(change, &mut writes, "project.deleting", id)?;
        if context.table.transact(writes).await?.is_ok() {
            return Ok(project);
        }
        pause(race).await;
    }
    Err(Conflict::Contended.into())
}

pub(super) async fn forget(
    change: &Change<'_>,
    id: &ProjectId,
    left: Option<&str>,
) -> PortResult<()> {
    for race in 1..=MAX_RACES {
        let StoredProject { project, rev } = projects::find(change.context, id).await?;
        if project.state != ProjectState::Deleting {
            return Err(Conflict::ProjectNotReady.into());
        }
        // A crash may have interrupted the cancellation.
        cancel_queued(change, id).await?;
        domains::forget_all(change, id).await?;
        let mut writes = change.context.table.writes();
        writes.delete(Key::webhook(id), "", vec![]);
        writes.delete(Key::project(id), "#rev = :seen", vec![(":seen", number(rev))]);
        writes.delete(Key::slots(id), "", vec![]);
        let (event, subject) = (change.context.next_id(change.now), format!("project/{id}"));
        let action = "project.deleted";
        writes.put(audit::event_with(change, event, action, subject, Some(id), left)?);
        if change.context.table.transact(writes).await?.is_ok() {
            return Ok(());
        }
        // Another call has forgotten it, or a sweep has taken it.
        pause(race).await;
    }
    Err(Conflict::Contended.into())
}

/// Takes a project whose deletion has not changed since `since`: it changes now, so that no other
/// sweep takes it too. `None` if it is none of these, or another sweep was faster.
pub(super) async fn take_abandoned(
    change: &Change<'_>,
    item: &Item,
    since: Timestamp,
) -> PortResult<Option<Project>> {
    let StoredProject { project, rev } = StoredProject::of(item)?;
    if project.state != ProjectState::Deleting || project.updated_at > since {
        return Ok(None);
    }
    let project = Project { updated_at: change.now, ..project };
    let mut writes = change.context.table.writes();
    projects::write(&mut writes, &project, rev)?;
    Ok(change.context.table.transact(writes).await?.is_ok().then_some(project))
}

/// Whether there is a push without a lease. A part of it may have been done.
async fn is_pushing(context: &Context, id: &ProjectId) -> PortResult<bool> {
    let pushes = |from, to| {
        let mut query = Query::between(id, from, to);
        query.filter = "#rank = :push".to_owned();
        query.with.push((":push", number(0)));
        query
    };
    let due = context.table.query_all(pushes("Q#0#", "Q#0$"));
    let later = context.table.query_all(pushes("R#", "R$"));
    let (due, later) = tokio::try_join!(due, later)?;
    Ok(!due.is_empty() || !later.is_empty())
}

/// Whether a newer program has written a queued task of the project.
async fn has_newer(context: &Context, id: &ProjectId) -> PortResult<bool> {
    let mut pages = queue(context, id);
    while let Some(entries) = pages.next().await? {
        let tasks = entries.into_iter().filter_map(|entry| Entry::of(&entry).ok());
        let keys = tasks.map(|entry| Key::task(id, entry.task)).collect();
        let newer = |item: &Item| {
            let row = Row::of(item, None, context.format);
            row.is_ok_and(|row| matches!(row.found, Found::Newer(_)))
        };
        if context.table.get_all(keys).await?.iter().any(newer) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The entries of the project's queue, in pages.
fn queue<'a>(context: &'a Context, id: &ProjectId) -> Pages<'a> {
    Pages::of(context, Query::between(id, "Q#", "R$"))
}

async fn cancel_queued(change: &Change<'_>, id: &ProjectId) -> PortResult<()> {
    let mut pages = queue(change.context, id);
    while let Some(entries) = pages.next().await? {
        stream::iter(entries)
            .map(|entry| async move {
                match alone(&key_of(&entry), Entry::of(&entry))? {
                    Some(entry) => cancel(change, entry).await,
                    None => Ok(()),
                }
            })
            .buffer_unordered(CANCELLED_AT_ONCE)
            .try_collect::<()>()
            .await?;
    }
    Ok(())
}

async fn cancel(change: &Change<'_>, entry: Entry) -> PortResult<()> {
    for race in 1..=MAX_RACES {
        let Some(row) = lookup::task_of(change.context, &entry.project, entry.task).await? else {
            return Ok(());
        };
        let done = match &row.found {
            Found::Task(record) if record.task.state == TaskState::Queued => {
                let step = step(&record.task, record.lease.as_ref(), Event::Cancel, change.now)?;
                let log = EncodedRecord::default();
                transition::write(change, &row, step, &log, LeaseCondition::Closed).await?.is_some()
            }
            Found::Corrupt(corrupt) if !corrupt.state.is_terminal() => {
                transition::poison(change, &row, corrupt).await?.is_some()
            }
            // A push without a lease: a runner will resume it.
            Found::Task(record) if !record.task.state.is_terminal() => {
                return Err(Conflict::TasksRunning.into());
            }
            Found::Newer(newer) if !newer.state.is_terminal() => {
                return Err(Refusal::NewerRecord.into());
            }
            Found::Task(_) | Found::Corrupt(_) | Found::Newer(_) => true,
        };
        if done {
            return Ok(());
        }
        pause(race).await;
    }
    Err(Conflict::Contended.into())
}

async fn project_and_slots(
    context: &Context,
    id: &ProjectId,
) -> PortResult<(StoredProject, SlotsItem)> {
    let (mut stored, mut slots) = (None, None);
    for item in context.table.get_all(vec![Key::project(id), Key::slots(id)]).await? {
        if get_text(&item, "sk") == Some(SLOTS) {
            slots = Some(SlotsItem::of(&item));
        } else {
            stored = Some(StoredProject::of(&item)?);
        }
    }
    let stored = stored.ok_or_else(|| projects::not_found(id))?;
    Ok((stored, slots.unwrap_or_else(|| SlotsItem::of(&Item::new()))))
}
