//! Pipelines: what a project's CI did with its commits, in our own form.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::Invalid;
use crate::git::CommitId;
use crate::ids::{ProjectId, TaskId};
use crate::time::Timestamp;

/// A project's repository at the CI server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CiId(pub u64);

/// Which pipeline of a project: `7`, or `latest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum PipelineNumber {
    /// The one with this number.
    Number(u64),
    /// The newest one.
    Latest,
}

impl FromStr for PipelineNumber {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let number = text.parse().map(Self::Number);
        number.map_err(|_| Invalid::new("pipeline", "must be a number, or 'latest'"))
    }
}

impl TryFrom<String> for PipelineNumber {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl fmt::Display for PipelineNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Latest => f.write_str("latest"),
        }
    }
}

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
    /// The commit's message; in a list its first line only.
    pub message: String,
    /// The build that made the commit, as the commit says: by its trailer `Rdev-Task`, or by the
    /// branch of its pull request, which has the name of the first build of its lineage.
    pub task_id: Option<TaskId>,
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

    /// The same with the first line of the message only: a message may have a whole prompt in it.
    #[must_use]
    pub fn in_list(mut self) -> Self {
        let subject = self.message.lines().next().unwrap_or_default().trim_end().len();
        self.message.truncate(subject);
        self
    }
}

/// The build that made a commit with this message. The last trailer counts: text before it may be
/// anything.
pub fn task_of_message(message: &str) -> Option<TaskId> {
    let mut trailers = message.lines().rev().filter_map(|line| line.strip_prefix("Rdev-Task: "));
    trailers.next()?.trim_end().parse().ok()
}

/// The first build of the lineage that the branch of a pull request belongs to.
pub fn task_of_branch(branch: &str) -> Option<TaskId> {
    branch.strip_prefix("rdev/")?.parse().ok()
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
    /// The exit status, once it has ended; absent if its command never ran.
    pub exit_code: Option<i64>,
    /// Why it failed, where that is not in its log: its image cannot be pulled, for example.
    pub error: Option<String>,
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

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: &str = "01M8HS8RDMETXV4D11A4J7PT9G";

    #[test]
    fn a_commit_names_its_build_in_the_last_trailer() {
        let of = |message: &str| task_of_message(message).map(|task| task.to_string());
        let trailers = format!("Rdev-Task: {TASK}\nRdev-Attempt: 1\nRdev-Lineage: {TASK}\n");
        assert_eq!(of(&format!("Say hello\n\n{trailers}")).as_deref(), Some(TASK));
        // The prompt is a part of the message, and may have anything in it.
        let prompt = "Say hello\n\nRdev-Task: 01M8HRGDB80TZ5K5MSBMNH6XKB\nRdev-Task: x\n";
        assert_eq!(of(&format!("{prompt}\n{trailers}")).as_deref(), Some(TASK));
        for none in ["", "Say hello", "Rdev-Task: x", "about Rdev-Task: 01M8HRGDB80TZ5K5MSBMNH6XKB"]
        {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn the_branch_of_a_pull_request_names_the_first_build_of_its_lineage() {
        let of = |branch: &str| task_of_branch(branch).map(|task| task.to_string());
        assert_eq!(of(&format!("rdev/{TASK}")).as_deref(), Some(TASK));
        assert_eq!(of("rdev/x"), None);
        assert_eq!(of(TASK), None);
    }

    #[test]
    fn a_pipeline_is_named_by_its_number_or_as_the_latest() {
        assert_eq!("7".parse(), Ok(PipelineNumber::Number(7)));
        assert_eq!("latest".parse(), Ok(PipelineNumber::Latest));
        for wrong in ["", "Latest", "-1", "7x", "99999999999999999999"] {
            assert!(wrong.parse::<PipelineNumber>().is_err(), "{wrong}");
        }
    }
}
