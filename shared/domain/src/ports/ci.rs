//! CI: where a project's pipelines run.

use async_trait::async_trait;

use super::PortResult;
use crate::git_url::GitUrl;
use crate::page::{Listed, Page};
use crate::pipeline::{CiId, LogLine, Pipeline, PipelineFilter, PipelineSummary};

/// Activates repositories, and reads their pipelines.
#[async_trait]
pub trait Ci: Send + Sync + 'static {
    /// Activates a repository of the forge; one that is active is nothing new.
    ///
    /// Errors: `NotFound` when the CI server cannot see the repository (yet).
    async fn activate(&self, repository: &CiRepository) -> PortResult<CiId>;

    /// Removes a repository; one that is not there is nothing.
    async fn deactivate(&self, ci: CiId) -> PortResult<()>;

    /// Pipelines, newest first, by [`PipelineSummary::place`].
    async fn pipelines(
        &self,
        ci: CiId,
        filter: &PipelineFilter,
        page: &Page,
    ) -> PortResult<Listed<PipelineSummary>>;

    /// One pipeline. Errors: `NotFound`.
    async fn pipeline(&self, ci: CiId, number: u64) -> PortResult<Pipeline>;

    /// A step's log. Errors: `NotFound`.
    async fn log(&self, ci: CiId, number: u64, step: u64) -> PortResult<Vec<LogLine>>;

    /// Runs a pipeline again, as a new one. Errors: `NotFound`.
    async fn restart(&self, ci: CiId, number: u64) -> PortResult<PipelineSummary>;

    /// Ends a pipeline. Errors: `NotFound`; `Conflict(NotRunning)` when it has ended.
    async fn cancel(&self, ci: CiId, number: u64) -> PortResult<()>;
}

/// A repository as the CI server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CiRepository {
    /// Its id on the forge.
    pub forge_id: u64,
    /// Where it is; its path ends in `/<owner>/<name>.git`.
    pub git_url: GitUrl,
}
