//! The queue that a runner receives from. Where runners differ, agents have queues of their own: a
//! runner takes only what comes through its queue, so that no wake-up meets a runner that cannot do
//! what it is for, and the few runners of a rare agent are not busy with what others could do.

use std::collections::BTreeMap;

use rdev_domain::ids::WorkerId;
use rdev_domain::spec::AgentName;
use rdev_domain::worker::{Worker, WorkerStatus};

/// The queue that a runner receives from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnQueue {
    /// The default queue. These agents have queues of their own.
    Default { elsewhere: Vec<AgentName> },
    /// The queue that these agents have for themselves.
    Of(Vec<AgentName>),
}

impl Default for OwnQueue {
    /// The only queue.
    fn default() -> Self {
        Self::Default { elsewhere: Vec::new() }
    }
}

/// A runner receives from the queue of an agent that it does not offer: builds would get lost
/// there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this runner receives from the queue of {0}, and does not offer {0}: \
     set agents.{0}.program, or let it receive from another queue"
)]
pub struct NotOffered(AgentName);

impl OwnQueue {
    /// The agents whose tasks a runner takes that offers these.
    ///
    /// # Errors
    /// If it does not offer an agent whose queue it receives from.
    pub fn taken(&self, offered: &[AgentName]) -> Result<Vec<AgentName>, NotOffered> {
        match self {
            Self::Default { elsewhere } => {
                let here = |agent: &&AgentName| !elsewhere.contains(agent);
                Ok(offered.iter().filter(here).copied().collect())
            }
            Self::Of(agents) => match agents.iter().find(|agent| !offered.contains(agent)) {
                Some(agent) => Err(NotOffered(*agent)),
                None => Ok(agents.clone()),
            },
        }
    }

    /// The agents that only some runners of this queue take, each with one that differs from this
    /// runner, which takes `taken`. A wake-up for such an agent may meet a runner without it.
    pub(super) fn differing(
        &self,
        taken: &[AgentName],
        workers: &[Worker],
    ) -> BTreeMap<AgentName, WorkerId> {
        // All runners of an agent's queue take that agent.
        let Self::Default { elsewhere } = self else { return BTreeMap::new() };
        let mut differing = BTreeMap::new();
        for worker in workers.iter().filter(|worker| worker.status != WorkerStatus::Offline) {
            let here = |agent: &AgentName| !elsewhere.contains(agent);
            if !worker.agents.iter().any(here) {
                // It receives from another queue.
                continue;
            }
            let differs = |agent: &AgentName| {
                here(agent) && worker.agents.contains(agent) != taken.contains(agent)
            };
            for agent in AgentName::ALL.into_iter().filter(differs) {
                differing.entry(agent).or_insert_with(|| worker.id.clone());
            }
        }
        differing
    }
}

#[cfg(test)]
mod tests {
    use rdev_domain::time::Timestamp;

    use super::*;
    use AgentName::{ClaudeCode, Codex, Command, Opencode};

    #[test]
    fn a_runner_takes_what_comes_through_its_queue_and_must_offer_what_its_queue_is_for() {
        let offered = [ClaudeCode, Codex];
        assert_eq!(OwnQueue::default().taken(&offered), Ok(offered.to_vec()));
        let rest = OwnQueue::Default { elsewhere: vec![Codex, Command] };
        assert_eq!(rest.taken(&offered), Ok(vec![ClaudeCode]));
        assert_eq!(OwnQueue::Of(vec![Codex]).taken(&offered), Ok(vec![Codex]));
        let refused = OwnQueue::Of(vec![Codex, Command]).taken(&offered);
        let text = refused.expect_err("it has no command").to_string();
        assert!(text.contains("queue of command"), "{text}");
    }

    #[test]
    fn runners_of_the_default_queue_that_differ_are_named_and_those_of_other_queues_are_not() {
        let worker = |id: &str, agents: &[AgentName], status| Worker {
            id: id.parse().expect("an id"),
            hostname: id.to_owned(),
            version: String::new(),
            status,
            slots: 1,
            running: Vec::new(),
            agents: agents.to_vec(),
            started_at: Timestamp::from_millis(0),
            last_heartbeat_at: Timestamp::from_millis(0),
        };
        let workers = [
            worker("same", &[ClaudeCode, Opencode], WorkerStatus::Idle),
            worker("more", &[ClaudeCode, Opencode, Command], WorkerStatus::Busy),
            worker("less", &[ClaudeCode], WorkerStatus::Draining),
            worker("own", &[Codex], WorkerStatus::Idle),
            worker("gone", &[], WorkerStatus::Offline),
        ];
        let queue = OwnQueue::Default { elsewhere: vec![Codex] };
        let differing = queue.differing(&[ClaudeCode, Opencode], &workers);
        let differing: Vec<_> = differing.iter().map(|(agent, id)| (*agent, id.as_str())).collect();
        assert_eq!(differing, [(Opencode, "less"), (Command, "more")]);
        assert!(OwnQueue::Of(vec![Codex]).differing(&[Codex], &workers).is_empty());
    }
}
