//! The pipeline that the CI runs for the commit of a build.

use rdev_domain::chain;
use rdev_domain::git::CommitId;
use rdev_domain::page::Page;
use rdev_domain::pipeline::{CiId, CommitPipeline, PipelineFilter};
use rdev_domain::ports::{Ci, PortResult};
use rdev_domain::project::Project;
use rdev_domain::result::{Outcome, TaskResult};
use rdev_domain::task::Task;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;

/// The pipeline of the commit that a build has pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildPipeline {
    /// Its number, where it is known.
    pub number: Option<u64>,
    /// `pending`, `running`, `success`, `failure`, …: as the CI server names it.
    pub status: String,
    /// Its page for people.
    pub url: Option<String>,
}

/// The pipeline of the commit that a build has pushed: as webhooks reported it, otherwise as the CI
/// server shows it now. When the CI server does not answer, the pipeline alone is missing.
pub(crate) async fn of_build(app: &App, task: &Task) -> PortResult<Option<BuildPipeline>> {
    let result = task.result.as_ref().and_then(TaskResult::as_build);
    let Some(result) = result.filter(|result| result.outcome == Outcome::Delivered) else {
        return Ok(None);
    };
    let (Some(commit), true) = (result.commit_sha.clone(), task.state.is_terminal()) else {
        return Ok(None);
    };
    if let Some(known) = app.store().pipeline(&task.project_id, &commit).await? {
        return Ok(Some(known.into()));
    }
    let Some(ci) = app.ci() else { return Ok(None) };
    let Ok(Project { ci_id: Some(ci_id), .. }) = app.store().project(&task.project_id).await else {
        return Ok(None);
    };
    match find(ci, ci_id, result.branch.to_string(), &commit).await {
        Ok(found) => Ok(found),
        Err(error) => {
            tracing::warn!(error = %chain(&error), task = %task.id, "its pipeline is not known");
            Ok(None)
        }
    }
}

async fn find(
    ci: &dyn Ci,
    ci_id: CiId,
    branch: String,
    commit: &CommitId,
) -> PortResult<Option<BuildPipeline>> {
    let filter = PipelineFilter { branch: Some(branch), status: None };
    let page = Page { limit: 50, before: None };
    let mut latest = ci.pipelines(ci_id, &filter, &page).await?.items.into_iter();
    let found = latest.find(|pipeline| pipeline.commit == commit.as_str());
    Ok(found.map(|pipeline| BuildPipeline {
        number: Some(pipeline.number),
        status: pipeline.status,
        url: pipeline.url,
    }))
}

impl From<CommitPipeline> for BuildPipeline {
    fn from(known: CommitPipeline) -> Self {
        Self { number: known.number, status: known.status, url: known.url }
    }
}
