//! Creating projects, also with a first build.

#![allow(unused_qualifications, reason = "`utoipa::path` writes `params` so")]

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::LOCATION;
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::project::Project;
use rdev_domain::pull_request::{Deliver, PullRequestOptions};
use rdev_domain::spec::{AgentName, BuildSpec, Work};
use rdev_domain::task::Priority;
use rdev_domain::webhook::WebhookUrl;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::clock;
use crate::endpoints::task_response::{accepted, build_location};
use crate::http::auth::Caller;
use crate::http::extract::JsonBody;
use crate::http::idempotency::IdempotentRequest;
use crate::http::problem::{ApiResult, Problem};
use crate::services::creation::{self, CreateProject};
use crate::services::domain_records::WantedDomain;
use crate::services::task_view::TaskView;
use crate::services::tasks::{self, NewTask};

/// `POST /project…` and `POST /projects`.
pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(create))
        .routes(routes!(create_and_build))
        .routes(routes!(create_plural))
}

/// A project to create, and its first build.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAndBuild {
    /// The project's name, which is its id.
    pub name: ProjectId,
    /// For people, at most 1,000 characters.
    #[serde(default)]
    pub description: Option<String>,
    /// What its repository starts with, as in `POST /project`.
    #[serde(default)]
    pub template: Option<String>,
    /// The task for the agent.
    pub prompt: String,
    /// The agent that runs; the configured default when absent.
    #[serde(default)]
    pub agent: Option<AgentName>,
    /// Push the commit to the branch. `true` by default.
    #[serde(default)]
    pub auto_push: Option<bool>,
    /// How builds deliver unless they say so themselves: `branch` by default.
    #[serde(default)]
    pub deliver: Option<Deliver>,
    /// What is set on the pull requests of builds that do not say so themselves.
    #[serde(default)]
    pub pull_request_options: Option<PullRequestOptions>,
    /// A name in DNS for it: `{}` is `<name>.<zone>` with the configured defaults.
    #[serde(default)]
    pub domain: Option<WantedDomain>,
    /// The URL that is notified when a build ends.
    #[serde(default)]
    pub webhook_url: Option<WebhookUrl>,
    /// The secret that signs notifications: `whsec_` and 24 to 64 bytes in base64. Given together
    /// with `webhook_url`.
    #[serde(default)]
    pub webhook_secret: Option<String>,
}

/// A new project and its first build.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Created {
    /// The project.
    pub project: Project,
    /// The build, queued.
    pub task: TaskView,
}

/// Creates a project: its repository, its CI, its name, in this order.
#[utoipa::path(
    post, path = "/project", tag = "projects", operation_id = "create_project",
    security(("key" = ["projects:write"])),
    request_body = CreateProject,
    responses((status = 201, description = "Created", body = Project,
        headers(("location" = String, description = "Where the project is"))))
)]
async fn create(
    State(app): State<App>,
    caller: Caller,
    request: IdempotentRequest,
    JsonBody(body): JsonBody<CreateProject>,
) -> ApiResult<Response> {
    let now = clock::now();
    let plan = creation::plan(&app, &caller.key, body, request.nonce, now).await?;
    let project = creation::create(&app, &caller.actor(), plan, now).await?;
    let location = format!("/projects/{}", project.id);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(project)).into_response())
}

/// The same as `POST /project`.
#[utoipa::path(
    post, path = "/projects", tag = "projects", operation_id = "create_project_2",
    security(("key" = ["projects:write"])),
    request_body = CreateProject,
    responses((status = 201, description = "Created", body = Project,
        headers(("location" = String, description = "Where the project is"))))
)]
async fn create_plural(
    state: State<App>,
    caller: Caller,
    request: IdempotentRequest,
    body: JsonBody<CreateProject>,
) -> ApiResult<Response> {
    create(state, caller, request, body).await
}

/// Creates a project from a template and queues its first build.
#[utoipa::path(
    post, path = "/project/create-and-build", tag = "projects", operation_id = "create_and_build",
    security(("key" = ["projects:write", "builds:write"])),
    request_body = CreateAndBuild,
    responses((status = 202, description = "Created and queued", body = Created,
        headers(("location" = String, description = "Where the build is"))))
)]
async fn create_and_build(
    State(app): State<App>,
    caller: Caller,
    request: IdempotentRequest,
    JsonBody(body): JsonBody<CreateAndBuild>,
) -> ApiResult<Response> {
    let now = clock::now();
    let agent = body.agent.unwrap_or(app.settings().default_agent);
    let auto_push = body.auto_push.unwrap_or(true);
    let spec = BuildSpec { agent, auto_push, ..BuildSpec::of(body.prompt) };
    let build = Work::Build(spec);
    let project = CreateProject {
        name: body.name,
        description: body.description,
        template: body.template,
        git_url: None,
        repository: None,
        default_branch: None,
        build_limit: None,
        deliver: body.deliver,
        pull_request_options: body.pull_request_options,
        domain: body.domain,
        webhook_url: body.webhook_url,
        webhook_secret: body.webhook_secret,
    };
    // Both are checked before either is created.
    build.check().map_err(Problem::invalid)?;
    let by = caller.actor();
    let plan = creation::plan(&app, &caller.key, project, request.nonce, now).await?;
    let project = creation::create(&app, &by, plan, now).await?;
    let build = NewTask {
        project_id: project.id.clone(),
        work: build,
        agent_named: true,
        priority: Priority::default(),
        max_attempts: None,
        prefix: "",
    };
    let task = tasks::accept(&app, &by, TaskId(request.nonce), build, now).await?;
    let location = build_location(&task);
    Ok(accepted(location, Created { project, task: task.into() }))
}
