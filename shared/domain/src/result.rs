//! What came of a task: outcome, commit, changed files, agent, cost, times.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use strum::{EnumCount, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use crate::git::{Branch, CommitId};
use crate::names::names;
use crate::spec::AgentName;

/// The result of a task that succeeded, or of a build whose push is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "nearly all are builds, and there is one per task")]
pub enum TaskResult {
    /// Of a build.
    Build(BuildResult),
    /// Of a check.
    Check(CheckResult),
}

impl TaskResult {
    /// The build's result, if this is one.
    pub fn as_build(&self) -> Option<&BuildResult> {
        match self {
            Self::Build(result) => Some(result),
            Self::Check(_) => None,
        }
    }
}

/// How a build that succeeded ended.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    EnumCount,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// The commit is on the branch.
    Delivered,
    /// The agent changed nothing.
    NoChange,
    /// `auto_push` was off: the commit is at `refs/rdev/kept/<task>`.
    CommittedNotPushed,
    /// `auto_commit` was off: only the diff was kept.
    DiffOnly,
}

names!(Outcome);

/// What a build made, and what it cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BuildResult {
    /// How it ended. While the task is `pushing`, what it will be.
    pub outcome: Outcome,
    /// The commit as it landed (or as it is kept).
    pub commit_sha: Option<CommitId>,
    /// The branch it is on, or was made for.
    pub branch: Branch,
    /// Of a commit that was not pushed to a branch: the full name of the ref that it is at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "refs/rdev/kept/01JDGZ2V9QK8M3T5X7Y9ABCDEF")]
    pub kept_ref: Option<String>,
    /// The pull request, when one was asked for and opened.
    pub pull_request_url: Option<String>,
    /// What the commit changed; at most 1,000 entries, see `files_changed_total`.
    pub files_changed: Vec<FileChange>,
    /// How many files the commit changed.
    pub files_changed_total: u64,
    /// The agent as it presented itself; absent when no agent ran in the attempt that delivered.
    pub agent: Option<AgentRun>,
    /// What all attempts of the task used.
    pub usage: Usage,
    /// Milliseconds per phase (`checkout`, `agent`, `verify`, `commit`, `push`, `report`) of the
    /// attempt that ended it.
    pub durations_ms: BTreeMap<String, u64>,
    /// The agent's last words, at most 4,000 characters.
    pub summary: String,
    /// The verify commands of the last round, in order; none when no command ran in the attempt that
    /// made the commit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verify: Vec<VerifyRun>,
    /// What went otherwise than asked, though the build succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// Something a successful build's owner should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Warning {
    /// Stable code: `branch_rewritten`, `push_not_atomic`, `pull_request_refused`, `draft_not_set`,
    /// `label_not_set`, `reviewer_not_asked`, `lfs_pointers`, `session_not_kept`.
    pub code: String,
    /// What happened, for people.
    pub message: String,
}

/// One changed file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileChange {
    /// Path from the repository's root, with `/`; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// What happened to it.
    pub status: ChangeStatus,
    /// Lines added; 0 for binary files.
    pub additions: u64,
    /// Lines removed; 0 for binary files.
    pub deletions: u64,
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeStatus {
    /// It is new.
    Added,
    /// Its content or mode changed.
    Modified,
    /// It is gone.
    Deleted,
    /// It has another name.
    Renamed,
}

/// The agent that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentRun {
    /// Which agent.
    pub provider: AgentName,
    /// Its version, as it told.
    pub version: Option<String>,
    /// The model it used, as it told, or as it was asked to.
    pub model: Option<String>,
    /// Its session, for `continue_from`.
    pub session_id: Option<String>,
}

/// Tokens, money and turns. Adds up over attempts.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Tokens sent to the model, cached ones not counted.
    pub input_tokens: u64,
    /// Tokens the model wrote.
    pub output_tokens: u64,
    /// Tokens read from or written to the provider's cache.
    pub cache_tokens: u64,
    /// US dollars, as the agent reports or by the configured prices; `null` when neither is there.
    pub cost_usd: Option<f64>,
    /// Model turns.
    pub turns: u64,
}

impl Usage {
    /// Both together. An unknown cost beside a known one counts as nothing.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            cache_tokens: self.cache_tokens.saturating_add(other.cache_tokens),
            cost_usd: match (self.cost_usd, other.cost_usd) {
                (None, None) => None,
                (a, b) => Some(a.unwrap_or(0.0) + b.unwrap_or(0.0)),
            },
            turns: self.turns.saturating_add(other.turns),
        }
    }
}

/// What a check's commands said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckResult {
    /// The commit that was checked.
    pub commit_sha: CommitId,
    /// Each command that ran, in order.
    pub commands: Vec<CommandRun>,
}

/// What a verify command of a build returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyRun {
    /// The shell command.
    pub command: String,
    /// Its exit status; `null` when a signal ended it.
    pub exit_code: Option<i32>,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
    /// Whether it let the build go on.
    pub passed: bool,
}

/// One command of a check or of a build's verify phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommandRun {
    /// The shell command.
    pub command: String,
    /// Its exit status; `null` when a signal ended it.
    pub exit_code: Option<i32>,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
    /// The end of what it printed, redacted, at most 16 KiB.
    pub output: String,
}
