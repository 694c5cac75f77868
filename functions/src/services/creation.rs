//! Creating projects: check the request, then record the project and run its steps.

use rdev_domain::audit::Actor;
use rdev_domain::git::Branch;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::ProjectId;
use rdev_domain::key::{ApiKey, Scope};
use rdev_domain::ports::{Conflict, PortError};
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::provision::{Provisioning, StepName};
use rdev_domain::pull_request::{Deliver, PullRequestOptions};
use rdev_domain::time::Timestamp;
use rdev_domain::webhook::{Webhook, WebhookUrl};
use serde::Deserialize;
use ulid::Ulid;
use utoipa::ToSchema;

use crate::app::App;
use crate::services::domain_records::{self, WantedDomain};
use crate::services::error::{ServiceError, ServiceResult, field};
use crate::services::project_rules::{
    check_build_limit, check_description, check_git_url, webhook,
};
use crate::services::{provision, templates};

/// A project to create.
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

/// A project that may be created, with its steps and its webhook.
pub(crate) struct Plan {
    project: Project,
    webhook: Option<Webhook>,
}

/// Checks a request; nothing is changed yet. `nonce` distinguishes the project from an earlier one
/// of the same name.
pub(crate) async fn plan(
    app: &App,
    key: &ApiKey,
    request: CreateProject,
    nonce: Ulid,
    now: Timestamp,
) -> ServiceResult<Plan> {
    let mut errors = Vec::new();
    check_description(request.description.as_deref(), &mut errors);
    check_build_limit(request.build_limit, &mut errors);
    let options = request.pull_request_options.unwrap_or_default();
    errors.extend(options.check());
    let own = request.repository.unwrap_or(true);
    if let Some(url) = &request.git_url {
        check_git_url(app, url, &mut errors);
        if request.template.is_some() {
            errors.push(field("template", "needs a repository of the project's own"));
        } else if !own {
            errors.push(field("git_url", "contradicts `repository`: false"));
        }
    } else if !own && request.template.is_some() {
        errors.push(field("template", "needs a repository of the project's own"));
    }
    let template = (own && request.git_url.is_none())
        .then(|| request.template.unwrap_or_else(|| app.settings().default_template.clone()));
    let known = templates::names(app);
    if template.as_deref().is_some_and(|name| !known.contains(name)) {
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        errors.push(field("template", format!("must be one of: {known}")));
    }
    let secret = request.webhook_secret.as_deref();
    let webhook = webhook(app, request.webhook_url, secret, &mut errors);
    if !errors.is_empty() {
        return Err(ServiceError::Invalid(errors));
    }
    let domain = match request.domain {
        Some(_) if !key.allows(Scope::DomainsWrite) => {
            let scope = Scope::DomainsWrite;
            let detail = format!("the key lacks the scope {scope}, which `domain` needs");
            return Err(ServiceError::MissingScope(detail));
        }
        Some(domain) => Some(domain_records::parse(app, key, &request.name, domain, "domain.")?),
        None => None,
    };
    if let Some(spec) = &domain {
        match app.store().domain(&spec.domain).await {
            Ok(taken) if taken.project_id != request.name => {
                return Err(Conflict::DomainTaken.into());
            }
            Ok(_) | Err(PortError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let has_template = template.is_some();
    let steps = [
        (StepName::Repository, has_template),
        (StepName::Ci, has_template && app.ci().is_some()),
        (StepName::Domain, domain.is_some()),
    ];
    let steps: Vec<_> =
        steps.into_iter().filter(|(_, needed)| *needed).map(|(step, _)| step).collect();
    let state = if steps.is_empty() { ProjectState::Ready } else { ProjectState::Provisioning };
    let project = Project {
        description: request.description.unwrap_or_default(),
        template,
        git_url: request.git_url,
        default_branch: request.default_branch.unwrap_or_else(Branch::main),
        build_limit: request.build_limit.unwrap_or(1),
        deliver: request.deliver.unwrap_or_default(),
        pull_request_options: options,
        state,
        provisioning: Provisioning::of(&steps, domain, now),
        ..Project::new(request.name, nonce, now)
    };
    Ok(Plan { project, webhook })
}

/// Records the project and runs its steps. When a request is repeated, it resumes where its
/// earlier try was interrupted.
pub(crate) async fn create(
    app: &App,
    by: &Actor,
    plan: Plan,
    now: Timestamp,
) -> ServiceResult<Project> {
    let mut project = app.store().create_project(&plan.project, by, now).await?;
    if plan.webhook.is_some() {
        project = app.store().set_webhook(&project.id, plan.webhook.as_ref(), by, now).await?;
    }
    provision::run(app, by, project, now).await
}
