//! The raw queue: enqueue, list, show, cancel; statistics; dead letters.

#![allow(unused_qualifications, reason = "`utoipa::path` writes `params` so")]

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use rdev_domain::failure::FailureClass;
use rdev_domain::ids::{ProjectId, TaskId, WorkerId};
use rdev_domain::ports::{DeadLetter, TaskFilter, WorkStats};
use rdev_domain::result::{Outcome, TaskResult};
use rdev_domain::spec::{BuildSpec, CheckSpec, Work};
use rdev_domain::task::{Priority, TaskState};
use rdev_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::clock;
use crate::endpoints::task_response::{accepted, cancelled};
use crate::http::auth::Caller;
use crate::http::cursor::{List, Listing, PageQuery};
use crate::http::extract::{EmptyBody, InPath, InQuery, JsonBody, OptionalJson, from_value};
use crate::http::idempotency::IdempotentRequest;
use crate::http::problem::ApiResult;
use crate::services::redrive::{self, Redrive, Redriven};
use crate::services::task_view::TaskView;
use crate::services::tasks::{self, NewTask};

/// `/work…`.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(enqueue))
        .routes(routes!(list))
        .routes(routes!(stats))
        .routes(routes!(dead))
        .routes(routes!(redrive))
        .routes(routes!(show))
        .routes(routes!(status))
        .routes(routes!(cancel))
}

/// A task to queue.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Enqueue {
    /// The project.
    pub project_id: ProjectId,
    /// What kind of work it is.
    #[serde(rename = "type")]
    pub kind: WorkKind,
    /// The work to do: a `BuildSpec` (whose `agent` may be absent) or a `CheckSpec`.
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

/// The work to do.
#[derive(ToSchema)]
#[schema(as = WorkSpec)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes `spec` in OpenAPI; the code reads `spec` by its `type`")]
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
    /// Its cancellation was requested, and its worker has not stopped yet.
    pub cancel_requested: bool,
    /// How many attempts were begun.
    pub attempt: u32,
    /// How many it may have.
    pub max_attempts: u32,
    /// The worker that runs it, or ran it last.
    pub worker_id: Option<WorkerId>,
    /// How a build that succeeded ended.
    pub outcome: Option<Outcome>,
    /// Why it failed, or why its last attempt did.
    pub failure_class: Option<FailureClass>,
    /// When its record last changed.
    pub updated_at: Timestamp,
}

/// Statistics of tasks and wake-ups.
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
    State(app): State<App>,
    caller: Caller,
    request: IdempotentRequest,
    JsonBody(body): JsonBody<Enqueue>,
) -> ApiResult<Response> {
    let Enqueue { project_id, kind, mut spec, priority, max_attempts } = body;
    let agent_named = spec.get("agent").is_some_and(|agent| !agent.is_null());
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        if kind == WorkKind::Build && !agent_named {
            let default = app.settings().default_agent.as_str();
            fields.insert("agent".to_owned(), default.into());
        }
    }
    let work = match kind {
        WorkKind::Build => Work::Build(from_value(spec, "spec.")?),
        WorkKind::Check => Work::Check(from_value(spec, "spec.")?),
    };
    let priority = priority.unwrap_or_default();
    let new = NewTask { project_id, work, agent_named, priority, max_attempts, prefix: "spec." };
    let id = TaskId(request.nonce);
    let task = tasks::accept(&app, &caller.actor(), id, new, clock::now()).await?;
    Ok(accepted(format!("/work/{}", task.id), TaskView::from(task)))
}

/// Tasks of all types, newest first.
#[utoipa::path(
    get, path = "/work", tag = "work", operation_id = "list_work",
    security(("key" = ["work:read"])),
    params(WorkQuery),
    responses((status = 200, description = "A page", body = List<TaskView>))
)]
async fn list(
    State(app): State<App>,
    InQuery(query): InQuery<WorkQuery>,
) -> ApiResult<Json<List<TaskView>>> {
    let state = query.state.map(TaskState::as_str);
    let filters = [query.project_id.as_ref().map(ProjectId::as_str), state];
    let listing = Listing::new("work", &filters, query.limit, query.cursor.as_deref())?;
    let filter = TaskFilter { project: query.project_id, state: query.state, builds_only: false };
    let listed = app.store().tasks(&filter, &listing.page()?).await?;
    Ok(Json(listing.answer(listed, |record| record.task.id.0, TaskView::from)))
}

/// One task.
#[utoipa::path(
    get, path = "/work/{task_id}", tag = "work", operation_id = "show_work",
    security(("key" = ["work:read"])),
    params(("task_id" = TaskId, Path, description = "The task")),
    responses((status = 200, description = "The task", body = TaskView))
)]
async fn show(State(app): State<App>, InPath(id): InPath<TaskId>) -> ApiResult<Json<TaskView>> {
    Ok(Json(app.store().task(id).await?.into()))
}

/// Where a task is, in short.
#[utoipa::path(
    get, path = "/work/{task_id}/status", tag = "work", operation_id = "work_status",
    security(("key" = ["work:read"])),
    params(("task_id" = TaskId, Path, description = "The task")),
    responses((status = 200, description = "Its status", body = TaskStatus))
)]
async fn status(State(app): State<App>, InPath(id): InPath<TaskId>) -> ApiResult<Json<TaskStatus>> {
    let TaskView { task, cancel_requested, .. } = app.store().task(id).await?.into();
    let build = task.result.as_ref().and_then(TaskResult::as_build);
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
        (status = 202, description = "Its worker will stop it", body = TaskView)
    )
)]
async fn cancel(
    State(app): State<App>,
    InPath(id): InPath<TaskId>,
    caller: Caller,
    request: IdempotentRequest,
    _: OptionalJson<EmptyBody>,
) -> ApiResult<Response> {
    let view = tasks::cancel(&app, &caller.actor(), id, request.resumed, clock::now()).await?;
    Ok(cancelled(view))
}

/// Statistics of tasks and wake-ups.
#[utoipa::path(
    get, path = "/work/stats", tag = "work", operation_id = "work_stats",
    security(("key" = ["work:read"])),
    responses((status = 200, description = "Depth, oldest age, dead letters", body = Stats))
)]
async fn stats(State(app): State<App>) -> ApiResult<Json<Stats>> {
    let work = app.store().work_stats(clock::now()).await?;
    let queue = app.queue().stats().await?;
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
    State(app): State<App>,
    InQuery(query): InQuery<PageQuery>,
) -> ApiResult<Json<List<DeadLetter>>> {
    let listing = Listing::new("dead", &[], query.limit, query.cursor.as_deref())?;
    let listed = app.store().dead_letters(&listing.page()?).await?;
    Ok(Json(listing.answer(listed, |letter| letter.id, |letter| letter)))
}

/// Sends wake-ups for dead letters, and retries failed tasks on the same lineage.
#[utoipa::path(
    post, path = "/work/dead/redrive", tag = "work", operation_id = "redrive",
    security(("key" = ["work:write"])),
    request_body = Option<Redrive>,
    responses((status = 200, description = "What was done", body = Redriven))
)]
async fn redrive(
    State(app): State<App>,
    caller: Caller,
    request: IdempotentRequest,
    OptionalJson(body): OptionalJson<Redrive>,
) -> ApiResult<Json<Redriven>> {
    let retry_id = |task: TaskId| TaskId(request.derived(&task.to_string()));
    let by = caller.actor();
    Ok(Json(redrive::redrive(&app, &by, body, retry_id, clock::now()).await?))
}
