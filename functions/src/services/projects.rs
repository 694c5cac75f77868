//! Changing and deleting projects, and resuming a creation that was interrupted.

use rdev_domain::audit::Actor;
use rdev_domain::chain;
use rdev_domain::git::Branch;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{Conflict, OwnRepository, PortError};
use rdev_domain::project::{ABANDONED_AFTER, Deletion, Project, ProjectPatch, ProjectState};
use rdev_domain::pull_request::{Deliver, PullRequestOptions};
use rdev_domain::time::Timestamp;
use rdev_domain::webhook::WebhookUrl;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::services::error::{ServiceError, ServiceResult, refused};
use crate::services::project_rules::{check_build_limit, check_description, webhook};
use crate::services::remains::{Remains, RemainsOf, in_words};
use crate::services::{domain_records, provision};

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
    /// How builds deliver unless they say so themselves.
    #[serde(default)]
    pub deliver: Option<Deliver>,
    /// What is set on the pull requests of builds that do not say so themselves. Its absent fields,
    /// too, stay as they are.
    #[serde(default)]
    pub pull_request_options: Option<PullRequestOptions>,
    /// The URL that is notified when a build ends, given together with `webhook_secret`; an empty
    /// text removes it.
    #[serde(default)]
    pub webhook_url: Option<String>,
    /// The secret that signs notifications: `whsec_` and 24 to 64 bytes in base64.
    #[serde(default)]
    pub webhook_secret: Option<String>,
}

/// Changes a project, and its webhook when the request names one.
pub(crate) async fn change(
    app: &App,
    by: &Actor,
    id: &ProjectId,
    request: ChangeProject,
    now: Timestamp,
) -> ServiceResult<Project> {
    let mut errors = Vec::new();
    check_description(request.description.as_deref(), &mut errors);
    check_build_limit(request.build_limit, &mut errors);
    let options = request.pull_request_options.unwrap_or_default();
    errors.extend(options.check());
    let removed = request.webhook_url.as_deref() == Some("") && request.webhook_secret.is_none();
    let url = request.webhook_url.as_deref().filter(|_| !removed);
    let url = match url.map(str::parse::<WebhookUrl>).transpose() {
        Ok(url) => url,
        Err(invalid) => {
            errors.push(refused("webhook_url", &invalid));
            None
        }
    };
    let webhook = webhook(app, url, request.webhook_secret.as_deref(), &mut errors);
    if !errors.is_empty() {
        return Err(ServiceError::Invalid(errors));
    }
    let patch = ProjectPatch {
        description: request.description,
        default_branch: request.default_branch,
        build_limit: request.build_limit,
        deliver: request.deliver,
        pull_request_options: options,
        ..ProjectPatch::default()
    };
    let (mut project, outbox) = app.store().update_project(id, &patch, by, now).await?;
    app.send(&outbox, now).await;
    if removed || webhook.is_some() {
        project = app.store().set_webhook(id, webhook.as_ref(), by, now).await?;
    }
    Ok(project)
}

/// Runs the steps of a project's creation that are not done.
pub(crate) async fn resume(
    app: &App,
    by: &Actor,
    id: &ProjectId,
    now: Timestamp,
) -> ServiceResult<Project> {
    let project = app.store().project(id).await?;
    provision::run(app, by, project, now).await
}

/// What became of a request to delete a project.
pub(crate) enum Deleted {
    /// It is gone, but for what other systems refused to remove.
    Now(Vec<Remains>),
    /// What it had is gone, but a step of its creation may be under way. The sweep ends the
    /// deletion, once such a step has ended or its process is dead.
    Later(Box<Project>),
}

/// How many times a deletion looks again at a project that changes meanwhile.
const MAX_ROUNDS: usize = 20;

/// Deletes a project with what it has in other systems, unless one of its tasks runs.
pub(crate) async fn delete(
    app: &App,
    by: &Actor,
    id: &ProjectId,
    with_repository: bool,
    now: Timestamp,
) -> ServiceResult<Deleted> {
    for _ in 0..MAX_ROUNDS {
        let before = app.store().project(id).await?;
        match begin_deletion(app, by, &before, with_repository, now).await {
            Err(ServiceError::Port(PortError::Conflict(Conflict::ProjectChanged))) => {}
            begun => {
                let project = begun?;
                let left = remove_elsewhere(app, by, &project, now).await?;
                if step_under_way(&before, now) {
                    return Ok(Deleted::Later(Box::new(project)));
                }
                forget(app, by, id, &left, now).await?;
                return Ok(Deleted::Now(left));
            }
        }
    }
    Err(Conflict::Contended.into())
}

/// Whether a step of the project's creation may be under way.
fn step_under_way(before: &Project, now: Timestamp) -> bool {
    match before.state {
        ProjectState::Provisioning => true,
        // Another request has begun the deletion.
        ProjectState::Deleting => {
            before.next_step().is_some() && before.updated_at.plus(ABANDONED_AFTER) > now
        }
        ProjectState::Ready | ProjectState::ProvisioningFailed => false,
    }
}

async fn begin_deletion(
    app: &App,
    by: &Actor,
    project: &Project,
    with_repository: bool,
    now: Timestamp,
) -> ServiceResult<Project> {
    // rdev owns only repositories that it created from a template. A repository of that name may
    // also remain from a project that was deleted without it.
    if with_repository && project.template.is_none() {
        return Err(ServiceError::RepositoryNotOurs);
    }
    let deletion =
        if with_repository { Deletion::DeleteRepository } else { Deletion::KeepRepository };
    let expected = project.stage();
    let begun =
        app.store().begin_delete_project(&project.id, deletion, Some(&expected), by, now).await;
    Ok(begun?)
}

/// Ends the deletion of a project that is `deleting`, and no step of whose creation is under way:
/// removes what it has in other systems, and then its record. Repeated, it resumes where it
/// stopped. What other systems refuse to remove stays, and the audit says so.
pub(crate) async fn end_deletion(
    app: &App,
    by: &Actor,
    project: &Project,
    now: Timestamp,
) -> ServiceResult<()> {
    let left = remove_elsewhere(app, by, project, now).await?;
    forget(app, by, &project.id, &left, now).await
}

/// Removes what a project that is `deleting` has in other systems. Returns what they refused to
/// remove.
async fn remove_elsewhere(
    app: &App,
    by: &Actor,
    project: &Project,
    now: Timestamp,
) -> ServiceResult<Vec<Remains>> {
    let (id, mut left) = (&project.id, Vec::new());
    for domain in app.store().domains(id).await? {
        let (dns, _) = domain_records::provider(app)?;
        let name = domain.spec.domain.to_string();
        let removed = domain_records::withdraw(app, dns, domain, by, now).await;
        left.extend(Remains::of(RemainsOf::Domain, name, removed)?);
    }
    if let (Some(ci), Some(ci_id)) = (app.ci(), project.ci_id) {
        let removed = ci.deactivate(ci_id).await;
        left.extend(Remains::of(RemainsOf::Ci, ci_id.0.to_string(), removed)?);
    }
    if project.deletion == Some(Deletion::DeleteRepository) {
        let removed = app.forge().delete_repository(&OwnRepository::of(project)).await;
        let name = project.git_url.as_ref().map_or(id.as_str(), GitUrl::as_str);
        left.extend(Remains::of(RemainsOf::Repository, name, removed).map_err(not_removed)?);
    }
    let unrecorded = provision::remove_unrecorded(app, project).await.map_err(not_removed)?;
    // What is to be removed anyway is tried twice if its step was not recorded.
    let known =
        |new: &Remains| left.iter().any(|one| (one.what, &one.name) == (new.what, &new.name));
    if let Some(new) = unrecorded.filter(|new| !known(new)) {
        left.push(new);
    }
    Ok(left)
}

async fn forget(
    app: &App,
    by: &Actor,
    id: &ProjectId,
    left: &[Remains],
    now: Timestamp,
) -> ServiceResult<()> {
    for one in left {
        tracing::warn!(project = %id, detail = one.detail, "a deleted project leaves something");
    }
    match app.store().forget_project(id, in_words(left).as_deref(), by, now).await {
        // Two deletes at once: the other one was faster.
        Ok(()) | Err(PortError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Why something was not deleted: the other system failed, or any other error as it is.
fn not_removed(error: PortError) -> ServiceError {
    match error {
        PortError::Broken { .. } | PortError::NotFound { .. } => {
            tracing::error!(error = %chain(&error), "the other system failed");
            ServiceError::Upstream(error)
        }
        error => error.into(),
    }
}
