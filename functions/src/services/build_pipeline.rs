//! The pipelines that the CI runs for the commit of a build.

use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::git::CommitId;
use rdev_domain::page::Page;
use rdev_domain::pipeline::{CiId, CommitPipeline, PipelineFilter, PipelineSummary};
use rdev_domain::ports::{Ci, PortError, PortResult};
use rdev_domain::project::Project;
use rdev_domain::result::{BuildResult, Outcome, TaskResult};
use rdev_domain::task::Task;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;

/// How long the record of a build waits for the CI server.
const WITHIN: Duration = Duration::from_secs(3);

/// How many of the newest pipelines are looked through.
const NEWEST: u32 = 50;

/// A pipeline of the commit that a build has pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildPipeline {
    /// Its number, where it is known.
    pub number: Option<u64>,
    /// What started it, where it is known: `push`, `pull_request`, `manual`, …
    pub event: Option<String>,
    /// `pending`, `running`, `success`, `failure`, …: as the CI server names it.
    pub status: String,
    /// Its page for people.
    pub url: Option<String>,
}

/// The pipelines of the commit that a build has pushed, newest first: as the CI server shows them
/// now, and the one that webhooks reported. When the CI server does not answer soon, only the
/// latter.
pub(crate) async fn of_build(app: &App, task: &Task) -> PortResult<Vec<BuildPipeline>> {
    let result = task.result.as_ref().and_then(TaskResult::as_build);
    let Some(result) = result.filter(|result| result.outcome == Outcome::Delivered) else {
        return Ok(Vec::new());
    };
    let (Some(commit), true) = (&result.commit_sha, task.state.is_terminal()) else {
        return Ok(Vec::new());
    };
    let reported = app.store().pipeline(&task.project_id, commit).await?;
    let shown = match tokio::time::timeout(WITHIN, at_ci(app, task, result, commit)).await {
        Ok(shown) => shown,
        Err(_) => Err(PortError::TimedOut { what: "the CI server" }),
    };
    let shown = shown.unwrap_or_else(|error| {
        tracing::warn!(error = %chain(&error), task = %task.id, "its pipelines are not known");
        Vec::new()
    });
    Ok(merged(shown, reported))
}

/// What the CI server shows; it was asked later than a webhook reported.
fn merged(shown: Vec<PipelineSummary>, reported: Option<CommitPipeline>) -> Vec<BuildPipeline> {
    let mut all: Vec<_> = shown.into_iter().map(BuildPipeline::from).collect();
    if let Some(reported) = reported {
        let known = match reported.number {
            Some(number) => all.iter().any(|one| one.number == Some(number)),
            None => !all.is_empty(),
        };
        if !known {
            // Of a pipeline that the CI server has not listed, or does not have any more.
            let newer = |one: &BuildPipeline| one.number > reported.number;
            let at = all.iter().take_while(|one| newer(one)).count();
            all.insert(at, reported.into());
        }
    }
    all
}

async fn at_ci(
    app: &App,
    task: &Task,
    result: &BuildResult,
    commit: &CommitId,
) -> PortResult<Vec<PipelineSummary>> {
    let Some(ci) = app.ci() else { return Ok(Vec::new()) };
    let ci_id = match app.store().project(&task.project_id).await {
        Ok(Project { ci_id: Some(ci_id), .. }) => ci_id,
        Ok(_) | Err(PortError::NotFound { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // A pull request's pipeline has the branch that it is to be merged into.
    let newest = find(ci, ci_id, None, commit).await?;
    if newest.is_empty() {
        return find(ci, ci_id, Some(result.branch.to_string()), commit).await;
    }
    Ok(newest)
}

async fn find(
    ci: &dyn Ci,
    ci_id: CiId,
    branch: Option<String>,
    commit: &CommitId,
) -> PortResult<Vec<PipelineSummary>> {
    let filter = PipelineFilter { branch, status: None };
    let page = Page { limit: NEWEST, before: None };
    let mut found = ci.pipelines(ci_id, &filter, &page).await?.items;
    found.retain(|pipeline| pipeline.commit == commit.as_str());
    Ok(found)
}

impl From<PipelineSummary> for BuildPipeline {
    fn from(shown: PipelineSummary) -> Self {
        let PipelineSummary { number, event, status, url, .. } = shown;
        Self { number: Some(number), event: Some(event), status, url }
    }
}

impl From<CommitPipeline> for BuildPipeline {
    fn from(reported: CommitPipeline) -> Self {
        let CommitPipeline { number, status, url, .. } = reported;
        Self { number, event: None, status, url }
    }
}

#[cfg(test)]
mod tests {
    use rdev_domain::time::Timestamp;

    use super::*;

    fn shown(number: u64, status: &str) -> PipelineSummary {
        PipelineSummary {
            number,
            status: status.to_owned(),
            event: "push".to_owned(),
            commit: String::new(),
            branch: String::new(),
            message: String::new(),
            task_id: None,
            author: String::new(),
            created_at: Timestamp::from_millis(0),
            started_at: None,
            finished_at: None,
            url: None,
        }
    }

    fn reported(number: Option<u64>, status: &str) -> Option<CommitPipeline> {
        Some(CommitPipeline {
            project_id: "site".parse().expect("a project"),
            commit: "1".repeat(40).parse().expect("a commit"),
            number,
            status: status.to_owned(),
            url: None,
            at: Timestamp::from_millis(0),
        })
    }

    #[test]
    fn what_was_reported_is_added_to_what_the_ci_server_shows() {
        let of = |shown: &[PipelineSummary], reported: Option<CommitPipeline>| -> Vec<_> {
            let all = merged(shown.to_vec(), reported).into_iter();
            all.map(|one| (one.number, one.status)).collect()
        };
        let one = |number: u64, status: &str| (Some(number), status.to_owned());
        let both = [shown(9, "running"), shown(4, "success")];
        assert_eq!(of(&both, None), [one(9, "running"), one(4, "success")]);
        // It is asked now, so it knows better.
        let known = of(&both, reported(Some(4), "running"));
        assert_eq!(known, [one(9, "running"), one(4, "success")]);
        let other = of(&both, reported(Some(7), "failure"));
        assert_eq!(other, [one(9, "running"), one(7, "failure"), one(4, "success")]);
        assert_eq!(of(&both, reported(None, "failure")).len(), 2);
        let alone = of(&[], reported(None, "failure"));
        assert_eq!(alone, [(None, "failure".to_owned())]);
    }
}
