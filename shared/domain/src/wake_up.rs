//! The wake-up: what the queue carries. A hint, never the work itself.

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::ids::ProjectId;
use crate::spec::AgentName;
use crate::time::Timestamp;

/// The most wake-ups that a raised limit sends.
const MAX_FOR_SLOTS: usize = 100;

/// "This project may have work", for a runner with this agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WakeUp {
    /// The project.
    pub project_id: ProjectId,
    /// The agent that the work needs: where runners differ, each agent has a queue. `None`: every
    /// runner can do it.
    pub agent: Option<AgentName>,
}

/// A message that is no wake-up of a version we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// Not `{"v": …, "project_id": …}`.
    #[error("the message is not a wake-up")]
    Garbage,
    /// A version that this program does not know.
    #[error("the wake-up has the unknown version {0}")]
    UnknownVersion(u64),
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: u64,
    #[serde(default)]
    project_id: Option<ProjectId>,
    /// An agent that only a newer program knows is no reason to drop the message.
    #[serde(default)]
    agent: serde_json::Value,
}

impl WakeUp {
    /// The message's text: `{"v":1,"project_id":"…","agent":"…"}`, without an agent where there is
    /// none.
    pub fn encode(&self) -> String {
        match self.agent {
            Some(agent) => {
                format!(r#"{{"v":1,"project_id":"{}","agent":"{agent}"}}"#, self.project_id)
            }
            None => format!(r#"{{"v":1,"project_id":"{}"}}"#, self.project_id),
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// Why it is not a wake-up that this program knows.
    pub fn decode(text: &str) -> Result<Self, Undecodable> {
        match serde_json::from_str::<Wire>(text) {
            Ok(Wire { v: 1, project_id: Some(project_id), agent }) => {
                let agent = agent.as_str().and_then(|name| name.parse().ok());
                Ok(Self { project_id, agent })
            }
            Ok(Wire { v, .. }) if v != 1 => Err(Undecodable::UnknownVersion(v)),
            _ => Err(Undecodable::Garbage),
        }
    }
}

/// An outbox entry: a wake-up that is still to be sent. Deleting it deletes only it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEntry {
    /// Its own id.
    pub id: Ulid,
    /// The project to wake.
    pub project_id: ProjectId,
    /// The agent of the task that the transaction was about; where it was about a project, one that
    /// something due needs.
    pub agent: Option<AgentName>,
    /// When to send it.
    pub send_at: Timestamp,
}

impl OutboxEntry {
    /// The wake-up to send.
    pub fn wake_up(&self) -> WakeUp {
        WakeUp { project_id: self.project_id.clone(), agent: self.agent }
    }
}

/// The agents that a project's due tasks need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DueAgents {
    /// Each once, in order; `None` for what every runner can do. Empty: nothing is due.
    pub agents: Vec<Option<AgentName>>,
    /// Only the beginning of the queue was looked at: behind it there may be others.
    pub more: bool,
}

impl DueAgents {
    /// The wake-ups that bring each of these agents one runner.
    pub fn wake_ups(&self, project: &ProjectId) -> impl Iterator<Item = WakeUp> {
        self.agents.iter().map(|&agent| WakeUp { project_id: project.clone(), agent })
    }

    /// The agents of the wake-ups for `added` more slots. Any of the slots may be for any of the
    /// agents: nobody knows which of their runners are free. A wake-up also goes out when nothing
    /// is due: what was queued meanwhile may have been told that every slot is taken.
    pub fn for_slots(&self, added: u32) -> Vec<Option<AgentName>> {
        let agents = if self.agents.is_empty() { &[None][..] } else { &self.agents };
        let many = (added as usize).saturating_mul(agents.len()).min(MAX_FOR_SLOTS);
        agents.iter().copied().cycle().take(many).collect()
    }
}

impl FromIterator<Option<AgentName>> for DueAgents {
    /// All due tasks' agents, in any number and order.
    fn from_iter<I: IntoIterator<Item = Option<AgentName>>>(agents: I) -> Self {
        let agents: std::collections::BTreeSet<_> = agents.into_iter().collect();
        Self { agents: agents.into_iter().collect(), more: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_reads_back_and_unknown_versions_differ_from_garbage() {
        for agent in [None, Some(AgentName::Codex), Some(AgentName::ClaudeCode)] {
            let wake_up = WakeUp { project_id: "site".parse().expect("a slug"), agent };
            assert_eq!(WakeUp::decode(&wake_up.encode()), Ok(wake_up));
        }
        assert_eq!(WakeUp::decode(r#"{"v":2,"x":1}"#), Err(Undecodable::UnknownVersion(2)));
        for garbage in ["", "x", "{}", "[]", r#"{"v":1}"#, r#"{"v":1,"project_id":"../x"}"#] {
            assert_eq!(WakeUp::decode(garbage), Err(Undecodable::Garbage), "{garbage}");
        }
    }

    #[test]
    fn a_wake_up_of_an_older_or_a_newer_program_has_no_agent_and_is_read_all_the_same() {
        let known = WakeUp { project_id: "site".parse().expect("a slug"), agent: None };
        for agent in ["", r#","agent":null"#, r#","agent":"newcomer""#, r#","agent":7,"x":[]"#] {
            let text = format!(r#"{{"v":1,"project_id":"site"{agent}}}"#);
            assert_eq!(WakeUp::decode(&text), Ok(known.clone()), "{text}");
        }
        // What programs before agents have read.
        assert_eq!(known.encode(), r#"{"v":1,"project_id":"site"}"#);
    }

    #[test]
    fn each_agent_that_is_due_is_woken_for_each_added_slot() {
        let (codex, command) = (Some(AgentName::Codex), Some(AgentName::Command));
        let due: DueAgents = [command, codex, command].into_iter().collect();
        assert_eq!(due.agents, [codex, command]);
        assert_eq!(due.for_slots(2), [codex, command, codex, command]);
        assert_eq!(due.for_slots(0), []);
        assert_eq!(due.for_slots(1000).len(), 100);
        assert_eq!(DueAgents::default().for_slots(2), [None, None]);
    }
}
