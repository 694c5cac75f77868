//! How a project's repository stands on the forge.

use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ports::{PortError, PushRight, PushTarget, Standing};
use rdev_domain::project::{Project, ProjectState};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::settings::GitUser;

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
    /// Whether that is so for builds. The forge tells of the user of rdev's token, and it may not be
    /// known whether runners push as that user.
    pub certain: bool,
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

/// What the forge tells of the user of its token says nothing of another one, who may push for all
/// that is known.
fn view(standing: Standing, known_at: &GitUrl, user: &GitUser) -> RepositoryView {
    let Standing { moved_to, push } = standing;
    let of_git = is_of_git(moved_to.as_ref().unwrap_or(known_at), user);
    let of_user = |state| match of_git {
        Some(true) => (state, true),
        Some(false) => (RepositoryState::Writable, true),
        None => (state, false),
    };
    let (state, certain) = match push {
        PushRight::Granted => (RepositoryState::Writable, true),
        PushRight::Archived => (RepositoryState::Archived, true),
        PushRight::Denied => of_user(RepositoryState::PushDenied),
        PushRight::BranchProtected => of_user(RepositoryState::BranchProtected),
    };
    RepositoryView { state, certain, moved_to }
}

/// Whether runners push there as the user of the forge's token; `None`: not known here.
fn is_of_git(url: &GitUrl, user: &GitUser) -> Option<bool> {
    match user {
        GitUser::Unknown => None,
        GitUser::OfForgeAt(origin) => Some(url.origin().as_ref() == Some(origin)),
        GitUser::Another => Some(false),
    }
}

async fn look(app: &App, project: &Project) -> Option<RepositoryView> {
    let git_url = project.git_url.clone().filter(|_| project.state == ProjectState::Ready)?;
    let of =
        PushTarget { git_url, forge_id: project.forge_id, branch: project.default_branch.clone() };
    let user = &app.settings().git_user;
    // Git may see it all the same, as another user.
    let certain = is_of_git(&of.git_url, user) == Some(true);
    let gone = RepositoryView { state: RepositoryState::Gone, certain, moved_to: None };
    match tokio::time::timeout(TIMEOUT, app.forge().standing(&of)).await {
        Ok(Ok(standing)) => Some(view(standing, &of.git_url, user)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_forge_tells_of_its_tokens_user_is_certain_only_where_git_pushes_as_that_user() {
        let url: GitUrl = "https://git.example.com/acme/site.git".parse().expect("a URL");
        let here = GitUser::OfForgeAt("https://git.example.com".to_owned());
        let elsewhere = GitUser::OfForgeAt("https://elsewhere.example.com".to_owned());
        for (push, state) in [
            (PushRight::Denied, RepositoryState::PushDenied),
            (PushRight::BranchProtected, RepositoryState::BranchProtected),
        ] {
            for (user, expected) in [
                (&here, (state, true)),
                (&GitUser::Unknown, (state, false)),
                (&elsewhere, (RepositoryState::Writable, true)),
                (&GitUser::Another, (RepositoryState::Writable, true)),
            ] {
                let found = view(Standing { moved_to: None, push }, &url, user);
                assert_eq!((found.state, found.certain), expected, "{push:?}, {user:?}");
            }
        }
        // Of everybody.
        for user in [here, GitUser::Unknown, GitUser::Another] {
            for (push, state) in [
                (PushRight::Granted, RepositoryState::Writable),
                (PushRight::Archived, RepositoryState::Archived),
            ] {
                let found = view(Standing { moved_to: None, push }, &url, &user);
                assert_eq!((found.state, found.certain), (state, true), "{push:?}, {user:?}");
            }
        }
    }
}
