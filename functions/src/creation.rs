//! Making projects: what may be asked for, and the request that makes it.

#![allow(unused_qualifications, reason = "`utoipa::path` writes `params` so")]

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::LOCATION;
use rdev_domain::git::Branch;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::key::Scope;
use rdev_domain::ports::{Conflict, PortError};
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::provision::{Provisioning, StepName};
use rdev_domain::spec::{AgentName, BuildSpec, Work};
use rdev_domain::task::{Priority, Task};
use rdev_domain::time::Timestamp;
use rdev_domain::webhook::{Webhook, WebhookUrl};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Caller;
use crate::builds::TaskView;
use crate::domains::WantedDomain;
use crate::extract::JsonBody;
use crate::idempotency::Try;
use crate::problem::{Answer, Code, Problem};
use crate::projects::{check_description, check_git_url, check_limit, field, webhook};
use crate::work::{self, Wanted};
use crate::{Api, domains, provision, templates};

/// `POST /project…` and `POST /projects`.
pub(crate) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .routes(routes!(create))
        .routes(routes!(create_and_build))
        .routes(routes!(create_plural))
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
    /// What its repository starts with: one of `GET /templates`; `static` by default, unless
    /// configured otherwise.
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
    /// A name in DNS for it: `{}` is `<name>.<zone>` with the configured defaults.
    #[serde(default)]
    pub domain: Option<WantedDomain>,
    /// Who is told when a build ends.
    #[serde(default)]
    pub webhook_url: Option<WebhookUrl>,
    /// What signs that: `whsec_` and 24 to 64 bytes in base64. Given together with `webhook_url`.
    #[serde(default)]
    pub webhook_secret: Option<String>,
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
    /// A name in DNS for it: `{}` is `<name>.<zone>` with the configured defaults.
    #[serde(default)]
    pub domain: Option<WantedDomain>,
    /// Who is told when a build ends.
    #[serde(default)]
    pub webhook_url: Option<WebhookUrl>,
    /// What signs that: `whsec_` and 24 to 64 bytes in base64. Given together with `webhook_url`.
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
    State(api): State<Api>,
    caller: Caller,
    attempt: Try,
    JsonBody(wanted): JsonBody<CreateProject>,
) -> Answer<Response> {
    let now = crate::now();
    let (project, webhook) = planned(&api, &caller, wanted, attempt, now).await?;
    let project = provisioned(&api, &caller, project, webhook.as_ref(), now).await?;
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
        domain: wanted.domain,
        webhook_url: wanted.webhook_url,
        webhook_secret: wanted.webhook_secret,
    };
    // Both are checked before either is made.
    build.check().map_err(Problem::invalid)?;
    let (project, webhook) = planned(&api, &caller, project, attempt, now).await?;
    let project = provisioned(&api, &caller, project, webhook.as_ref(), now).await?;
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
    let created =
        Created { project, task: TaskView { task, cancel_requested: false, pipeline: None } };
    Ok((StatusCode::ACCEPTED, [(LOCATION, location)], Json(created)).into_response())
}

/// The project that is asked for, its steps, and its webhook. Nothing is changed yet.
async fn planned(
    api: &Api,
    caller: &Caller,
    wanted: CreateProject,
    attempt: Try,
    now: Timestamp,
) -> Answer<(Project, Option<Webhook>)> {
    let mut errors = Vec::new();
    check_description(wanted.description.as_deref(), &mut errors);
    check_limit(wanted.build_limit, &mut errors);
    let own = wanted.repository.unwrap_or(true);
    if let Some(url) = &wanted.git_url {
        check_git_url(api, url, &mut errors);
        if wanted.template.is_some() {
            errors.push(field("template", "needs a repository of the project's own"));
        } else if !own {
            errors.push(field("git_url", "contradicts `repository`: false"));
        }
    } else if !own && wanted.template.is_some() {
        errors.push(field("template", "needs a repository of the project's own"));
    }
    let template = (own && wanted.git_url.is_none())
        .then(|| wanted.template.unwrap_or_else(|| api.settings().default_template.clone()));
    let known = templates::names(api);
    if template.as_deref().is_some_and(|name| !known.contains(name)) {
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        errors.push(field("template", format!("must be one of: {known}")));
    }
    let secret = wanted.webhook_secret.as_deref();
    let webhook = webhook(api, wanted.webhook_url, secret, &mut errors);
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let domain = match wanted.domain {
        Some(_) if !caller.key.allows(Scope::DomainsWrite) => {
            let detail =
                format!("the key lacks the scope {}, which `domain` needs", Scope::DomainsWrite);
            return Err(Problem::new(Code::MissingScope, detail));
        }
        Some(domain) => Some(domains::read(api, caller, &wanted.name, domain, "domain.")?),
        None => None,
    };
    if let Some(spec) = &domain {
        match api.store().domain(&spec.domain).await {
            Ok(taken) if taken.project_id != wanted.name => {
                return Err(PortError::from(Conflict::DomainTaken).into());
            }
            Ok(_) | Err(PortError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let made = template.is_some();
    let steps = [
        (StepName::Repository, made),
        (StepName::Ci, made && api.ci().is_some()),
        (StepName::Domain, domain.is_some()),
    ];
    let steps: Vec<_> =
        steps.into_iter().filter(|(_, wanted)| *wanted).map(|(step, _)| step).collect();
    let state = if steps.is_empty() { ProjectState::Ready } else { ProjectState::Provisioning };
    let main = || "main".parse().expect("`main` is a branch name");
    let project = Project {
        id: wanted.name,
        description: wanted.description.unwrap_or_default(),
        template,
        git_url: wanted.git_url,
        default_branch: wanted.default_branch.unwrap_or_else(main),
        build_limit: wanted.build_limit.unwrap_or(1),
        state,
        provisioning: Provisioning::of(&steps, domain, now),
        forge_id: None,
        ci_id: None,
        webhook_url: None,
        pushed: None,
        created_at: now,
        updated_at: now,
        nonce: attempt.nonce,
    };
    Ok((project, webhook))
}

/// Records the project and makes what it gets. A repeat of the same request goes on where the
/// one before was interrupted.
async fn provisioned(
    api: &Api,
    caller: &Caller,
    project: Project,
    webhook: Option<&Webhook>,
    now: Timestamp,
) -> Answer<Project> {
    let by = caller.actor();
    let mut project = api.store().create_project(&project, &by, now).await?;
    if webhook.is_some() {
        project = api.store().set_webhook(&project.id, webhook, &by, now).await?;
    }
    provision::run(api, &by, project, now).await
}

pub(crate) fn build_location(task: &Task) -> String {
    format!("/projects/{}/builds/{}", task.project_id, task.id)
}
