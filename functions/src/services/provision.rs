//! What a new project gets outside of rdev: its repository, its CI, its domain.
//!
//! The project's record lists the steps. Each is recorded when it is done, and each can be
//! repeated: the repository and the DNS record carry the project's ownership tag, and the CI is
//! asked which repositories it has. So a repeated request, or `POST /projects/{id}/provision` after
//! a crash, creates each of them once.

use rdev_domain::audit::Actor;
use rdev_domain::chain;
use rdev_domain::dns::Domain;
use rdev_domain::ports::{
    CiRepository, Conflict, NewRepository, PortError, PortResult, Repository, Start,
};
use rdev_domain::project::{Deletion, Project, ProjectPatch, ProjectState};
use rdev_domain::provision::StepName;
use rdev_domain::time::Timestamp;

use crate::app::App;
use crate::clock;
use crate::services::domain_records;
use crate::services::error::{ServiceError, ServiceResult};
use crate::services::templates::{Template, Values};

/// How many steps one call does or finds done by others; there are three.
const MAX_ROUNDS: usize = 20;

/// Runs the steps of a project that are not done; it is `ready` then.
///
/// Whoever records a step names the stage that it began at. If another call has recorded something
/// meanwhile, this one looks again and goes on from there.
///
/// # Errors
/// The error of a step. The project is `provisioning_failed` then, and names the step.
pub(crate) async fn run(
    app: &App,
    by: &Actor,
    mut project: Project,
    now: Timestamp,
) -> ServiceResult<Project> {
    let (id, nonce) = (project.id.clone(), project.nonce);
    for _ in 0..MAX_ROUNDS {
        if project.nonce != nonce {
            return Err(PortError::not_found(format!("project \"{id}\" of this request")).into());
        }
        match project.state {
            ProjectState::Ready => return Ok(project),
            ProjectState::Deleting => return Err(ServiceError::ProjectDeleting),
            ProjectState::Provisioning | ProjectState::ProvisioningFailed => {}
        }
        let patch = match project.next_step() {
            None => ProjectPatch { state: Some(ProjectState::Ready), ..ProjectPatch::default() },
            Some(step) => match run_step(app, by, &project, step, now).await {
                Ok(patch) => done(&project, step, patch),
                Err(error) => return failed(app, by, &project, step, error, now).await,
            },
        };
        project = match update(app, by, &project, patch, now).await {
            Err(PortError::Conflict(Conflict::ProjectChanged)) => app.store().project(&id).await?,
            updated => updated?,
        };
    }
    Err(Conflict::Contended.into())
}

/// What a step that was done changes in the project: `patch`, and how far the project is.
fn done(project: &Project, step: StepName, patch: ProjectPatch) -> ProjectPatch {
    let provisioning = project.provisioning.with(step, None, clock::now());
    let ready = provisioning.next().is_none();
    let state = if ready { ProjectState::Ready } else { ProjectState::Provisioning };
    ProjectPatch { provisioning: Some(provisioning), state: Some(state), ..patch }
}

/// Runs one step; what it changes in the project.
async fn run_step(
    app: &App,
    by: &Actor,
    project: &Project,
    step: StepName,
    now: Timestamp,
) -> PortResult<ProjectPatch> {
    match step {
        StepName::Repository => {
            let made = create_repository(app, project).await?;
            Ok(ProjectPatch {
                git_url: Some(made.git_url),
                default_branch: Some(made.default_branch),
                forge_id: made.forge_id,
                ..ProjectPatch::default()
            })
        }
        StepName::Ci => {
            let none = PortError::NotSupported { what: "CI for this repository" };
            let (Some(ci), Some(forge_id), Some(git_url)) =
                (app.ci(), project.forge_id, project.git_url.clone())
            else {
                return Err(none);
            };
            let ci_id = ci.activate(&CiRepository { forge_id, git_url }).await?;
            Ok(ProjectPatch { ci_id: Some(ci_id), ..ProjectPatch::default() })
        }
        StepName::Domain => {
            let none = PortError::NotSupported { what: "a domain" };
            let Some(spec) = project.provisioning.domain.clone() else { return Err(none) };
            let Some((dns, _)) = app.dns() else { return Err(none) };
            let domain = Domain::new(project, spec, project.nonce, now);
            domain_records::put(app, dns, domain, by, now).await?;
            Ok(ProjectPatch::default())
        }
    }
}

async fn create_repository(app: &App, project: &Project) -> PortResult<Repository> {
    let settings = app.settings();
    let name = project.template.as_deref().unwrap_or(&settings.default_template);
    let start = match (settings.template_repositories.get(name), Template::named(name)) {
        (Some(repository), _) => Start::Generate(repository.clone()),
        (None, Some(template)) => {
            let values = Values {
                project: project.id.to_string(),
                zone: settings.dns.as_ref().map(|dns| dns.zone.to_string()),
                registry: settings.registry.clone(),
                description: project.description.clone(),
                default_branch: project.default_branch.to_string(),
            };
            Start::Seed(template.seed(&values))
        }
        // The template was configured when the project was created, and no longer is.
        (None, None) => return Err(PortError::NotSupported { what: "the project's template" }),
    };
    let new = NewRepository {
        project: project.id.clone(),
        nonce: project.nonce,
        description: project.description.clone(),
        branch: project.default_branch.clone(),
        start,
    };
    app.forge().create_repository(&new).await
}

/// Changes `project`, which must still be at the stage that it shows.
async fn update(
    app: &App,
    by: &Actor,
    project: &Project,
    patch: ProjectPatch,
    now: Timestamp,
) -> PortResult<Project> {
    let patch = ProjectPatch { expected: Some(project.stage()), ..patch };
    let (project, outbox) = app.store().update_project(&project.id, &patch, by, now).await?;
    app.send(&outbox, now).await;
    Ok(project)
}

/// Records that a step failed. Returns the error that the request gets, or the project if another
/// call has made it ready meanwhile.
async fn failed(
    app: &App,
    by: &Actor,
    project: &Project,
    step: StepName,
    error: PortError,
    now: Timestamp,
) -> ServiceResult<Project> {
    let refused = matches!(
        error,
        PortError::NotSupported { .. } | PortError::Conflict(Conflict::RepositoryNotOurs)
    );
    let recorded = if step == StepName::Repository && refused {
        // There is no repository and there will be none, so the name is free again.
        undo(app, by, project, now).await
    } else {
        let message = chain(&error);
        let patch = ProjectPatch {
            state: Some(ProjectState::ProvisioningFailed),
            provisioning: Some(project.provisioning.with(step, Some(&message), clock::now())),
            ..ProjectPatch::default()
        };
        update(app, by, project, patch, now).await.map(drop)
    };
    match recorded {
        Ok(()) => {}
        Err(PortError::Conflict(Conflict::ProjectChanged)) => {
            // A failure that comes late says nothing about what others have done since.
            let newest = app.store().project(&project.id).await?;
            if newest.nonce == project.nonce && newest.state == ProjectState::Ready {
                return Ok(newest);
            }
        }
        Err(error) => tracing::warn!(error = %chain(&error), project = %project.id,
            "a failed step was not recorded; the sweep does it"),
    }
    Err(step_error(step, error))
}

async fn undo(app: &App, by: &Actor, project: &Project, now: Timestamp) -> PortResult<()> {
    let (id, deletion) = (&project.id, Deletion::KeepRepository);
    app.store().begin_delete_project(id, deletion, Some(&project.stage()), by, now).await?;
    app.store().forget_project(id, by, now).await
}

/// What the request gets: other systems are not part of this server, so an error of theirs is not
/// one of ours.
fn step_error(step: StepName, error: PortError) -> ServiceError {
    match (step, error) {
        (StepName::Repository, PortError::NotSupported { .. }) => ServiceError::ForgeNotConfigured,
        (StepName::Ci, PortError::NotSupported { .. }) => ServiceError::CiNotConfigured,
        (StepName::Domain, PortError::NotSupported { .. }) => ServiceError::DnsNotConfigured,
        (_, error @ (PortError::Broken { .. } | PortError::NotFound { .. })) => {
            tracing::error!(error = %chain(&error), ?step, "a step of the provisioning failed");
            ServiceError::Upstream(error)
        }
        (_, error) => error.into(),
    }
}
