//! Projects: create (also with a first build), list, show, change, delete.

#![allow(unused_qualifications, reason = "`utoipa::path` writes `params` so")]

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use rdev_domain::git::Branch;
use rdev_domain::git_url::{GitUrl, UrlPolicy};
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::PortError;
use rdev_domain::project::{Project, ProjectPatch};
use rdev_domain::spec::{FieldError, plain_text};
use rdev_domain::webhook::{Webhook, WebhookUrl};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Caller;
use crate::cursor::{List, Listing, PageQuery};
use crate::extract::{InPath, InQuery, JsonBody, Nothing, OptionalJson};
use crate::problem::{Answer, Code, Problem, chain, refused};
use crate::{Api, creation, domains, provision};

/// `/project…` and `/projects…`, without builds, domains and CI.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .routes(routes!(list))
        .merge(creation::router())
        .routes(routes!(show, change, delete))
        .routes(routes!(resume))
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
    /// Who is told when a build ends, given together with `webhook_secret`; an empty text
    /// removes it.
    #[serde(default)]
    pub webhook_url: Option<String>,
    /// What signs that: `whsec_` and 24 to 64 bytes in base64.
    #[serde(default)]
    pub webhook_secret: Option<String>,
}

/// How to delete.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeleteQuery {
    /// Delete its repository too, which rdev made. `false` by default.
    delete_repository: Option<bool>,
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
    let removed = wanted.webhook_url.as_deref() == Some("") && wanted.webhook_secret.is_none();
    let url = wanted.webhook_url.as_deref().filter(|_| !removed);
    let url = match url.map(str::parse::<WebhookUrl>).transpose() {
        Ok(url) => url,
        Err(invalid) => {
            errors.push(refused("webhook_url", &invalid));
            None
        }
    };
    let webhook = webhook(&api, url, wanted.webhook_secret.as_deref(), &mut errors);
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let patch = ProjectPatch {
        description: wanted.description,
        default_branch: wanted.default_branch,
        build_limit: wanted.build_limit,
        ..ProjectPatch::default()
    };
    let by = caller.actor();
    let (mut project, outbox) = api.store().update_project(&id, &patch, &by, now).await?;
    api.send(&outbox, now).await;
    if removed || webhook.is_some() {
        project = api.store().set_webhook(&id, webhook.as_ref(), &by, now).await?;
    }
    Ok(Json(project))
}

/// Goes on with what a project gets, after a step failed or the server was ended.
#[utoipa::path(
    post, path = "/projects/{id}/provision", tag = "projects", operation_id = "provision_project",
    security(("key" = ["projects:write"])),
    params(("id" = ProjectId, Path, description = "The project")),
    responses((status = 200, description = "It is ready", body = Project))
)]
async fn resume(
    State(api): State<Api>,
    InPath(id): InPath<ProjectId>,
    caller: Caller,
    _: OptionalJson<Nothing>,
) -> Answer<Json<Project>> {
    let project = api.store().project(&id).await?;
    Ok(Json(provision::run(&api, &caller.actor(), project, crate::now()).await?))
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
    for domain in api.store().domains(&id).await? {
        let (dns, _) = domains::configured(&api)?;
        domains::withdraw(&api, dns, domain, &by, now).await?;
    }
    if let (Some(ci), Some(ci_id)) = (api.ci(), project.ci_id) {
        ci.deactivate(ci_id).await?;
    }
    if with_repository {
        let deleted = api.forge().delete_repository(&id, project.nonce).await;
        deleted.map_err(forge_failed)?;
    }
    match api.store().forget_project(&id, &by, now).await {
        // Two deletes at once: the other one was faster.
        Ok(()) | Err(PortError::NotFound { .. }) => Ok(StatusCode::NO_CONTENT),
        Err(error) => Err(error.into()),
    }
}

/// Whether this installation may use a repository.
pub(crate) fn check_git_url(api: &Api, url: &GitUrl, errors: &mut Vec<FieldError>) {
    if let Err(invalid) = url.check(&api.settings().url_policy) {
        errors.push(refused("git_url", &invalid));
    }
    let hosts = &api.settings().git_hosts;
    let allowed = hosts.is_empty() || url.host().is_none_or(|host| hosts.contains(&host));
    if !allowed {
        let hosts = hosts.join(", ");
        errors.push(field("git_url", format!("must be on one of: {hosts} (api.git_hosts)")));
    }
}

pub(crate) fn webhook(
    api: &Api,
    url: Option<WebhookUrl>,
    secret: Option<&str>,
    errors: &mut Vec<FieldError>,
) -> Option<Webhook> {
    match (url, secret) {
        (None, None) => None,
        (Some(_), None) => {
            errors.push(field("webhook_secret", "must be given with `webhook_url`"));
            None
        }
        (None, Some(_)) => {
            errors.push(field("webhook_url", "must be given with `webhook_secret`"));
            None
        }
        (Some(url), Some(secret)) => {
            let allow_private = api.settings().webhooks_to_private_addresses;
            let policy = UrlPolicy { allow_private, file_root: None };
            if let Err(invalid) = url.check(&policy) {
                errors.push(refused("webhook_url", &invalid));
            }
            match Webhook::secret(secret) {
                Ok(secret) => Some(Webhook { url, secret }),
                Err(invalid) => {
                    errors.push(refused("webhook_secret", &invalid));
                    None
                }
            }
        }
    }
}

/// A repository that could not be deleted: 503 when the forge is away, 502 when it failed.
fn forge_failed(error: PortError) -> Problem {
    match error {
        PortError::Broken { .. } | PortError::NotFound { .. } => {
            tracing::error!(error = %chain(&error), "the forge failed");
            Problem::new(Code::UpstreamFailed, error.to_string())
        }
        error => error.into(),
    }
}

pub(crate) fn check_description(description: Option<&str>, errors: &mut Vec<FieldError>) {
    if description.is_some_and(|text| text.chars().count() > 1000 || !plain_text(text)) {
        errors.push(field(
            "description",
            "must have at most 1000 characters and no NUL or control characters",
        ));
    }
}

pub(crate) fn check_limit(limit: Option<u32>, errors: &mut Vec<FieldError>) {
    if limit.is_some_and(|limit| !(1..=100).contains(&limit)) {
        errors.push(field("build_limit", "must lie between 1 and 100"));
    }
}

pub(crate) fn field(name: &str, message: impl Into<String>) -> FieldError {
    FieldError { field: name.to_owned(), message: message.into() }
}
