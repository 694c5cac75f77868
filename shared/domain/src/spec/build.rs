//! The task type `build`: run an agent, verify, commit, push.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    AgentName, COMMANDS, FieldError, SECONDS, TaskType, broken, commands, default_timeout_s,
    plain_text, seconds,
};
use crate::git::Branch;
use crate::git_url::GitUrl;
use crate::ids::TaskId;
use crate::pull_request::PullRequestOptions;

/// A build: a prompt and how to carry it out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildSpec {
    /// What the agent is asked to do. Not empty.
    pub prompt: String,
    /// The agent that does it.
    #[serde(default)]
    pub agent: AgentName,
    /// The model, in the agent's own naming; the agent's configuration decides when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The branch to build on and deliver to; the project's default branch when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<Branch>,
    /// Commit what the agent changed. Without it only the diff is kept.
    #[serde(default = "yes")]
    pub auto_commit: bool,
    /// Push the commit to the branch. Without it the commit stays at `refs/rdev/kept/<task>`.
    #[serde(default = "yes")]
    pub auto_push: bool,
    /// Deliver to the branch `rdev/<lineage>` and open a pull request to `branch`; as the project's
    /// `deliver` says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<bool>,
    /// What is set on the pull request; absent fields as the project says.
    #[serde(default, skip_serializing_if = "PullRequestOptions::is_empty")]
    #[schema(value_type = PullRequestOptions)]
    pub pull_request_options: Box<PullRequestOptions>,
    /// Shell commands that must succeed before anything is committed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verify: Vec<String>,
    /// The time one attempt may take, in seconds: 1 to 7200, 3600 by default.
    #[serde(default = "default_timeout_s")]
    pub timeout_s: u32,
    /// The time an agent may be silent, in seconds: 1 to 7200, 600 by default.
    #[serde(default = "default_stall_timeout_s")]
    pub stall_timeout_s: u32,
    /// The number of model turns the agent may take. 1 or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
    /// What the agent may spend, in US dollars. Greater than 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost_usd: Option<f64>,
    /// The repository, only where the project gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_url: Option<GitUrl>,
    /// A finished task of the same project whose agent session is resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continue_from: Option<TaskId>,
    /// The commit's message; made from the prompt when absent. Trailers are added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_message: Option<String>,
}

impl BuildSpec {
    /// The type's name.
    pub const KIND: &str = "build";

    /// A build of `prompt` with every default.
    pub fn of(prompt: impl Into<String>) -> Self {
        Self {
            prompt: prompt.into(),
            agent: AgentName::default(),
            model: None,
            branch: None,
            auto_commit: true,
            auto_push: true,
            pull_request: None,
            pull_request_options: Box::default(),
            verify: Vec::new(),
            timeout_s: default_timeout_s(),
            stall_timeout_s: default_stall_timeout_s(),
            max_turns: None,
            max_cost_usd: None,
            git_url: None,
            continue_from: None,
            commit_message: None,
        }
    }

    /// Whether it delivers by a pull request, as far as it says itself.
    pub fn opens_pull_request(&self) -> bool {
        self.pull_request == Some(true)
    }
}

impl TaskType for BuildSpec {
    fn kind(&self) -> &str {
        Self::KIND
    }

    fn agent(&self) -> Option<AgentName> {
        Some(self.agent)
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s.into())
    }

    fn check(&self) -> Vec<FieldError> {
        let opens = self.opens_pull_request();
        let mut errors = broken(&[
            (!self.prompt.trim().is_empty(), "prompt", "must not be empty"),
            (plain_text(&self.prompt), "prompt", "must not have NUL or control characters"),
            (seconds(self.timeout_s), "timeout_s", SECONDS),
            (seconds(self.stall_timeout_s), "stall_timeout_s", SECONDS),
            (self.max_turns != Some(0), "max_turns", "must be 1 or more"),
            (
                self.max_cost_usd.is_none_or(|cost| cost.is_finite() && cost > 0.0),
                "max_cost_usd",
                "must be greater than 0",
            ),
            (
                self.model.as_deref().is_none_or(model),
                "model",
                "must have 1 to 200 characters, no control characters, and not begin with '-'",
            ),
            (commands(&self.verify), "verify", COMMANDS),
            (
                self.commit_message.as_deref().is_none_or(commit_message),
                "commit_message",
                "must have 1 to 10000 bytes and no control characters",
            ),
            (
                !opens || (self.auto_commit && self.auto_push),
                "pull_request",
                "needs auto_commit and auto_push",
            ),
            (
                opens || self.pull_request_options.is_empty(),
                "pull_request_options",
                "needs a pull request: set pull_request to true, or the project's deliver to pull_request",
            ),
        ]);
        errors.extend(self.pull_request_options.check());
        errors
    }
}

fn model(name: &str) -> bool {
    (1..=200).contains(&name.len()) && !name.starts_with('-') && !name.contains(char::is_control)
}

fn commit_message(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= 10_000 && plain_text(text)
}

fn yes() -> bool {
    true
}

fn default_stall_timeout_s() -> u32 {
    600
}
