//! What a new project gets outside of rdev: its repository, its CI, its domain.
//!
//! The project's record lists the steps. Each is recorded when it is done, and each can be
//! repeated: the repository and the DNS record carry the project's ownership tag, and the CI is
//! asked which repositories it has. So a repeated request, or `POST /projects/{id}/provision` after
//! a crash, creates each of them once.

use std::time::Duration;

use rdev_domain::audit::Actor;
use rdev_domain::chain;
use rdev_domain::dns::Domain;
use rdev_domain::pipeline::CiId;
use rdev_domain::ports::{
    CiRepository, Conflict, NewRepository, OwnRepository, PortError, PortResult, Repository, Start,
};
use rdev_domain::project::{Deletion, Project, ProjectPatch, ProjectState};
use rdev_domain::provision::StepName;
use rdev_domain::time::Timestamp;

use crate::app::App;
use crate::clock;
use crate::services::domain_records;
use crate::services::error::{ServiceError, ServiceResult};
use crate::services::remains::{Remains, RemainsOf};
use crate::services::templates::{Template, Values};

/// How many steps one call does or finds done by others; there are three.
const MAX_ROUNDS: usize = 20;

/// The longest time of a step. A deletion beside it waits for longer before it forgets the project
/// ([`rdev_domain::project::ABANDONED_AFTER`]), with more than the clocks' difference between, so a
/// step that has ended always finds the project that is being deleted.
const STEP_LIMIT: Duration = Duration::from_secs(90);

/// Runs the steps of a project that are not done; it is `ready` then.
///
/// Whoever records a step names the stage that it began at. If another call has recorded something
/// meanwhile, this one looks again and goes on from there. If it finds that the project is being
/// deleted, it undoes what it has just made.
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
            Some(step) if project.state == ProjectState::ProvisioningFailed => {
                // Whoever deletes the project is to know that a step may be under way.
                let provisioning = Some(project.provisioning.begun(step, clock::now()));
                let state = Some(ProjectState::Provisioning);
                ProjectPatch { provisioning, state, ..ProjectPatch::default() }
            }
            Some(step) => {
                let ran = tokio::time::timeout(STEP_LIMIT, run_step(app, by, &project, step, now));
                let ran = ran.await.unwrap_or_else(|_| {
                    Err(PortError::unavailable("a step of the creation", "it takes too long"))
                });
                match ran {
                    Ok(patch) => done(&project, step, patch),
                    Err(error) => return failed(app, by, &project, step, error, now).await,
                }
            }
        };
        let ci_id = patch.ci_id;
        project = match update(app, by, &project, patch, now).await {
            Err(PortError::Conflict(Conflict::ProjectChanged | Conflict::ProjectNotReady)) => {
                let newest = app.store().project(&id).await?;
                if let Some(step) = project.next_step() {
                    undo_beside_deletion(app, &project, step, ci_id, &newest).await;
                }
                newest
            }
            updated => updated?,
        };
    }
    Err(Conflict::Contended.into())
}

/// Undoes a step of `begun` that has ended beside the deletion of its project: what is made after
/// the deletion has looked would be nobody's. If this fails, or the process dies before, the sweep
/// does it, which ends such a deletion.
async fn undo_beside_deletion(
    app: &App,
    begun: &Project,
    step: StepName,
    ci_id: Option<CiId>,
    newest: &Project,
) {
    let deleting = newest.nonce == begun.nonce && newest.state == ProjectState::Deleting;
    // What another call has recorded is the deletion's business, which may have to keep it.
    if !deleting || newest.provisioning.is_done(step) {
        return;
    }
    let ended = match (step, app.ci(), ci_id) {
        (StepName::Ci, Some(ci), Some(ci_id)) => ci.deactivate(ci_id).await,
        _ => remove_unrecorded(app, newest).await.map(drop),
    };
    if let Err(error) = ended {
        tracing::warn!(error = %chain(&error), project = %begun.id, ?step,
            "what was made beside the project's deletion was not removed; the sweep does it");
    }
}

/// Removes what a step has made in another system and nobody has recorded: of a project that is
/// being deleted, and with the project's own tag. Nobody was told of it, so it is removed also when
/// the project's repository is to be kept. Returns what the other system refused to remove.
pub(crate) async fn remove_unrecorded(app: &App, project: &Project) -> PortResult<Option<Remains>> {
    match project.next_step() {
        Some(StepName::Repository) => {
            let removed = match app.forge().delete_repository(&OwnRepository::of(project)).await {
                // There is no forge, or its repository of the name is another project's.
                Err(
                    PortError::NotSupported { .. }
                    | PortError::Conflict(Conflict::RepositoryNotOurs),
                ) => Ok(()),
                removed => removed,
            };
            Remains::of(RemainsOf::Repository, project.id.as_str(), removed)
        }
        Some(StepName::Domain) => {
            let (Some(spec), Some((dns, _))) = (project.provisioning.domain.clone(), app.dns())
            else {
                return Ok(None);
            };
            let domain = Domain::new(project, spec, project.nonce, project.updated_at);
            let removed = domain_records::remove_record(dns, &domain).await;
            Remains::of(RemainsOf::Domain, domain.spec.domain.to_string(), removed)
        }
        Some(StepName::Ci) | None => Ok(None),
    }
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
        Err(PortError::Conflict(Conflict::ProjectChanged | Conflict::ProjectNotReady)) => {
            // A failure that comes late says nothing about what others have done since.
            let newest = app.store().project(&project.id).await?;
            // A step that has failed may have made something all the same.
            undo_beside_deletion(app, project, step, None, &newest).await;
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
    app.store().forget_project(id, None, by, now).await
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
