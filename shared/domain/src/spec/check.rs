//! The task type `check`: run commands on a branch.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    AgentName, COMMANDS, FieldError, SECONDS, TaskType, broken, commands, default_timeout_s,
    seconds,
};
use crate::git::Branch;

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

impl CheckSpec {
    /// The type's name.
    pub const KIND: &str = "check";

    /// A check by `commands` with every default.
    pub fn of(commands: Vec<String>) -> Self {
        Self { branch: None, commands, timeout_s: default_timeout_s() }
    }
}

impl TaskType for CheckSpec {
    fn kind(&self) -> &str {
        Self::KIND
    }

    fn agent(&self) -> Option<AgentName> {
        None
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s.into())
    }

    fn check(&self) -> Vec<FieldError> {
        broken(&[
            (!self.commands.is_empty(), "commands", "must have one command or more"),
            (commands(&self.commands), "commands", COMMANDS),
            (seconds(self.timeout_s), "timeout_s", SECONDS),
        ])
    }
}
