//! What a task is asked to do: a build, or a check.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Invalid;
use crate::git::Branch;
use crate::git_url::GitUrl;
use crate::ids::TaskId;

/// A task's type and its spec: `{"type": "build", "spec": {…}}`.
///
/// A new type is one variant here and one file in the runner's handlers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "type", content = "spec")]
pub enum Work {
    /// Run an agent, verify, commit, push.
    Build(BuildSpec),
    /// Run commands on a branch: no agent, no commit.
    Check(CheckSpec),
}

impl Work {
    /// The type's name: `build` or `check`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Build(_) => "build",
            Self::Check(_) => "check",
        }
    }

    /// The agent that a runner must offer to take this task.
    pub fn agent(&self) -> Option<AgentName> {
        match self {
            Self::Build(spec) => Some(spec.agent),
            Self::Check(_) => None,
        }
    }

    /// The time the whole attempt may take.
    pub fn timeout(&self) -> Duration {
        let seconds = match self {
            Self::Build(spec) => spec.timeout_s,
            Self::Check(spec) => spec.timeout_s,
        };
        Duration::from_secs(u64::from(seconds))
    }

    /// Checks every bound that the types alone do not hold.
    ///
    /// # Errors
    /// The fields that break a rule, each with the rule.
    pub fn check(&self) -> Result<(), Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut require = |holds: bool, field: &'static str, why: &str| {
            if !holds {
                errors.push(FieldError { field: field.to_owned(), message: why.to_owned() });
            }
        };
        match self {
            Self::Build(spec) => {
                let prompt = spec.prompt.trim();
                require(!prompt.is_empty(), "prompt", "must not be empty");
                require(
                    plain_text(&spec.prompt),
                    "prompt",
                    "must not have NUL or control characters",
                );
                require(
                    (1..=7200).contains(&spec.timeout_s),
                    "timeout_s",
                    "must lie between 1 and 7200",
                );
                require(
                    (1..=7200).contains(&spec.stall_timeout_s),
                    "stall_timeout_s",
                    "must lie between 1 and 7200",
                );
                require(spec.max_turns != Some(0), "max_turns", "must be 1 or more");
                let positive = |cost: f64| cost.is_finite() && cost > 0.0;
                require(
                    spec.max_cost_usd.is_none_or(positive),
                    "max_cost_usd",
                    "must be greater than 0",
                );
                let name = |text: &String| {
                    (1..=200).contains(&text.len())
                        && !text.starts_with('-')
                        && !text.contains(char::is_control)
                };
                require(
                    spec.model.as_ref().is_none_or(name),
                    "model",
                    "must have 1 to 200 characters, no control characters, and not begin with '-'",
                );
                require(
                    commands(&spec.verify),
                    "verify",
                    "must have at most 20 commands of 1 to 4000 characters without control characters",
                );
                let message = |text: &String| {
                    !text.trim().is_empty() && text.len() <= 10_000 && plain_text(text)
                };
                require(
                    spec.commit_message.as_ref().is_none_or(message),
                    "commit_message",
                    "must have 1 to 10000 bytes and no control characters",
                );
                require(
                    !spec.pull_request || (spec.auto_commit && spec.auto_push),
                    "pull_request",
                    "needs auto_commit and auto_push",
                );
            }
            Self::Check(spec) => {
                require(!spec.commands.is_empty(), "commands", "must have one command or more");
                require(
                    commands(&spec.commands),
                    "commands",
                    "must have at most 20 commands of 1 to 4000 characters without control characters",
                );
                require(
                    (1..=7200).contains(&spec.timeout_s),
                    "timeout_s",
                    "must lie between 1 and 7200",
                );
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

/// One field of a request that broke a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// The field's path, as `spec.timeout_s`.
    pub field: String,
    /// The rule it broke.
    pub message: String,
}

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
    /// Deliver to the branch `rdev/<lineage>` and open a pull request to `branch`.
    #[serde(default)]
    pub pull_request: bool,
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
    /// A build of `prompt` with every default.
    pub fn of(prompt: impl Into<String>) -> Self {
        Self {
            prompt: prompt.into(),
            agent: AgentName::default(),
            model: None,
            branch: None,
            auto_commit: true,
            auto_push: true,
            pull_request: false,
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
}

/// A check: the verify phase alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckSpec {
    /// The branch to check; the project's default branch when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<Branch>,
    /// Shell commands that must all succeed; run in order, the first failure ends.
    pub commands: Vec<String>,
    /// The time all of them may take, in seconds: 1 to 7200, 3600 by default.
    #[serde(default = "default_timeout_s")]
    pub timeout_s: u32,
}

/// The agents that rdev knows.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum AgentName {
    /// Anthropic's Claude Code.
    ClaudeCode,
    /// OpenCode.
    Opencode,
    /// OpenAI's Codex CLI.
    Codex,
    /// Any program: prompt on stdin, exit status 0 is success.
    #[default]
    Command,
}

impl AgentName {
    /// Every agent, in the order in which one is looked for.
    pub const ALL: [Self; 4] = [Self::ClaudeCode, Self::Opencode, Self::Codex, Self::Command];

    /// The name in the API and the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::Opencode => "opencode",
            Self::Codex => "codex",
            Self::Command => "command",
        }
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AgentName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|agent| agent.as_str() == text)
            .ok_or_else(|| Invalid::new("agent", "must be claude-code, opencode, codex or command"))
    }
}

/// Text that people write: tabs and line ends, but no other control characters.
pub fn plain_text(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
}

fn commands(commands: &[String]) -> bool {
    let good = |command: &String| {
        !command.trim().is_empty() && command.len() <= 4000 && plain_text(command)
    };
    commands.len() <= 20 && commands.iter().all(good)
}

fn yes() -> bool {
    true
}

fn default_timeout_s() -> u32 {
    3600
}

fn default_stall_timeout_s() -> u32 {
    600
}
