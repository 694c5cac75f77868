//! Builds of a project: start, list, show, cancel, retry, events, diff.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};
use rdev_domain::git::Branch;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::ports::{PortError, TaskFilter, TaskRecord};
use rdev_domain::pull_request::PullRequestOptions;
use rdev_domain::spec::{AgentName, BuildSpec, Work};
use rdev_domain::step;
use rdev_domain::task::Priority;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::clock;
use crate::endpoints::task_response::{build_accepted, cancelled};
use crate::http::auth::Caller;
use crate::http::cursor::{List, Listing, PageQuery};
use crate::http::extract::{EmptyBody, InPath, InQuery, JsonBody, OptionalJson};
use crate::http::idempotency::IdempotentRequest;
use crate::http::problem::{ApiResult, Code, Problem};
use crate::http::stream::{self, Events, EventsQuery};
use crate::services::build_pipeline;
use crate::services::task_view::TaskView;
use crate::services::tasks::{self, NewTask};

/// `/projects/{id}/builds…`.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(list, start))
        .routes(routes!(show))
        .routes(routes!(cancel))
        .routes(routes!(retry))
        .routes(routes!(events))
        .routes(routes!(diff))
}

/// A build to start. Absent (or `null`) fields take their defaults.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartBuild {
    /// The task for the agent. Not empty.
    pub prompt: String,
    /// The agent that runs; the configured default when absent, or the one
    /// of `continue_from`.
    #[serde(default)]
    pub agent: Option<AgentName>,
    /// The model, in the agent's own naming.
    #[serde(default)]
    pub model: Option<String>,
    /// The branch to build on and deliver to; the project's default branch when absent.
    #[serde(default)]
    pub branch: Option<Branch>,
    /// Commit what the agent changed: `true` by default. Without it only the diff is kept.
    #[serde(default)]
    pub auto_commit: Option<bool>,
    /// Push the commit to the branch: `true` by default. Without it the commit
    /// stays at `refs/rdev/kept/<task>`.
    #[serde(default)]
    pub auto_push: Option<bool>,
    /// Deliver to the branch `rdev/<lineage>` and open a pull request; as the project's `deliver`
    /// says when absent.
    #[serde(default)]
    pub pull_request: Option<bool>,
    /// What is set on the pull request; absent fields as the project says.
    #[serde(default)]
    pub pull_request_options: Option<PullRequestOptions>,
    /// Shell commands that must succeed before anything is committed: none by default.
    #[serde(default)]
    pub verify: Option<Vec<String>>,
    /// The time one attempt may take, in seconds: 1 to 7200, 3600 by default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 7200)]
    pub timeout_s: Option<u32>,
    /// The time an agent may be silent, in seconds: 1 to 7200, 600 by default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 7200)]
    pub stall_timeout_s: Option<u32>,
    /// The number of model turns the agent may take: 1 or more.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub max_turns: Option<u32>,
    /// What the agent may spend, in US dollars: greater than 0.
    #[serde(default)]
    #[schema(exclusive_minimum = 0.0)]
    pub max_cost_usd: Option<f64>,
    /// The repository; only for a project without one.
    #[serde(default)]
    pub git_url: Option<GitUrl>,
    /// A finished task of the same project whose agent session is resumed.
    #[serde(default)]
    pub continue_from: Option<TaskId>,
    /// The commit's message; made from the prompt when absent.
    #[serde(default)]
    pub commit_message: Option<String>,
    /// 0 to 9, higher first: 5 by default.
    #[serde(default)]
    pub priority: Option<Priority>,
    /// How many attempts it may have: 1 to 10, 3 by default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10)]
    pub max_attempts: Option<u32>,
}

impl StartBuild {
    fn spec(self, default_agent: AgentName) -> BuildSpec {
        let default = BuildSpec::of(self.prompt);
        BuildSpec {
            agent: self.agent.unwrap_or(default_agent),
            model: self.model,
            branch: self.branch,
            auto_commit: self.auto_commit.unwrap_or(default.auto_commit),
            auto_push: self.auto_push.unwrap_or(default.auto_push),
            pull_request: self.pull_request,
            pull_request_options: Box::new(self.pull_request_options.unwrap_or_default()),
            verify: self.verify.unwrap_or_default(),
            timeout_s: self.timeout_s.unwrap_or(default.timeout_s),
            stall_timeout_s: self.stall_timeout_s.unwrap_or(default.stall_timeout_s),
            max_turns: self.max_turns,
            max_cost_usd: self.max_cost_usd,
            git_url: self.git_url,
            continue_from: self.continue_from,
            commit_message: self.commit_message,
            prompt: default.prompt,
        }
    }
}

/// Queues a build.
#[utoipa::path(
    post, path = "/projects/{id}/builds", tag = "builds", operation_id = "start_build",
    security(("key" = ["builds:write"])),
    params(("id" = ProjectId, Path, description = "The project")),
    request_body = StartBuild,
    responses((status = 202, description = "Queued", body = TaskView,
        headers(("location" = String, description = "Where the build is"))))
)]
async fn start(
    State(app): State<App>,
    InPath(project_id): InPath<ProjectId>,
    caller: Caller,
    request: IdempotentRequest,
    JsonBody(body): JsonBody<StartBuild>,
) -> ApiResult<Response> {
    let new = NewTask {
        project_id,
        agent_named: body.agent.is_some(),
        priority: body.priority.unwrap_or_default(),
        max_attempts: body.max_attempts,
        prefix: "",
        work: Work::Build(body.spec(app.settings().default_agent)),
    };
    let id = TaskId(request.nonce);
    let task = tasks::accept(&app, &caller.actor(), id, new, clock::now()).await?;
    Ok(build_accepted(task))
}

/// A project's builds, newest first.
#[utoipa::path(
    get, path = "/projects/{id}/builds", tag = "builds", operation_id = "list_builds",
    security(("key" = ["builds:read"])),
    params(("id" = ProjectId, Path, description = "The project"), PageQuery),
    responses((status = 200, description = "A page", body = List<TaskView>))
)]
async fn list(
    State(app): State<App>,
    InPath(id): InPath<ProjectId>,
    InQuery(query): InQuery<PageQuery>,
) -> ApiResult<Json<List<TaskView>>> {
    let filters = [Some(id.as_str())];
    let listing = Listing::new("builds", &filters, query.limit, query.cursor.as_deref())?;
    let page = listing.page()?;
    app.store().project(&id).await?;
    let filter = TaskFilter { project: Some(id), state: None, builds_only: true };
    let listed = app.store().tasks(&filter, &page).await?;
    Ok(Json(listing.answer(listed, |record| record.task.id.0, TaskView::from)))
}

/// A build's audit record: spec, result, attempts, cost.
#[utoipa::path(
    get, path = "/projects/{id}/builds/{task_id}", tag = "builds", operation_id = "show_build",
    security(("key" = ["builds:read"])),
    params(
        ("id" = ProjectId, Path, description = "The project"),
        ("task_id" = TaskId, Path, description = "The build")
    ),
    responses((status = 200, description = "The build", body = TaskView))
)]
async fn show(
    State(app): State<App>,
    InPath((project, task)): InPath<(ProjectId, TaskId)>,
) -> ApiResult<Json<TaskView>> {
    let record = of_project(&app, &project, task).await?;
    let pipelines = build_pipeline::of_build(&app, &record.task).await?;
    let pipeline = pipelines.first().cloned();
    Ok(Json(TaskView { pipeline, pipelines, ..record.into() }))
}

/// Cancels a build: at once while it is queued; one that runs is stopped by its worker.
#[utoipa::path(
    post, path = "/projects/{id}/builds/{task_id}/cancel", tag = "builds",
    operation_id = "cancel_build",
    security(("key" = ["builds:write"])),
    params(
        ("id" = ProjectId, Path, description = "The project"),
        ("task_id" = TaskId, Path, description = "The build")
    ),
    responses(
        (status = 200, description = "Cancelled", body = TaskView),
        (status = 202, description = "Its worker will stop it", body = TaskView)
    )
)]
async fn cancel(
    State(app): State<App>,
    InPath((project, task)): InPath<(ProjectId, TaskId)>,
    caller: Caller,
    request: IdempotentRequest,
    _: OptionalJson<EmptyBody>,
) -> ApiResult<Response> {
    of_project(&app, &project, task).await?;
    let view = tasks::cancel(&app, &caller.actor(), task, request.resumed, clock::now()).await?;
    Ok(cancelled(view))
}

/// Does the work of a failed or cancelled build again, as a new task.
#[utoipa::path(
    post, path = "/projects/{id}/builds/{task_id}/retry", tag = "builds",
    operation_id = "retry_build",
    security(("key" = ["builds:write"])),
    params(
        ("id" = ProjectId, Path, description = "The project"),
        ("task_id" = TaskId, Path, description = "The build")
    ),
    responses((status = 202, description = "The new task, queued", body = TaskView,
        headers(("location" = String, description = "Where the new build is"))))
)]
async fn retry(
    State(app): State<App>,
    InPath((project, task)): InPath<(ProjectId, TaskId)>,
    caller: Caller,
    request: IdempotentRequest,
    _: OptionalJson<EmptyBody>,
) -> ApiResult<Response> {
    let now = clock::now();
    let old = of_project(&app, &project, task).await?.task;
    let new = step::retry(&old, TaskId(request.nonce), now)?;
    Ok(build_accepted(tasks::add(&app, &caller.actor(), &new, now).await?))
}

/// A build's events: a page as JSON, or with `Accept: text/event-stream` a stream.
#[utoipa::path(
    get, path = "/projects/{id}/builds/{task_id}/events", tag = "builds",
    operation_id = "build_events",
    security(("key" = ["builds:read"])),
    params(
        ("id" = ProjectId, Path, description = "The project"),
        ("task_id" = TaskId, Path, description = "The build"),
        EventsQuery,
        ("last-event-id" = Option<u64>, Header,
            description = "Of a stream: only events after this one")
    ),
    responses((status = 200, description = "Events, oldest first", content(
        (Events = "application/json"),
        (String = "text/event-stream")
    )))
)]
async fn events(
    State(app): State<App>,
    InPath((project, task)): InPath<(ProjectId, TaskId)>,
    InQuery(query): InQuery<EventsQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let range = query.checked(&headers)?;
    of_project(&app, &project, task).await?;
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if accepts.flat_map(|value| value.split(',')).any(is_event_stream) {
        stream::sse(&app, task, range).await
    } else {
        Ok(Json(stream::page(&app, task, range).await?).into_response())
    }
}

/// The unified diff of what a build changed.
#[utoipa::path(
    get, path = "/projects/{id}/builds/{task_id}/diff", tag = "builds", operation_id = "build_diff",
    security(("key" = ["builds:read"])),
    params(
        ("id" = ProjectId, Path, description = "The project"),
        ("task_id" = TaskId, Path, description = "The build")
    ),
    responses((status = 200, description = "The diff", body = String, content_type = "text/x-diff"))
)]
async fn diff(
    State(app): State<App>,
    InPath((project, task)): InPath<(ProjectId, TaskId)>,
) -> ApiResult<Response> {
    of_project(&app, &project, task).await?;
    match app.store().diff(task).await? {
        Some(diff) => Ok(([(CONTENT_TYPE, "text/x-diff; charset=utf-8")], diff).into_response()),
        None => Err(Problem::new(Code::NoDiff, "the build has no diff, or its diff has expired")),
    }
}

/// A task, if it is one of `project`: the one that has the name now or, when none has, had it last.
async fn of_project(app: &App, project: &ProjectId, task: TaskId) -> ApiResult<TaskRecord> {
    let record = app.store().task(task).await?;
    let is_own = match app.store().project(project).await {
        Ok(project) => project.owns_task(&record.task),
        Err(PortError::NotFound { .. }) => record.task.project_id == *project,
        Err(error) => return Err(error.into()),
    };
    if is_own { Ok(record) } else { Err(Problem::not_found()) }
}

fn is_event_stream(media_type: &str) -> bool {
    let kind = media_type.split(';').next().unwrap_or("").trim();
    kind.eq_ignore_ascii_case("text/event-stream")
}
