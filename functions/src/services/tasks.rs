//! Tasks, whichever endpoint queues or cancels them.

use rdev_domain::audit::Actor;
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::ports::{Conflict, PortError, PortResult, Record, TaskRecord};
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::result::TaskResult;
use rdev_domain::spec::{BuildSpec, FieldError, Work};
use rdev_domain::step::{Event, Refusal};
use rdev_domain::task::{Priority, Task, TaskState};
use rdev_domain::time::Timestamp;

use crate::app::App;
use crate::services::error::{ServiceError, ServiceResult, field};
use crate::services::metrics::{COMPLETED, ENQUEUED};
use crate::services::project_rules::check_git_url;
use crate::services::task_view::TaskView;

/// How many retries of retries are followed to find the newest.
const MAX_CHAIN: usize = 1000;

/// A task of a request, before it is checked against its project.
pub(crate) struct NewTask {
    pub(crate) project_id: ProjectId,
    pub(crate) work: Work,
    /// The request names the agent; otherwise `continue_from` decides it.
    pub(crate) agent_named: bool,
    pub(crate) priority: Priority,
    pub(crate) max_attempts: Option<u32>,
    /// The path of the spec's fields in the request: nothing, or `spec.`.
    pub(crate) prefix: &'static str,
}

/// Checks a task and adds it to its project's queue.
pub(crate) async fn accept(
    app: &App,
    by: &Actor,
    id: TaskId,
    new: NewTask,
    now: Timestamp,
) -> ServiceResult<Task> {
    let project = app.store().project(&new.project_id).await?;
    if project.state != ProjectState::Ready {
        return Err(Conflict::ProjectNotReady.into());
    }
    let mut work = new.work;
    if let Work::Build(spec) = &mut work {
        project.settle(spec);
    }
    let mut errors = work.check().err().unwrap_or_default();
    let max_attempts = new.max_attempts.unwrap_or(3);
    check_repository(app, &project, &work, &mut errors);
    if let Work::Build(spec) = &mut work {
        check_continued(app, &project, spec, new.agent_named, &mut errors).await?;
    }
    for error in &mut errors {
        error.field.insert_str(0, new.prefix);
    }
    if !(1..=10).contains(&max_attempts) {
        errors.push(field("max_attempts", "must lie between 1 and 10"));
    }
    if !errors.is_empty() {
        return Err(ServiceError::Invalid(errors));
    }
    let mut task = Task::new(id, project.id, work, now);
    task.project_nonce = project.nonce;
    // Webhooks report builds only.
    task.notify = project.webhook_url.is_some() && matches!(task.work, Work::Build(_));
    task.priority = new.priority;
    task.max_attempts = max_attempts;
    Ok(add(app, by, &task, now).await?)
}

/// Adds a task to its project's queue and sends the wake-up.
pub(crate) async fn add(app: &App, by: &Actor, task: &Task, now: Timestamp) -> PortResult<Task> {
    let enqueued = match app.store().enqueue(task, by, now).await {
        Err(PortError::Refused(Refusal::RetriedAlready(next))) => {
            return Err(Refusal::RetriedAlready(newest(app, next).await?).into());
        }
        enqueued => enqueued?,
    };
    // A repeated request finds its task in the store, and there is no outbox entry.
    if !enqueued.outbox.is_empty() {
        metrics::counter!(ENQUEUED).increment(1);
    }
    app.send(&enqueued.outbox, now).await;
    Ok(enqueued.task)
}

/// The newest task of a chain of retries that goes on with `task`.
pub(crate) async fn newest(app: &App, mut task: TaskId) -> PortResult<TaskId> {
    // The chain has no circle, but it grows: it is not followed for ever.
    for _ in 0..MAX_CHAIN {
        match app.store().task(task).await {
            Ok(TaskRecord { task: Task { retried_as: Some(next), .. }, .. }) => task = next,
            // The last one, or the last one that is left.
            Ok(_) | Err(PortError::NotFound { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(task)
}

/// Cancels a task. It is cancelled already when its state is terminal; otherwise its worker is to
/// stop it. `resumed`: an earlier try of the same request may have cancelled it.
pub(crate) async fn cancel(
    app: &App,
    by: &Actor,
    id: TaskId,
    resumed: bool,
    now: Timestamp,
) -> PortResult<TaskView> {
    let advanced = app.store().advance(id, Event::Cancel, Record::default(), by, now).await;
    match advanced {
        Ok(advanced) => {
            app.send(&advanced.outbox, now).await;
            if advanced.task.state.is_terminal() {
                // No worker had the task, so no runner counts its end.
                metrics::counter!(COMPLETED, "outcome" => "cancelled").increment(1);
            } else {
                app.notify_cancel(id);
            }
            Ok(TaskRecord { task: advanced.task, lease: advanced.lease }.into())
        }
        Err(PortError::Refused(Refusal::Ended(TaskState::Cancelled))) if resumed => {
            Ok(app.store().task(id).await?.into())
        }
        Err(error) => Err(error),
    }
}

/// A project has one repository, or each of its builds names one.
fn check_repository(app: &App, project: &Project, work: &Work, errors: &mut Vec<FieldError>) {
    match (work, &project.git_url) {
        (Work::Build(spec), own) => match (&spec.git_url, own) {
            (Some(_), Some(_)) => {
                errors.push(field("git_url", "must not be given: the project has a repository"));
            }
            (None, None) => {
                errors.push(field("git_url", "must be given: the project has no repository"));
            }
            (Some(url), None) => check_git_url(app, url, errors),
            (None, Some(_)) => {}
        },
        (Work::Check(_), None) => {
            errors.push(field("commands", "cannot run: the project has no repository"));
        }
        (Work::Check(_), Some(_)) | (Work::Unreadable(_), _) => {}
    }
}

/// A session is resumed by the agent that began it, in the same project.
async fn check_continued(
    app: &App,
    project: &Project,
    spec: &mut BuildSpec,
    agent_named: bool,
    errors: &mut Vec<FieldError>,
) -> PortResult<()> {
    let Some(id) = spec.continue_from else { return Ok(()) };
    let mut refuse = |why: &str| errors.push(field("continue_from", why));
    let earlier = match app.store().task(id).await {
        Ok(record) if project.owns_task(&record.task) => record.task,
        Ok(_) | Err(PortError::NotFound { .. }) => {
            refuse("must be a task of the same project");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if !earlier.state.is_terminal() {
        refuse("must be a task that has ended");
        return Ok(());
    }
    let run = earlier.result.as_ref().and_then(TaskResult::as_build);
    let run = run.and_then(|result| result.agent.as_ref()).filter(|run| run.session_id.is_some());
    match run {
        None => refuse("must be a task with an agent session to resume"),
        Some(run) if !agent_named => spec.agent = run.provider,
        Some(run) if run.provider != spec.agent => {
            refuse("must be a task of the same agent");
        }
        Some(_) => {}
    }
    Ok(())
}
