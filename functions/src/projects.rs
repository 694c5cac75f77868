//! Projects: create (also with a first build), list, show, change, delete.

#![allow(unused_qualifications, reason = "`utoipa::path` writes `params` so")]

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::LOCATION;
use rdev_domain::audit::Actor;
use rdev_domain::git::Branch;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::ports::{PortError, PortResult};
use rdev_domain::project::{Project, ProjectPatch, ProjectState};
use rdev_domain::spec::{AgentName, BuildSpec, FieldError, Work, plain_text};
use rdev_domain::task::{Priority, Task};
use rdev_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Api;
use crate::auth::Caller;
use crate::builds::TaskView;
use crate::cursor::{List, Listing, PageQuery};
use crate::extract::{InPath, InQuery, JsonBody};
use crate::idempotency::Try;
use crate::problem::{Answer, Code, Problem, chain, refused};
use crate::templates::Template;
use crate::work::{self, Wanted};

/// `/project…` and `/projects…`, without builds, domains and CI.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .routes(routes!(create))
        .routes(routes!(create_and_build))
        .routes(routes!(list, create_plural))
        .routes(routes!(show, change, delete))
}

/// A project that is wanted.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateProject {
    /// Its name, which is its id.
    pub name: ProjectId,
    /// For people, at most 1,000 characters.
    #[serde(default)]
    pub description: Option<String>,
    /// What its repository starts with: `static` (the default, unless configured
    /// otherwise) or `empty`.
    #[serde(default)]
    pub template: Option<String>,
    /// An existing repository to use instead of a new one.
    #[serde(default)]
    pub git_url: Option<GitUrl>,
    /// `false`: the project has no repository, each build names its own. `true` by default.
    #[serde(default)]
    pub repository: Option<bool>,
    /// The branch that builds use unless they name another; `main` by default.
    #[serde(default)]
    pub default_branch: Option<Branch>,
    /// How many of its tasks may run at once: 1 to 100, 1 by default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    pub build_limit: Option<u32>,
}

/// A project that is wanted, and its first build.
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
    /// What the agent is asked to do.
    pub prompt: String,
    /// The agent that does it; the configured default when absent.
    #[serde(default)]
    pub agent: Option<AgentName>,
    /// Push the commit to the branch. `true` by default.
    #[serde(default)]
    pub auto_push: Option<bool>,
}

/// A new project and its first build.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Created {
    /// The project.
    pub project: Project,
    /// The build, queued.
    pub task: TaskView,
}

/// What to change; absent fields stay as they are.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeProject {
    /// For people, at most 1,000 characters.
    #[serde(default)]
    pub description: Option<String>,
    /// The branch that builds use unless they name another.
    #[serde(default)]
    pub default_branch: Option<Branch>,
    /// How many of its tasks may run at once: 1 to 100.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    pub build_limit: Option<u32>,
}

/// How to delete.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeleteQuery {
    /// Delete its repository too, which rdev made. `false` by default.
    delete_repository: Option<bool>,
}

/// Where a project's repository comes from.
#[derive(Debug, Clone)]
enum Source {
    Template(Template),
    Existing(GitUrl),
    /// Each build names its own.
    PerBuild,
}

/// Creates a project and its repository.
#[utoipa::path(
    post, path = "/project", tag = "projects", operation_id = "create_project",
    security(("key" = ["projects:write"])),
    request_body = CreateProject,
    responses((status = 201, description = "Created", body = Project,
        headers(("location" = String, description = "Where the project is"))))
)]
async fn create(
    State(api): State<Api>,
    caller: Caller,
    attempt: Try,
    JsonBody(wanted): JsonBody<CreateProject>,
) -> Answer<Response> {
    let now = crate::now();
    let (project, source) = planned(&api, wanted, attempt, now)?;
    let project = provision(&api, &caller, project, &source, now).await?;
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
    state: State<Api>,
    caller: Caller,
    attempt: Try,
    body: JsonBody<CreateProject>,
) -> Answer<Response> {
    create(state, caller, attempt, body).await
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
    State(api): State<Api>,
    caller: Caller,
    attempt: Try,
    JsonBody(wanted): JsonBody<CreateAndBuild>,
) -> Answer<Response> {
    let now = crate::now();
    let agent = wanted.agent.unwrap_or(api.settings().default_agent);
    let auto_push = wanted.auto_push.unwrap_or(true);
    let spec = BuildSpec { agent, auto_push, ..BuildSpec::of(wanted.prompt) };
    let build = Work::Build(spec);
    let project = CreateProject {
        name: wanted.name,
        description: wanted.description,
        template: wanted.template,
        git_url: None,
        repository: None,
        default_branch: None,
        build_limit: None,
    };
    // Both are checked before either is made.
    build.check().map_err(Problem::invalid)?;
    let (project, source) = planned(&api, project, attempt, now)?;
    let project = provision(&api, &caller, project, &source, now).await?;
    let build = Wanted {
        project_id: project.id.clone(),
        work: build,
        agent_named: true,
        priority: Priority::default(),
        max_attempts: None,
        prefix: "",
    };
    let task = work::accept(&api, &caller, TaskId(attempt.nonce), build, now).await?;
    let location = build_location(&task);
    let created = Created { project, task: TaskView { task, cancel_requested: false } };
    Ok((StatusCode::ACCEPTED, [(LOCATION, location)], Json(created)).into_response())
}

/// Projects, newest first.
#[utoipa::path(
    get, path = "/projects", tag = "projects", operation_id = "list_projects",
    security(("key" = ["projects:read"])),
    params(PageQuery),
    responses((status = 200, description = "A page", body = List<Project>))
)]
async fn list(
    State(api): State<Api>,
    InQuery(query): InQuery<PageQuery>,
) -> Answer<Json<List<Project>>> {
    let listing = Listing::new("projects", &[], query.limit, query.cursor.as_deref())?;
    let listed = api.store().projects(&listing.page()?).await?;
    Ok(Json(listing.answer(listed, |project| project.nonce, |project| project)))
}

/// One project.
#[utoipa::path(
    get, path = "/projects/{id}", tag = "projects", operation_id = "show_project",
    security(("key" = ["projects:read"])),
    params(("id" = ProjectId, Path, description = "The project")),
    responses((status = 200, description = "The project", body = Project))
)]
async fn show(State(api): State<Api>, InPath(id): InPath<ProjectId>) -> Answer<Json<Project>> {
    Ok(Json(api.store().project(&id).await?))
}

/// Changes a project.
#[utoipa::path(
    patch, path = "/projects/{id}", tag = "projects", operation_id = "change_project",
    security(("key" = ["projects:write"])),
    params(("id" = ProjectId, Path, description = "The project")),
    request_body = ChangeProject,
    responses((status = 200, description = "The project after it", body = Project))
)]
async fn change(
    State(api): State<Api>,
    InPath(id): InPath<ProjectId>,
    caller: Caller,
    JsonBody(wanted): JsonBody<ChangeProject>,
) -> Answer<Json<Project>> {
    let now = crate::now();
    let mut errors = Vec::new();
    check_description(wanted.description.as_deref(), &mut errors);
    check_limit(wanted.build_limit, &mut errors);
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let patch = ProjectPatch {
        description: wanted.description,
        default_branch: wanted.default_branch,
        build_limit: wanted.build_limit,
        git_url: None,
        state: None,
    };
    let (project, marks) = api.store().update_project(&id, &patch, &caller.actor(), now).await?;
    api.send(&marks, now).await;
    Ok(Json(project))
}

/// Deletes a project, unless one of its tasks runs; what is queued is cancelled.
#[utoipa::path(
    delete, path = "/projects/{id}", tag = "projects", operation_id = "delete_project",
    security(("key" = ["projects:write"])),
    params(("id" = ProjectId, Path, description = "The project"), DeleteQuery),
    responses((status = 204, description = "Deleted"))
)]
async fn delete(
    State(api): State<Api>,
    InPath(id): InPath<ProjectId>,
    InQuery(query): InQuery<DeleteQuery>,
    caller: Caller,
) -> Answer<StatusCode> {
    let now = crate::now();
    let with_repository = query.delete_repository.unwrap_or(false);
    let project = api.store().project(&id).await?;
    // Only what was made from a template is ours. Another repository of that
    // name may be left from a project that was deleted without it.
    if with_repository && project.template.is_none() {
        return Err(Problem::new(
            Code::RepositoryNotOurs,
            "the project's repository was not made by rdev and is not deleted by it",
        ));
    }
    let by = caller.actor();
    api.store().begin_delete_project(&id, &by, now).await?;
    if with_repository {
        api.forge().delete_repository(&id).await.map_err(forge_failed)?;
    }
    match api.store().forget_project(&id, &by, now).await {
        // Two deletes at once: the other one was faster.
        Ok(()) | Err(PortError::NotFound { .. }) => Ok(StatusCode::NO_CONTENT),
        Err(error) => Err(error.into()),
    }
}

/// The project that is asked for, and where its repository comes from.
fn planned(
    api: &Api,
    wanted: CreateProject,
    attempt: Try,
    now: Timestamp,
) -> Answer<(Project, Source)> {
    let mut errors = Vec::new();
    check_description(wanted.description.as_deref(), &mut errors);
    check_limit(wanted.build_limit, &mut errors);
    let own = wanted.repository.unwrap_or(true);
    let source = match (wanted.template.as_deref(), wanted.git_url, own) {
        (None, Some(url), true) => {
            if let Err(invalid) = url.check(&api.settings().url_policy) {
                errors.push(refused("git_url", &invalid));
            }
            Some(Source::Existing(url))
        }
        (None, None, false) => Some(Source::PerBuild),
        (name, None, true) => {
            let name = name.unwrap_or(&api.settings().default_template);
            let template = Template::named(name);
            if template.is_none() {
                let known: Vec<_> = crate::templates::ALL.iter().map(|one| one.name).collect();
                errors.push(field("template", format!("must be one of: {}", known.join(", "))));
            }
            template.map(Source::Template)
        }
        (Some(_), _, _) => {
            errors.push(field("template", "needs a repository of the project's own"));
            None
        }
        (None, Some(_), false) => {
            errors.push(field("git_url", "contradicts `repository`: false"));
            None
        }
    };
    let Some(source) = source.filter(|_| errors.is_empty()) else {
        return Err(Problem::invalid(errors));
    };
    let main = || "main".parse().expect("`main` is a branch name");
    let project = Project {
        id: wanted.name,
        description: wanted.description.unwrap_or_default(),
        template: match &source {
            Source::Template(template) => Some(template.name.to_owned()),
            _ => None,
        },
        git_url: match &source {
            Source::Existing(url) => Some(url.clone()),
            _ => None,
        },
        default_branch: wanted.default_branch.unwrap_or_else(main),
        build_limit: wanted.build_limit.unwrap_or(1),
        state: match &source {
            Source::Template(_) => ProjectState::Provisioning,
            _ => ProjectState::Ready,
        },
        created_at: now,
        updated_at: now,
        nonce: attempt.nonce,
    };
    Ok((project, source))
}

/// Records the project, makes its repository, and turns it `ready`. A repeat
/// of the same request goes on where the one before was interrupted.
async fn provision(
    api: &Api,
    caller: &Caller,
    project: Project,
    source: &Source,
    now: Timestamp,
) -> Answer<Project> {
    let by = caller.actor();
    let project = api.store().create_project(&project, &by, now).await?;
    let Source::Template(template) = source else { return Ok(project) };
    match project.state {
        ProjectState::Ready => return Ok(project),
        ProjectState::Deleting => {
            return Err(Problem::new(Code::ProjectNotReady, "the project is being deleted"));
        }
        ProjectState::Provisioning | ProjectState::ProvisioningFailed => {}
    }
    let id = &project.id;
    let made = api.forge().create_repository(id, &project.default_branch, &template.seed()).await;
    if let Err(error @ PortError::NotSupported { .. }) = made {
        // It never will be made: the name is free again for a request that brings a repository.
        if let Err(error) = undo(api, &by, id, now).await {
            tracing::warn!(error = %chain(&error), project = %id, "a project stays half made");
        }
        return Err(forge_failed(error));
    }
    let patch = match &made {
        Ok(repository) => ProjectPatch {
            git_url: Some(repository.git_url.clone()),
            default_branch: Some(repository.default_branch.clone()),
            state: Some(ProjectState::Ready),
            ..ProjectPatch::default()
        },
        Err(_) => ProjectPatch {
            state: Some(ProjectState::ProvisioningFailed),
            ..ProjectPatch::default()
        },
    };
    let updated = api.store().update_project(id, &patch, &by, now).await;
    match (made, updated) {
        (Ok(_), Ok((project, marks))) => {
            api.send(&marks, now).await;
            Ok(project)
        }
        (Ok(_), Err(error)) => Err(error.into()),
        (Err(error), updated) => {
            if let Err(error) = updated {
                tracing::warn!(error = %chain(&error), project = %id,
                    "not recorded as provisioning_failed; the sweep does it");
            }
            Err(forge_failed(error))
        }
    }
}

async fn undo(api: &Api, by: &Actor, id: &ProjectId, now: Timestamp) -> PortResult<()> {
    api.store().begin_delete_project(id, by, now).await?;
    api.store().forget_project(id, by, now).await
}

/// The forge is no part of this server: 503 when it is away, 502 when it failed.
fn forge_failed(error: PortError) -> Problem {
    if error.is_transient() {
        return error.into();
    }
    if matches!(error, PortError::NotSupported { .. }) {
        let detail = "this installation makes no repositories: name an existing one with \
                      `git_url`, or set `repository` to false";
        return Problem::new(Code::ForgeNotConfigured, detail);
    }
    tracing::error!(error = %chain(&error), "the forge failed");
    Problem::new(Code::UpstreamFailed, format!("the repository could not be changed: {error}"))
}

pub(crate) fn build_location(task: &Task) -> String {
    format!("/projects/{}/builds/{}", task.project_id, task.id)
}

fn check_description(description: Option<&str>, errors: &mut Vec<FieldError>) {
    if description.is_some_and(|text| text.chars().count() > 1000 || !plain_text(text)) {
        errors.push(field(
            "description",
            "must have at most 1000 characters and no NUL or control characters",
        ));
    }
}

fn check_limit(limit: Option<u32>, errors: &mut Vec<FieldError>) {
    if limit.is_some_and(|limit| !(1..=100).contains(&limit)) {
        errors.push(field("build_limit", "must lie between 1 and 100"));
    }
}

fn field(name: &str, message: impl Into<String>) -> FieldError {
    FieldError { field: name.to_owned(), message: message.into() }
}
