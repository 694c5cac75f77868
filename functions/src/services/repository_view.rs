//! How a project's repository stands on the forge.

use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ports::{PortError, PushRight, PushTarget};
use rdev_domain::project::{Project, ProjectState};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;

/// The time limit for the forge.
const TIMEOUT: Duration = Duration::from_secs(3);

/// A project, and how its repository stands.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ProjectView {
    /// The project.
    #[serde(flatten)]
    pub project: Project,
    /// How its repository stands on the forge, if the forge knows it and answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryView>,
}

/// How a repository stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RepositoryView {
    /// Whether builds can deliver to it.
    pub state: RepositoryState,
    /// Where it is, if it was renamed or moved; the next build follows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_to: Option<GitUrl>,
}

/// Whether builds can deliver to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RepositoryState {
    /// Nothing is known against it.
    Writable,
    /// The forge does not have it any more, or does not show it to rdev.
    Gone,
    /// It takes no pushes from anybody.
    Archived,
    /// The forge's user may not push to it.
    PushDenied,
    /// The forge's user may not push to its default branch.
    BranchProtected,
}

/// Looks at the forge. Where it does not answer the project is shown without.
pub(crate) async fn of_project(app: &App, project: Project) -> ProjectView {
    let repository = look(app, &project).await;
    ProjectView { project, repository }
}

async fn look(app: &App, project: &Project) -> Option<RepositoryView> {
    let git_url = project.git_url.clone().filter(|_| project.state == ProjectState::Ready)?;
    let of =
        PushTarget { git_url, forge_id: project.forge_id, branch: project.default_branch.clone() };
    let gone = RepositoryView { state: RepositoryState::Gone, moved_to: None };
    match tokio::time::timeout(TIMEOUT, app.forge().standing(&of)).await {
        Ok(Ok(standing)) => Some(RepositoryView {
            state: match standing.push {
                PushRight::Granted => RepositoryState::Writable,
                PushRight::Archived => RepositoryState::Archived,
                PushRight::Denied => RepositoryState::PushDenied,
                PushRight::BranchProtected => RepositoryState::BranchProtected,
            },
            moved_to: standing.moved_to,
        }),
        Ok(Err(PortError::NotFound { .. })) => Some(gone),
        Ok(Err(PortError::NotSupported { .. })) => None,
        Ok(Err(error)) => {
            tracing::warn!(project = %project.id, error = chain(&error), "how its repository stands is not known");
            None
        }
        Err(_) => {
            tracing::warn!(project = %project.id, "the forge takes too long to tell how its repository stands");
            None
        }
    }
}
