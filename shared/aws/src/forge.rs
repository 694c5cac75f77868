//! No forge: every project brings its own repository.

use async_trait::async_trait;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{
    CommitStatus, Forge, NewRepository, PortError, PortResult, PullRequest, Repository,
};
use ulid::Ulid;

/// Offers nothing. A project is made with a `git_url`, and its repository is its owner's.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoForge;

#[async_trait]
impl Forge for NoForge {
    async fn create_repository(&self, _new: &NewRepository) -> PortResult<Repository> {
        Err(PortError::NotSupported {
            what: "a repository of its own (give the project a git_url)",
        })
    }

    async fn delete_repository(&self, _project: &ProjectId, _nonce: Ulid) -> PortResult<()> {
        // None was ever made here, and one that is not there is nothing.
        Ok(())
    }

    async fn pull_request(&self, _request: &PullRequest) -> PortResult<String> {
        Err(PortError::NotSupported { what: "a pull request" })
    }

    async fn set_status(&self, _status: &CommitStatus) -> PortResult<()> {
        Err(PortError::NotSupported { what: "a commit's status" })
    }
}
