//! Projects, their webhooks, and how a project is deleted.

use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::{Conflict, PortError, PortResult};
use rdev_domain::project::{Deletion, Project, ProjectPatch, ProjectState, Stage};
use rdev_domain::step::{Event, Refusal};
use rdev_domain::task::TaskState;
use rdev_domain::wake_up::OutboxEntry;
use rdev_domain::webhook::Webhook;

use super::rows::Reading;
use super::transaction::{State, Tx};
use super::{domains, lists};

pub(super) fn create(tx: &mut Tx<'_>, project: &Project) -> PortResult<Project> {
    if let Some(there) = tx.state.projects.get(&project.id) {
        if there.nonce != project.nonce {
            return Err(Conflict::ProjectExists.into());
        }
        return Ok(there.clone());
    }
    write(tx, project.clone(), "project.created");
    Ok(project.clone())
}

pub(super) fn list(state: &State, page: &Page) -> Listed<Project> {
    let mut all: Vec<&Project> = state.projects.values().collect();
    all.sort_by_key(|project| std::cmp::Reverse(project.nonce));
    lists::page(all.into_iter().cloned(), page, |project| project.nonce)
}

pub(super) fn update(
    tx: &mut Tx<'_>,
    id: &ProjectId,
    patch: &ProjectPatch,
) -> PortResult<(Project, Vec<OutboxEntry>)> {
    let before = tx.state.open_project(id)?.clone();
    if !before.is_at(patch.expected.as_ref()) {
        return Err(Conflict::ProjectChanged.into());
    }
    let added = patch.build_limit.map_or(0, |limit| limit.saturating_sub(before.build_limit));
    let project = before.patched(patch.clone(), tx.now);
    write(tx, project.clone(), "project.updated");
    let agents = tx.state.due_agents(id, tx.now).for_slots(added);
    let outbox = agents.into_iter().flat_map(|agent| tx.wake(id, agent, &[tx.now])).collect();
    Ok((project, outbox))
}

pub(super) fn begin_delete(
    tx: &mut Tx<'_>,
    id: &ProjectId,
    deletion: Deletion,
    expected: Option<&Stage>,
) -> PortResult<Project> {
    let before = tx.state.project(id)?.clone();
    if !before.is_at(expected) {
        return Err(Conflict::ProjectChanged.into());
    }
    let busy =
        tx.state.live_of(id).any(|row| row.lease.is_some() || row.task.state == TaskState::Pushing);
    if busy {
        return Err(Conflict::TasksRunning.into());
    }
    let queued = cancellable(tx.state, id)?;
    let mut project = before;
    if project.state != ProjectState::Deleting || project.deletion != Some(deletion) {
        project = project.deleting(deletion, tx.now);
        write(tx, project.clone(), "project.deleting");
    }
    cancel(tx, queued)?;
    Ok(project)
}

pub(super) fn forget(tx: &mut Tx<'_>, id: &ProjectId, left: Option<&str>) -> PortResult<()> {
    if tx.state.project(id)?.state != ProjectState::Deleting {
        return Err(Conflict::ProjectNotReady.into());
    }
    let queued = cancellable(tx.state, id)?;
    cancel(tx, queued)?;
    tx.state.webhook_secrets.remove(id);
    domains::forget_all(tx, id);
    tx.state.projects.remove(id);
    tx.state.served.remove(id);
    tx.record_with("project.deleted", subject(id), Some(id), left);
    Ok(())
}

/// The tasks of a project that is being deleted, which are cancelled with it.
fn cancellable(state: &State, id: &ProjectId) -> PortResult<Vec<TaskId>> {
    let mut queued = Vec::new();
    for row in state.live_of(id) {
        match (row.reading(state.format), row.task.state) {
            (Reading::Newer, _) => return Err(Refusal::NewerRecord.into()),
            (Reading::Corrupt, _) | (_, TaskState::Queued) => queued.push(row.task.id),
            // A push without a lease: a runner will resume it.
            _ => return Err(Conflict::TasksRunning.into()),
        }
    }
    Ok(queued)
}

fn cancel(tx: &mut Tx<'_>, queued: Vec<TaskId>) -> PortResult<()> {
    let format = tx.state.format;
    for id in queued {
        if tx.state.row(id)?.reading(format) == Reading::Corrupt {
            tx.poison(id)?;
        } else {
            tx.apply(id, Event::Cancel)?;
        }
    }
    Ok(())
}

pub(super) fn set_webhook(
    tx: &mut Tx<'_>,
    id: &ProjectId,
    webhook: Option<&Webhook>,
) -> PortResult<Project> {
    let before = tx.state.open_project(id)?.clone();
    if webhook.is_none() && before.webhook_url.is_none() {
        return Ok(before);
    }
    let webhook_url = webhook.map(|webhook| webhook.url.clone());
    let project = Project { webhook_url, updated_at: tx.now, ..before };
    let action = match webhook {
        Some(webhook) => {
            tx.state.webhook_secrets.insert(id.clone(), webhook.secret.clone());
            "project.webhook_set"
        }
        None => {
            tx.state.webhook_secrets.remove(id);
            "project.webhook_removed"
        }
    };
    write(tx, project.clone(), action);
    Ok(project)
}

pub(super) fn webhook(state: &State, id: &ProjectId) -> Option<Webhook> {
    let url = state.projects.get(id)?.webhook_url.clone()?;
    Some(Webhook { url, secret: state.webhook_secrets.get(id)?.clone() })
}

impl State {
    /// A project. Errors: `NotFound`.
    pub(super) fn project(&self, id: &ProjectId) -> PortResult<&Project> {
        self.projects.get(id).ok_or_else(|| PortError::not_found(format!("project \"{id}\"")))
    }

    /// A project that is not being deleted. Errors: `NotFound`, `Conflict(ProjectNotReady)`.
    pub(super) fn open_project(&self, id: &ProjectId) -> PortResult<&Project> {
        match self.project(id)? {
            project if project.state == ProjectState::Deleting => {
                Err(Conflict::ProjectNotReady.into())
            }
            project => Ok(project),
        }
    }
}

pub(super) fn write(tx: &mut Tx<'_>, project: Project, action: &str) {
    let id = project.id.clone();
    tx.state.projects.insert(id.clone(), project);
    tx.record(action, subject(&id), Some(&id));
}

fn subject(id: &ProjectId) -> String {
    format!("project/{id}")
}
