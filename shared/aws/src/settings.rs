//! Settings of the AWS shape from the environment, beside those that the SDK reads itself.

use std::collections::{BTreeMap, BTreeSet};
use std::env::{self, VarError};

use rdev_domain::Invalid;
use rdev_domain::spec::AgentName;

pub const TABLE: &str = "RDEV_TABLE";
pub const QUEUE_URL: &str = "RDEV_QUEUE_URL";
pub const DEAD_QUEUE_URL: &str = "RDEV_DEAD_QUEUE_URL";
pub const QUEUE_AGENT: &str = "RDEV_QUEUE_AGENT";

/// The variable with the URL of an agent's own queue: `RDEV_QUEUE_URL_CLAUDE_CODE`.
pub fn agent_queue_url(agent: AgentName) -> String {
    format!("{QUEUE_URL}_{}", agent.as_str().to_uppercase().replace('-', "_"))
}

/// The table and the queues of this installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The table's name, from [`TABLE`].
    pub table: String,
    /// The URL of the default queue, from [`QUEUE_URL`]: it has the wake-ups of all agents that
    /// have no queue of their own, and of work that needs no agent.
    pub queue_url: String,
    /// The URLs of the agents' own queues, from [`agent_queue_url`]. Where runners differ, each
    /// program that sends wake-ups must know them.
    pub agent_queue_urls: BTreeMap<AgentName, String>,
    /// The agent whose queue this runner receives from, of [`QUEUE_AGENT`]; else the default queue.
    pub queue_agent: Option<AgentName>,
    /// The dead-letter queue's URL, from [`DEAD_QUEUE_URL`]. Without one, dead letters are neither
    /// counted nor read.
    pub dead_queue_url: Option<String>,
}

/// A setting is missing or invalid. The program exits with code 78.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A required variable is not set, or is empty.
    #[error("{0} is not set: the stack's outputs give its value")]
    Missing(&'static str),
    /// A variable is not valid UTF-8.
    #[error("{0} is not valid UTF-8")]
    NotText(String),
    /// There is no such agent.
    #[error("{QUEUE_AGENT}: {0}")]
    UnknownAgent(#[source] Invalid),
    /// The agent has no queue of its own.
    #[error("{QUEUE_AGENT} is {0}, so {url} must be the URL of its queue", url = agent_queue_url(*.0))]
    NoQueue(AgentName),
}

impl Settings {
    /// Only the default queue, and no dead letters.
    pub fn new(table: String, queue_url: String) -> Self {
        Self {
            table,
            queue_url,
            agent_queue_urls: BTreeMap::new(),
            queue_agent: None,
            dead_queue_url: None,
        }
    }

    /// Reads [`TABLE`], [`QUEUE_URL`], [`DEAD_QUEUE_URL`], [`QUEUE_AGENT`] and the URLs of the
    /// agents' own queues.
    ///
    /// # Errors
    /// For the first variable that is missing, not valid UTF-8, or an agent without a queue.
    pub fn from_env() -> Result<Self, SettingsError> {
        Self::from_variables(|name| env::var(name))
    }

    fn from_variables(
        read: impl Fn(&str) -> Result<String, VarError>,
    ) -> Result<Self, SettingsError> {
        let optional = |name: &str| match read(name) {
            Ok(value) if value.trim().is_empty() => Ok(None),
            Ok(value) => Ok(Some(value)),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err(SettingsError::NotText(name.to_owned())),
        };
        let required = |name| optional(name)?.ok_or(SettingsError::Missing(name));
        let (table, queue_url) = (required(TABLE)?, required(QUEUE_URL)?);
        let mut agent_queue_urls = BTreeMap::new();
        for agent in AgentName::ALL {
            if let Some(url) = optional(&agent_queue_url(agent))? {
                agent_queue_urls.insert(agent, url);
            }
        }
        let queue_agent = optional(QUEUE_AGENT)?.map(|agent| agent.trim().parse()).transpose();
        let queue_agent = queue_agent.map_err(SettingsError::UnknownAgent)?;
        if let Some(agent) = queue_agent.filter(|agent| !agent_queue_urls.contains_key(agent)) {
            return Err(SettingsError::NoQueue(agent));
        }
        let dead_queue_url = optional(DEAD_QUEUE_URL)?;
        Ok(Self { table, queue_url, agent_queue_urls, queue_agent, dead_queue_url })
    }

    /// The URL of the queue with the wake-ups for this agent.
    pub fn queue_of(&self, agent: Option<AgentName>) -> &str {
        agent.and_then(|agent| self.agent_queue_urls.get(&agent)).unwrap_or(&self.queue_url)
    }

    /// The URL of the queue that this program receives from.
    pub fn own_queue(&self) -> &str {
        self.queue_of(self.queue_agent)
    }

    /// The URLs of all queues but the one of dead letters, each once.
    pub fn queues(&self) -> BTreeSet<&str> {
        self.agent_queue_urls.values().chain([&self.queue_url]).map(String::as_str).collect()
    }

    /// The agents whose wake-ups come through the queue that this program receives from.
    pub fn own_agents(&self) -> Vec<AgentName> {
        let own = |agent: &AgentName| self.queue_of(Some(*agent)) == self.own_queue();
        AgentName::ALL.into_iter().filter(own).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::from_variables(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned()).ok_or(VarError::NotPresent)
        })
    }

    #[test]
    fn the_table_and_the_queue_must_be_named_and_the_dead_letter_queue_need_not() {
        let both = from(&[(TABLE, "rdev"), (QUEUE_URL, "https://sqs/1/rdev")]);
        let both = both.expect("enough");
        assert_eq!((both.table.as_str(), both.dead_queue_url), ("rdev", None));
        assert_eq!(from(&[(TABLE, "rdev")]), Err(SettingsError::Missing(QUEUE_URL)));
        assert_eq!(from(&[(TABLE, " "), (QUEUE_URL, "x")]), Err(SettingsError::Missing(TABLE)));
        let dead = [(TABLE, "rdev"), (QUEUE_URL, "x"), (DEAD_QUEUE_URL, "y")];
        assert_eq!(from(&dead).map(|all| all.dead_queue_url), Ok(Some("y".to_owned())));
    }

    #[test]
    fn an_agent_with_a_queue_of_its_own_has_its_wake_ups_there_and_all_others_share_the_default_one()
     {
        let common = [(TABLE, "rdev"), (QUEUE_URL, "all"), ("RDEV_QUEUE_URL_CLAUDE_CODE", "own")];
        let default = from(&common).expect("enough");
        assert_eq!(default.queue_of(Some(AgentName::ClaudeCode)), "own");
        assert_eq!(default.queue_of(Some(AgentName::Codex)), "all");
        assert_eq!((default.queue_of(None), default.own_queue()), ("all", "all"));
        assert_eq!(default.queues(), BTreeSet::from(["all", "own"]));
        assert!(!default.own_agents().contains(&AgentName::ClaudeCode));
        assert_eq!(default.own_agents().len(), AgentName::ALL.len() - 1);

        let with = |agent| from(&[&common[..], &[(QUEUE_AGENT, agent)]].concat());
        let own = with("claude-code").expect("its queue is known");
        assert_eq!((own.own_queue(), own.own_agents()), ("own", vec![AgentName::ClaudeCode]));
        assert_eq!(with("codex"), Err(SettingsError::NoQueue(AgentName::Codex)));
        let unknown = with("Codex").expect_err("names are lower case").to_string();
        assert!(unknown.starts_with("RDEV_QUEUE_AGENT: agent must be"), "{unknown}");
    }
}
