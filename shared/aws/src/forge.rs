//! No forge: every project uses a repository of its own.

use async_trait::async_trait;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ports::{
    CommitStatus, Forge, FoundPullRequest, NewRepository, OpenedPullRequest, OwnRepository,
    PortError, PortResult, PullRequest, PullRequestBranches, PushTarget, Repository, Standing,
};

/// Supports no operation. A project is created with the `git_url` of a repository.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoForge;

#[async_trait]
impl Forge for NoForge {
    async fn create_repository(&self, _new: &NewRepository) -> PortResult<Repository> {
        Err(PortError::NotSupported {
            what: "a repository of its own (give the project a git_url)",
        })
    }

    async fn delete_repository(&self, _of: &OwnRepository) -> PortResult<()> {
        // A repository that does not exist is not an error, and none was ever created.
        Ok(())
    }

    async fn pull_request(&self, _request: &PullRequest) -> PortResult<OpenedPullRequest> {
        Err(PortError::NotSupported { what: "a pull request" })
    }

    async fn find_pull_request(
        &self,
        _branches: &PullRequestBranches,
    ) -> PortResult<Option<FoundPullRequest>> {
        Err(PortError::NotSupported { what: "a pull request" })
    }

    async fn standing(&self, _of: &PushTarget) -> PortResult<Standing> {
        Err(PortError::NotSupported { what: "a look at a repository" })
    }

    fn shows_statuses(&self, _repository: &GitUrl) -> bool {
        false
    }

    async fn set_status(&self, _status: &CommitStatus) -> PortResult<()> {
        Err(PortError::NotSupported { what: "a commit's status" })
    }
}
