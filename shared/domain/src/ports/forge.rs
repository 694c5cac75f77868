//! The forge: where repositories live.

use async_trait::async_trait;

use super::PortResult;
use crate::git::{Branch, CommitId};
use crate::git_url::GitUrl;
use crate::ids::ProjectId;

/// Makes and removes repositories, and opens pull requests.
#[async_trait]
pub trait Forge: Send + Sync + 'static {
    /// Makes a project's repository whose first commit holds `seed` (none: the
    /// repository stays empty). One that is there already is returned as it is.
    /// A creation that fails leaves nothing of its own behind.
    async fn create_repository(
        &self,
        project: &ProjectId,
        branch: &Branch,
        seed: &[SeedFile],
    ) -> PortResult<Repository>;

    /// Removes a project's repository; one that is not there is nothing.
    async fn delete_repository(&self, project: &ProjectId) -> PortResult<()>;

    /// The pull request from `head` to `base`, found or opened; its URL.
    ///
    /// Errors: `NotSupported` where the forge has none; `Invalid`, `Denied`
    /// when it was refused for good.
    async fn pull_request(&self, request: &PullRequest) -> PortResult<String>;
}

/// A repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Where to clone it from and push it to.
    pub git_url: GitUrl,
    /// Its default branch.
    pub default_branch: Branch,
}

/// A file of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedFile {
    /// Its path from the root, with `/`.
    pub path: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// A pull request that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// The repository.
    pub git_url: GitUrl,
    /// The branch with the work.
    pub head: Branch,
    /// Its commit.
    pub commit: CommitId,
    /// The branch it is wanted in.
    pub base: Branch,
    /// One line.
    pub title: String,
    /// Markdown.
    pub body: String,
}
