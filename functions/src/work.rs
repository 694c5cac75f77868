//! The raw queue: enqueue, list, show, cancel; how much there is; dead letters.
//!
//! Also what every task goes through, wherever it was asked for: `accept`,
//! `add` and `cancel_task`.

#![allow(unused_qualifications, reason = "`utoipa::path` writes `params` so")]

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::LOCATION;
use rdev_domain::failure::FailureClass;
use rdev_domain::ids::{ProjectId, TaskId, WorkerId};
use rdev_domain::ports::{
    Conflict, DeadLetter, PortError, Record, TaskFilter, TaskRecord, WorkStats,
};
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::result::{Outcome, TaskResult};
use rdev_domain::spec::{BuildSpec, CheckSpec, FieldError, Work};
use rdev_domain::step::{Event, Refusal};
use rdev_domain::task::{Priority, Task, TaskState};
use rdev_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Api;
use crate::auth::Caller;
use crate::builds::TaskView;
use crate::cursor::{List, Listing, PageQuery};
use crate::extract::{InPath, InQuery, JsonBody, Nothing, OptionalJson, from_value};
use crate::idempotency::Try;
use crate::problem::{Answer, Problem};
use crate::redrive;

/// `/work…`.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .routes(routes!(enqueue))
        .routes(routes!(list))
        .routes(routes!(stats))
        .routes(routes!(dead))
        .routes(routes!(redrive::redrive))
        .routes(routes!(show))
        .routes(routes!(status))
        .routes(routes!(cancel))
}

/// A task that is wanted.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Enqueue {
    /// The project.
    pub project_id: ProjectId,
    /// What kind of work it is.
    #[serde(rename = "type")]
    pub kind: WorkKind,
    /// What is to be done: a `BuildSpec` (whose `agent` may be absent) or a `CheckSpec`.
    #[schema(value_type = Spec)]
    pub spec: Value,
    /// 0 to 9, higher first: 5 by default.
    #[serde(default)]
    pub priority: Option<Priority>,
    /// How many attempts it may have: 1 to 10, 3 by default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10)]
    pub max_attempts: Option<u32>,
}

/// What kind of work a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    /// Run an agent, verify, commit, push.
    Build,
    /// Run commands on a branch.
    Check,
}

/// What is to be done.
#[derive(ToSchema)]
#[schema(as = WorkSpec)]
#[serde(untagged)]
#[expect(dead_code, reason = "tells OpenAPI what `spec` may be; it is read by its `type`")]
enum Spec {
    Build(BuildSpec),
    Check(CheckSpec),
}

/// Where a task is, in short.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TaskStatus {
    /// Its id.
    pub id: TaskId,
    /// Its project.
    pub project_id: ProjectId,
    /// `build` or `check`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it is in its life.
    pub state: TaskState,
    /// Somebody asked to cancel it, and its worker has not stopped yet.
    pub cancel_requested: bool,
    /// How many attempts were begun.
    pub attempt: u32,
    /// How many it may have.
    pub max_attempts: u32,
    /// The worker that has it, or had it last.
    pub worker_id: Option<WorkerId>,
    /// How a build that succeeded ended.
    pub outcome: Option<Outcome>,
    /// Why it failed, or why its last attempt did.
    pub failure_class: Option<FailureClass>,
    /// When its record last changed.
    pub updated_at: Timestamp,
}

/// How much there is to do.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Stats {
    /// Tasks.
    #[serde(flatten)]
    pub work: WorkStats,
    /// Wake-ups in the queue, roughly.
    pub wake_ups: WakeUps,
}

/// Wake-ups in the queue, roughly.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct WakeUps {
    /// Can be received now.
    pub visible: u64,
    /// Received and not deleted.
    pub in_flight: u64,
    /// Not visible yet.
    pub delayed: u64,
    /// In the dead-letter queue.
    pub dead: u64,
}

/// Which tasks.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WorkQuery {
    /// How many items at most: 1 to 100, 50 by default.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only this project's.
    project_id: Option<ProjectId>,
    /// Only those in this state.
    state: Option<TaskState>,
}

/// Queues a task of any type.
#[utoipa::path(
    post, path = "/work/enqueue", tag = "work", operation_id = "enqueue",
    security(("key" = ["work:write"])),
    request_body = Enqueue,
    responses((status = 202, description = "Queued", body = TaskView,
        headers(("location" = String, description = "Where the task is"))))
)]
async fn enqueue(
    State(api): State<Api>,
    caller: Caller,
    attempt: Try,
    JsonBody(wanted): JsonBody<Enqueue>,
) -> Answer<Response> {
    let Enqueue { project_id, kind, mut spec, priority, max_attempts } = wanted;
    let agent_named = spec.get("agent").is_some_and(|agent| !agent.is_null());
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        if kind == WorkKind::Build && !agent_named {
            let default = api.settings().default_agent.as_str();
            fields.insert("agent".to_owned(), default.into());
        }
    }
    let work = match kind {
        WorkKind::Build => Work::Build(from_value(spec, "spec.")?),
        WorkKind::Check => Work::Check(from_value(spec, "spec.")?),
    };
    let priority = priority.unwrap_or_default();
    let wanted = Wanted { project_id, work, agent_named, priority, max_attempts, prefix: "spec." };
    let task = accept(&api, &caller, TaskId(attempt.nonce), wanted, crate::now()).await?;
    let location = format!("/work/{}", task.id);
    let view = TaskView { task, cancel_requested: false, pipeline: None };
    Ok((StatusCode::ACCEPTED, [(LOCATION, location)], Json(view)).into_response())
}

/// Tasks of all types, newest first.
#[utoipa::path(
    get, path = "/work", tag = "work", operation_id = "list_work",
    security(("key" = ["work:read"])),
    params(WorkQuery),
    responses((status = 200, description = "A page", body = List<TaskView>))
)]
async fn list(
    State(api): State<Api>,
    InQuery(query): InQuery<WorkQuery>,
) -> Answer<Json<List<TaskView>>> {
    let state = query.state.map(TaskState::as_str);
    let filters = [query.project_id.as_ref().map(ProjectId::as_str), state];
    let listing = Listing::new("work", &filters, query.limit, query.cursor.as_deref())?;
    let filter = TaskFilter { project: query.project_id, state: query.state, builds_only: false };
    let listed = api.store().tasks(&filter, &listing.page()?).await?;
    Ok(Json(listing.answer(listed, |record| record.task.id.0, TaskView::from)))
}

/// One task.
#[utoipa::path(
    get, path = "/work/{task_id}", tag = "work", operation_id = "show_work",
    security(("key" = ["work:read"])),
    params(("task_id" = TaskId, Path, description = "The task")),
    responses((status = 200, description = "The task", body = TaskView))
)]
async fn show(State(api): State<Api>, InPath(id): InPath<TaskId>) -> Answer<Json<TaskView>> {
    Ok(Json(api.store().task(id).await?.into()))
}

/// Where a task is, in short.
#[utoipa::path(
    get, path = "/work/{task_id}/status", tag = "work", operation_id = "work_status",
    security(("key" = ["work:read"])),
    params(("task_id" = TaskId, Path, description = "The task")),
    responses((status = 200, description = "Its status", body = TaskStatus))
)]
async fn status(State(api): State<Api>, InPath(id): InPath<TaskId>) -> Answer<Json<TaskStatus>> {
    let TaskView { task, cancel_requested, .. } = api.store().task(id).await?.into();
    let ended = task.state == TaskState::Succeeded;
    let build = task.result.as_ref().filter(|_| ended).and_then(TaskResult::as_build);
    Ok(Json(TaskStatus {
        id: task.id,
        kind: task.work.kind().to_owned(),
        state: task.state,
        cancel_requested,
        attempt: task.attempt,
        max_attempts: task.max_attempts,
        outcome: build.map(|result| result.outcome),
        failure_class: task.failure.map(|failure| failure.class),
        updated_at: task.updated_at,
        worker_id: task.worker_id,
        project_id: task.project_id,
    }))
}

/// Cancels a task.
#[utoipa::path(
    post, path = "/work/{task_id}/cancel", tag = "work", operation_id = "cancel_work",
    security(("key" = ["work:write"])),
    params(("task_id" = TaskId, Path, description = "The task")),
    responses(
        (status = 200, description = "Cancelled", body = TaskView),
        (status = 202, description = "Its worker is being told", body = TaskView)
    )
)]
async fn cancel(
    State(api): State<Api>,
    InPath(id): InPath<TaskId>,
    caller: Caller,
    attempt: Try,
    _: OptionalJson<Nothing>,
) -> Answer<Response> {
    cancel_task(&api, &caller, id, attempt, crate::now()).await
}

/// How much there is to do.
#[utoipa::path(
    get, path = "/work/stats", tag = "work", operation_id = "work_stats",
    security(("key" = ["work:read"])),
    responses((status = 200, description = "Depth, oldest age, dead letters", body = Stats))
)]
async fn stats(State(api): State<Api>) -> Answer<Json<Stats>> {
    let work = api.store().work_stats(crate::now()).await?;
    let queue = api.queue().stats().await?;
    let wake_ups = WakeUps {
        visible: queue.visible,
        in_flight: queue.in_flight,
        delayed: queue.delayed,
        dead: queue.dead,
    };
    Ok(Json(Stats { work, wake_ups }))
}

/// Dead letters, newest first.
#[utoipa::path(
    get, path = "/work/dead", tag = "work", operation_id = "list_dead",
    security(("key" = ["work:read"])),
    params(PageQuery),
    responses((status = 200, description = "A page", body = List<DeadLetter>))
)]
async fn dead(
    State(api): State<Api>,
    InQuery(query): InQuery<PageQuery>,
) -> Answer<Json<List<DeadLetter>>> {
    let listing = Listing::new("dead", &[], query.limit, query.cursor.as_deref())?;
    let listed = api.store().dead_letters(&listing.page()?).await?;
    Ok(Json(listing.answer(listed, |letter| letter.id, |letter| letter)))
}

/// A task that somebody wants, before it is checked against its project.
pub(crate) struct Wanted {
    pub(crate) project_id: ProjectId,
    pub(crate) work: Work,
    /// The request names the agent; otherwise `continue_from` decides it.
    pub(crate) agent_named: bool,
    pub(crate) priority: Priority,
    pub(crate) max_attempts: Option<u32>,
    /// What stands before the spec's fields in the request: nothing, or `spec.`.
    pub(crate) prefix: &'static str,
}

/// Checks a task and adds it to its project's queue.
pub(crate) async fn accept(
    api: &Api,
    caller: &Caller,
    id: TaskId,
    wanted: Wanted,
    now: Timestamp,
) -> Answer<Task> {
    let project = api.store().project(&wanted.project_id).await?;
    if project.state != ProjectState::Ready {
        return Err(PortError::from(Conflict::ProjectNotReady).into());
    }
    let prefix = wanted.prefix;
    let mut work = wanted.work;
    let mut errors = work.check().err().unwrap_or_default();
    let max_attempts = wanted.max_attempts.unwrap_or(3);
    check_repository(api, &project, &work, &mut errors);
    if let Work::Build(spec) = &mut work {
        check_continued(api, &project, spec, wanted.agent_named, &mut errors).await?;
    }
    for error in &mut errors {
        error.field.insert_str(0, prefix);
    }
    if !(1..=10).contains(&max_attempts) {
        errors.push(field("max_attempts", "must lie between 1 and 10"));
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    if let Work::Build(spec) = &mut work {
        // Settled now: all attempts look for the commit on one branch, whatever
        // becomes of the project's default.
        spec.branch.get_or_insert(project.default_branch);
    }
    let mut task = Task::new(id, project.id, work, now);
    // A webhook is told of builds.
    task.notify = project.webhook_url.is_some() && matches!(task.work, Work::Build(_));
    task.priority = wanted.priority;
    task.max_attempts = max_attempts;
    add(api, caller, &task, now).await
}

/// Adds a task to its project's queue and sends the wake-up.
pub(crate) async fn add(api: &Api, caller: &Caller, task: &Task, now: Timestamp) -> Answer<Task> {
    let enqueued = api.store().enqueue(task, &caller.actor(), now).await?;
    // A repeat finds its task there already, without an outbox entry.
    if !enqueued.outbox.is_empty() {
        metrics::counter!(crate::ops::ENQUEUED).increment(1);
    }
    api.send(&enqueued.outbox, now).await;
    Ok(enqueued.task)
}

/// Cancels a task: 200 when it was cancelled, 202 when its worker is to stop it.
pub(crate) async fn cancel_task(
    api: &Api,
    caller: &Caller,
    id: TaskId,
    attempt: Try,
    now: Timestamp,
) -> Answer<Response> {
    let advanced =
        api.store().advance(id, Event::Cancel, Record::default(), &caller.actor(), now).await;
    let (status, view) = match advanced {
        Ok(advanced) => {
            api.send(&advanced.outbox, now).await;
            let status = if advanced.task.state.is_terminal() {
                // No runner sees the end of a task that nobody had.
                metrics::counter!(crate::ops::COMPLETED, "outcome" => "cancelled").increment(1);
                StatusCode::OK
            } else {
                api.cancelled(id);
                StatusCode::ACCEPTED
            };
            (status, TaskView::from(TaskRecord { task: advanced.task, lease: advanced.lease }))
        }
        // An earlier try of this request did it, and its answer was lost.
        Err(PortError::Refused(Refusal::Ended(TaskState::Cancelled))) if attempt.resumed => {
            (StatusCode::OK, api.store().task(id).await?.into())
        }
        Err(error) => return Err(error.into()),
    };
    Ok((status, Json(view)).into_response())
}

/// A project has one repository, or each of its builds names one.
fn check_repository(api: &Api, project: &Project, work: &Work, errors: &mut Vec<FieldError>) {
    match (work, &project.git_url) {
        (Work::Build(spec), own) => match (&spec.git_url, own) {
            (Some(_), Some(_)) => {
                errors.push(field("git_url", "must not be given: the project has a repository"));
            }
            (None, None) => {
                errors.push(field("git_url", "must be given: the project has no repository"));
            }
            (Some(url), None) => {
                crate::projects::check_git_url(api, url, errors);
            }
            (None, Some(_)) => {}
        },
        (Work::Check(_), None) => {
            errors.push(field("commands", "cannot run: the project has no repository"));
        }
        (Work::Check(_), Some(_)) => {}
    }
}

/// A session is resumed by the agent that began it, in the same project.
async fn check_continued(
    api: &Api,
    project: &Project,
    spec: &mut BuildSpec,
    agent_named: bool,
    errors: &mut Vec<FieldError>,
) -> Answer<()> {
    let Some(id) = spec.continue_from else { return Ok(()) };
    let mut refuse = |why| errors.push(field("continue_from", why));
    let earlier = match api.store().task(id).await {
        Ok(record) if record.task.project_id == project.id => record.task,
        Ok(_) | Err(PortError::NotFound { .. }) => {
            refuse("must be a task of the same project");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
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

fn field(name: &str, message: &str) -> FieldError {
    FieldError { field: name.to_owned(), message: message.to_owned() }
}
