//! What a task does: its type and the type's spec. One file for each type.

mod agent;
mod build;
mod check;
mod unreadable;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use agent::AgentName;
pub use build::BuildSpec;
pub use check::CheckSpec;
pub use unreadable::UnreadableSpec;

/// A task's type and its spec: `{"type": "build", "spec": {…}}`.
///
/// A new type is one file beside this one, a variant here, and one handler in the runner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "type", content = "spec")]
pub enum Work {
    /// Run an agent, verify, commit, push.
    Build(BuildSpec),
    /// Run commands on a branch: no agent, no commit.
    Check(CheckSpec),
    /// Work that this program cannot read. Only records have it, and no runner runs it.
    #[serde(untagged, skip_deserializing)]
    Unreadable(UnreadableSpec),
}

/// What a task type's spec says about the task.
trait TaskType {
    fn kind(&self) -> &str;
    fn agent(&self) -> Option<AgentName>;
    fn timeout(&self) -> Duration;
    fn check(&self) -> Vec<FieldError>;
}

impl Work {
    fn spec(&self) -> &dyn TaskType {
        match self {
            Self::Build(spec) => spec,
            Self::Check(spec) => spec,
            Self::Unreadable(spec) => spec,
        }
    }

    /// The type's name, as [`BuildSpec::KIND`].
    pub fn kind(&self) -> &str {
        self.spec().kind()
    }

    /// The agent that a runner must offer to claim this task.
    pub fn agent(&self) -> Option<AgentName> {
        self.spec().agent()
    }

    /// The time the whole attempt may take.
    pub fn timeout(&self) -> Duration {
        self.spec().timeout()
    }

    /// Checks every bound that the types alone do not hold.
    ///
    /// # Errors
    /// The fields that break a rule, each with the rule.
    pub fn check(&self) -> Result<(), Vec<FieldError>> {
        let errors = self.spec().check();
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

impl FieldError {
    /// `field` breaks a rule; `message` states the rule.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Whether a text has no control characters except tabs and line ends.
pub fn plain_text(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
}

/// The rules that do not hold, of `(whether it holds, field, rule)`.
fn broken(rules: &[(bool, &str, &str)]) -> Vec<FieldError> {
    rules
        .iter()
        .filter(|(holds, ..)| !holds)
        .map(|&(_, field, rule)| FieldError::new(field, rule))
        .collect()
}

const SECONDS: &str = "must lie between 1 and 7200";

fn seconds(number: u32) -> bool {
    (1..=7200).contains(&number)
}

const COMMANDS: &str =
    "must have at most 20 commands of 1 to 4000 characters without control characters";

fn commands(commands: &[String]) -> bool {
    let good = |command: &String| {
        !command.trim().is_empty() && command.len() <= 4000 && plain_text(command)
    };
    commands.len() <= 20 && commands.iter().all(good)
}

fn default_timeout_s() -> u32 {
    3600
}
