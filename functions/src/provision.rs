//! What a new project gets outside of rdev: its repository, its CI, its name.
//!
//! The steps stand in the project. Each is noted when it is done, and each can be done again: the
//! repository and the record carry the project's ownership tag, the CI is asked what it has. So a request
//! that is repeated, or `POST /projects/{id}/provision` after a crash, ends with one of each.

use rdev_domain::audit::Actor;
use rdev_domain::dns::Domain;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{
    CiRepository, Conflict, NewRepository, PortError, PortResult, Repository, Start,
};
use rdev_domain::project::{Project, ProjectPatch, ProjectState};
use rdev_domain::provision::StepName;
use rdev_domain::time::Timestamp;

use crate::problem::{Answer, Code, Problem, chain};
use crate::templates::{Template, Values};
use crate::{Api, domains};

/// Does what is left to do for a project; it is `ready` then.
///
/// # Errors
/// What a step ended with. The project says `provisioning_failed` and which step it was.
pub(crate) async fn run(
    api: &Api,
    by: &Actor,
    mut project: Project,
    now: Timestamp,
) -> Answer<Project> {
    loop {
        match project.state {
            ProjectState::Ready => return Ok(project),
            ProjectState::Deleting => {
                return Err(Problem::new(Code::ProjectNotReady, "the project is being deleted"));
            }
            ProjectState::Provisioning | ProjectState::ProvisioningFailed => {}
        }
        let Some(step) = project.next_step() else {
            let state = Some(ProjectState::Ready);
            let patch = ProjectPatch { state, ..ProjectPatch::default() };
            return Ok(changed(api, by, &project.id, &patch, now).await?);
        };
        project = match done(api, by, &project, step, now).await {
            Ok(patch) => {
                let provisioning = project.provisioning.with(step, None, crate::now());
                let ready = provisioning.next().is_none();
                let state =
                    Some(if ready { ProjectState::Ready } else { ProjectState::Provisioning });
                let patch = ProjectPatch { provisioning: Some(provisioning), state, ..patch };
                changed(api, by, &project.id, &patch, now).await?
            }
            Err(error) => return Err(failed(api, by, &project, step, error, now).await),
        };
    }
}

/// Does one step; what of the project changes by it.
async fn done(
    api: &Api,
    by: &Actor,
    project: &Project,
    step: StepName,
    now: Timestamp,
) -> PortResult<ProjectPatch> {
    match step {
        StepName::Repository => {
            let made = repository(api, project).await?;
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
                (api.ci(), project.forge_id, project.git_url.clone())
            else {
                return Err(none);
            };
            let ci_id = ci.activate(&CiRepository { forge_id, git_url }).await?;
            Ok(ProjectPatch { ci_id: Some(ci_id), ..ProjectPatch::default() })
        }
        StepName::Domain => {
            let none = PortError::NotSupported { what: "a domain" };
            let Some(spec) = project.provisioning.domain.clone() else { return Err(none) };
            let Some((dns, _)) = api.dns() else { return Err(none) };
            let wanted = Domain::wanted(&project.id, spec, project.nonce, now);
            domains::put(api, dns, wanted, by, now).await?;
            Ok(ProjectPatch::default())
        }
    }
}

async fn repository(api: &Api, project: &Project) -> PortResult<Repository> {
    let settings = api.settings();
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
        // It was configured when the project was made, and is not any more.
        (None, None) => return Err(PortError::NotSupported { what: "the project's template" }),
    };
    let new = NewRepository {
        project: project.id.clone(),
        nonce: project.nonce,
        description: project.description.clone(),
        branch: project.default_branch.clone(),
        start,
    };
    api.forge().create_repository(&new).await
}

async fn changed(
    api: &Api,
    by: &Actor,
    id: &ProjectId,
    patch: &ProjectPatch,
    now: Timestamp,
) -> PortResult<Project> {
    let (project, outbox) = api.store().update_project(id, patch, by, now).await?;
    api.send(&outbox, now).await;
    Ok(project)
}

/// Notes that a step failed; what the request is answered with.
async fn failed(
    api: &Api,
    by: &Actor,
    project: &Project,
    step: StepName,
    error: PortError,
    now: Timestamp,
) -> Problem {
    let id = &project.id;
    let refused = matches!(
        error,
        PortError::NotSupported { .. } | PortError::Conflict(Conflict::RepositoryNotOurs)
    );
    if step == StepName::Repository && refused {
        // Nothing was made and nothing will be: the name is free again.
        if let Err(error) = undo(api, by, id, now).await {
            tracing::warn!(error = %chain(&error), project = %id, "a project stays half made");
        }
        return answered(step, error);
    }
    let told = chain(&error);
    let patch = ProjectPatch {
        state: Some(ProjectState::ProvisioningFailed),
        provisioning: Some(project.provisioning.with(step, Some(&told), crate::now())),
        ..ProjectPatch::default()
    };
    if let Err(error) = changed(api, by, id, &patch, now).await {
        tracing::warn!(error = %chain(&error), project = %id,
            "not recorded as provisioning_failed; the sweep does it");
    }
    answered(step, error)
}

async fn undo(api: &Api, by: &Actor, id: &ProjectId, now: Timestamp) -> PortResult<()> {
    api.store().begin_delete_project(id, by, now).await?;
    api.store().forget_project(id, by, now).await
}

/// Other systems are no part of this server: 503 when one is away, 502 when it failed.
fn answered(step: StepName, error: PortError) -> Problem {
    match (step, error) {
        (StepName::Repository, PortError::NotSupported { .. }) => Problem::new(
            Code::ForgeNotConfigured,
            "this installation makes no repositories: name an existing one with `git_url`, or \
             set `repository` to false",
        ),
        (StepName::Ci, PortError::NotSupported { .. }) => {
            Problem::new(Code::CiNotConfigured, "this installation has no CI for the repository")
        }
        (StepName::Domain, PortError::NotSupported { .. }) => {
            Problem::new(Code::DnsNotConfigured, "this installation has no DNS provider ([dns])")
        }
        (_, error @ (PortError::Broken { .. } | PortError::NotFound { .. })) => {
            tracing::error!(error = %chain(&error), ?step, "a step of the provisioning failed");
            Problem::new(Code::UpstreamFailed, error.to_string())
        }
        (_, error) => error.into(),
    }
}
