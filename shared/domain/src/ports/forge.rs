//! The forge: where repositories live.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use super::PortResult;
use crate::git::{Branch, CommitId};
use crate::git_url::GitUrl;
use crate::ids::ProjectId;
use crate::project::Project;
use crate::pull_request::{Label, Reviewer};
use crate::time::Timestamp;

/// Makes and removes repositories, opens pull requests, and shows how builds are.
#[async_trait]
pub trait Forge: Send + Sync + 'static {
    /// Makes a project's repository with its first commit. One that this project's creation has
    /// made already (whole or half: it is completed) is returned as it is.
    ///
    /// Errors: `Conflict(RepositoryNotOurs)` when there is another one of that name.
    async fn create_repository(&self, new: &NewRepository) -> PortResult<Repository>;

    /// Removes a project's repository, wherever people have moved it; one that is not there is
    /// nothing.
    ///
    /// Errors: `Conflict(RepositoryNotOurs)` when another request made it.
    async fn delete_repository(&self, of: &OwnRepository) -> PortResult<()>;

    /// The pull request of these branches, found (also a closed or merged one) or opened. Title,
    /// body and draft are set when it is opened, and left to people then. While it is open it gets
    /// the labels and the reviewers that it lacks: an earlier call may have opened it and no more.
    ///
    /// Errors: `NotSupported` where the forge has none; `Invalid`, `Denied`
    /// when the forge refused it permanently. What cannot be set is no error.
    async fn pull_request(&self, request: &PullRequest) -> PortResult<OpenedPullRequest>;

    /// The newest pull request of these branches, open, closed or merged. The branches need not
    /// exist any more.
    ///
    /// Errors: `NotSupported` where the forge has none; `NotFound` when it has no such repository.
    async fn find_pull_request(
        &self,
        branches: &PullRequestBranches,
    ) -> PortResult<Option<FoundPullRequest>>;

    /// Where a repository is now, and whether it takes a push.
    ///
    /// Errors: `NotSupported` where it is not on this forge; `NotFound` when it is gone.
    async fn standing(&self, of: &PushTarget) -> PortResult<Standing>;

    /// Whether it shows statuses at the commits of this repository. Asks nobody.
    fn shows_statuses(&self, repository: &GitUrl) -> bool;

    /// Shows at a commit how its build is. Errors: `NotSupported` where the forge shows none.
    async fn set_status(&self, status: &CommitStatus) -> PortResult<()>;
}

/// A repository to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRepository {
    /// The project, whose name it gets.
    pub project: ProjectId,
    /// The project's nonce: distinguishes its repository from another one of that name.
    pub nonce: Ulid,
    /// For people.
    pub description: String,
    /// Its default branch.
    pub branch: Branch,
    /// What it starts with.
    pub start: Start,
}

/// A repository that rdev has made, by what tells it from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnRepository {
    /// The project, whose name it got.
    pub project: ProjectId,
    /// The project's nonce.
    pub nonce: Ulid,
    /// Its id on the forge, which it keeps when it is renamed or moved; `None`: not known.
    pub forge_id: Option<u64>,
}

impl OwnRepository {
    /// The project's.
    pub fn of(project: &Project) -> Self {
        let Project { id, nonce, forge_id, .. } = project;
        Self { project: id.clone(), nonce: *nonce, forge_id: *forge_id }
    }
}

/// What a repository starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// These files, in one commit; none: it stays empty.
    Seed(Vec<SeedFile>),
    /// A copy of this template repository on the forge, `owner/name`.
    Generate(String),
}

/// A repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Where to clone it from and push it to.
    pub git_url: GitUrl,
    /// Its default branch.
    pub default_branch: Branch,
    /// Its id on the forge, where there are ids.
    pub forge_id: Option<u64>,
}

/// A file of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedFile {
    /// Its path from the root, with `/`.
    pub path: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// A pull request to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// Its branches.
    pub branches: PullRequestBranches,
    /// The commit of its head.
    pub commit: CommitId,
    /// One line.
    pub title: String,
    /// Markdown.
    pub body: String,
    /// Whether it is opened as a draft.
    pub draft: bool,
    /// The names of its labels.
    pub labels: Vec<Label>,
    /// Who is asked for a review.
    pub reviewers: Vec<Reviewer>,
}

/// A pull request that was found or opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedPullRequest {
    /// Its page.
    pub url: String,
    /// What it should have, and does not.
    pub lacks: Vec<Lack>,
}

impl OpenedPullRequest {
    /// One that lacks nothing.
    pub fn at(url: String) -> Self {
        Self { url, lacks: Vec::new() }
    }
}

/// What was not set on a pull request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// What it is.
    pub what: Lacked,
    /// Why, for people, and what to do.
    pub why: String,
}

/// What a pull request may lack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lacked {
    /// To be a draft.
    Draft,
    /// A label.
    Label(Label),
    /// Somebody who is asked for a review.
    Reviewer(Reviewer),
}

/// What a pull request is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequestBranches {
    /// The repository.
    pub git_url: GitUrl,
    /// The branch with the work.
    pub head: Branch,
    /// The branch to merge it into.
    pub base: Branch,
    /// When the work was asked for. Older pull requests are of others, or of other work; clocks may
    /// differ by an hour.
    pub since: Timestamp,
}

/// A pull request on the forge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPullRequest {
    /// Its page.
    pub url: String,
    /// The commit of its head, also after the branch was deleted.
    pub commit: CommitId,
}

/// Where a build is to push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushTarget {
    /// The repository, as far as is known.
    pub git_url: GitUrl,
    /// Its id on the forge, which it keeps when it is renamed or moved; `None`: not known.
    pub forge_id: Option<u64>,
    /// The branch.
    pub branch: Branch,
}

/// How a repository stands to a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Where it is, if that is elsewhere: it was renamed, or moved to another owner.
    pub moved_to: Option<GitUrl>,
    /// Whether it takes the push.
    pub push: PushRight,
}

/// Whether a repository takes a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushRight {
    /// Nothing is known that would refuse it.
    Granted,
    /// The repository is archived: it takes none.
    Archived,
    /// The user may not push to it.
    Denied,
    /// The user may push to it, but not to this branch.
    BranchProtected,
}

/// How a build of a commit is, shown as `rdev/build`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitStatus {
    /// The repository.
    pub git_url: GitUrl,
    /// The commit.
    pub commit: CommitId,
    /// How it is.
    pub state: CommitState,
    /// One line.
    pub description: String,
    /// Where people see the build.
    pub url: Option<String>,
}

/// How a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommitState {
    /// The build runs.
    Pending,
    /// It was delivered.
    Success,
    /// It was not.
    Failure,
}
