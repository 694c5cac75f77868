//! Pipelines: what a project's CI did with its commits, in our own form.

use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::git::CommitId;
use crate::ids::ProjectId;
use crate::time::Timestamp;

/// A project's repository at the CI server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CiId(pub u64);

/// A pipeline as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PipelineSummary {
    /// Its number within the project: 1 is the first.
    pub number: u64,
    /// `pending`, `running`, `success`, `failure`, `killed`, …: as the CI server says it.
    pub status: String,
    /// What started it: `push`, `pull_request`, `manual`, …
    pub event: String,
    /// The commit.
    pub commit: String,
    /// The branch.
    pub branch: String,
    /// The commit's message.
    pub message: String,
    /// Who.
    pub author: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it began to run.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Where people see it.
    pub url: Option<String>,
}

impl PipelineSummary {
    /// What orders a list, newest first: its time, then its number.
    pub fn place(&self) -> Ulid {
        let millis = u64::try_from(self.created_at.as_millis()).unwrap_or(0);
        Ulid::from_parts(millis, u128::from(self.number))
    }
}

/// A pipeline with everything in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pipeline {
    /// What a list shows.
    #[serde(flatten)]
    pub summary: PipelineSummary,
    /// What was wrong with its definition.
    pub errors: Vec<String>,
    /// Its workflows, in order.
    pub workflows: Vec<Workflow>,
}

/// A workflow of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Workflow {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub status: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Its steps, in order.
    pub steps: Vec<PipelineStep>,
}

/// A step of a workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PipelineStep {
    /// Its id, for its log.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// `clone`, `commands`, `plugin`, `service`, …
    pub kind: String,
    /// How far it is.
    pub status: String,
    /// The exit status, once it has ended.
    pub exit_code: Option<i64>,
}

/// A line of a step's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Its number: 0 is the first.
    pub line: u64,
    /// Seconds since the step began.
    pub time: u64,
    /// The text. What is no UTF-8 was replaced.
    pub text: String,
}

/// Which pipelines a list has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PipelineFilter {
    /// Only of this branch.
    pub branch: Option<String>,
    /// Only in this state.
    pub status: Option<String>,
}

/// The latest that is known of a commit's pipeline: told by webhooks, kept by the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommitPipeline {
    /// The project.
    pub project_id: ProjectId,
    /// The commit.
    pub commit: CommitId,
    /// The pipeline's number, where it is known.
    pub number: Option<u64>,
    /// As the CI server says it.
    pub status: String,
    /// Where people see it.
    pub url: Option<String>,
    /// When this was so.
    pub at: Timestamp,
}
