//! Finding a task by its id, together with its lease.

use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::lease::Lease;
use rdev_domain::ports::{Conflict, PortError, PortResult};

use super::context::Context;
use super::item::{Item, get_number, get_text};
use super::rows::{self, Row};
use super::table::pause;
use crate::schema::Key;

/// How many times a task is read again whose lease changes between two reads.
const MAX_RACES: u32 = 5;

/// A task with its lease, expired or not.
pub(super) async fn task(context: &Context, id: TaskId) -> PortResult<Option<Row>> {
    match project_of(context, id).await? {
        Some(project) => task_of(context, &project, id).await,
        None => Ok(None),
    }
}

/// A task of the project with its lease. Both belong to the same state of the task.
pub(super) async fn task_of(
    context: &Context,
    project: &ProjectId,
    id: TaskId,
) -> PortResult<Option<Row>> {
    for race in 1..=MAX_RACES {
        let items = context.table.get_all(vec![Key::task(project, id), Key::lease(id)]).await?;
        let (mut task, mut lease) = (None, None);
        for item in items {
            if get_text(&item, "sk") == Some("LEASE") {
                lease = Some(rows::lease(&item)?);
            } else {
                task = Some(item);
            }
        }
        let Some(item) = task else { return Ok(None) };
        // A batch is no snapshot. Every write that adds or removes a lease changes the task too.
        if lease_matches(&item, lease.as_ref().map(|stored| &stored.lease)) {
            return Row::of(&item, lease, context.format).map(Some);
        }
        pause(race).await;
    }
    Err(Conflict::Contended.into())
}

/// The project of a task.
pub(super) async fn project_of(context: &Context, id: TaskId) -> PortResult<Option<ProjectId>> {
    if let Some(project) = context.leases.project(id) {
        return Ok(Some(project));
    }
    let Some(pointer) = context.table.get(Key::pointer(id)).await? else { return Ok(None) };
    let project = get_text(&pointer, "project").and_then(|project| project.parse().ok());
    if let Some(project) = &project {
        context.leases.insert_project(id, project);
    }
    Ok(project)
}

/// Whether a task and a lease belong to the same state of the task.
pub(super) fn lease_matches(task: &Item, lease: Option<&Lease>) -> bool {
    get_number::<u64>(task, "held") == lease.map(|lease| lease.fence.0)
}

/// The error for a task that does not exist.
pub(super) fn task_not_found(id: TaskId) -> PortError {
    PortError::not_found(format!("task \"{id}\""))
}
