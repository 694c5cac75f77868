//! The code agents, by name: the one list of them.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumCount, EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use crate::Invalid;
use crate::names::names;

// In the order in which rdev looks for one. A new agent is a variant here and a file in the
// runner; tests name the pages and templates that have to mention it.
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
    Display,
    EnumCount,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", parse_err_ty = Invalid, parse_err_fn = unknown)]
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

names!(AgentName);

impl AgentName {
    /// The names of `agents` for a sentence: `claude-code, opencode or codex`.
    pub fn any_of(agents: &[Self]) -> String {
        let names: Vec<_> = agents.iter().map(|agent| agent.as_str()).collect();
        match names.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        }
    }
}

fn unknown(_: &str) -> Invalid {
    Invalid::new("agent", format!("must be {}", AgentName::any_of(&AgentName::ALL)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_agent_is_answered_with_the_list() {
        for agent in AgentName::ALL {
            assert_eq!(agent.to_string().parse(), Ok(agent));
        }
        let unknown = "Codex".parse::<AgentName>().expect_err("names are lower case");
        assert_eq!(unknown.to_string(), "agent must be claude-code, opencode, codex or command");
        assert_eq!(AgentName::any_of(&[AgentName::Codex]), "codex");
        assert_eq!(AgentName::any_of(&[]), "");
    }
}
