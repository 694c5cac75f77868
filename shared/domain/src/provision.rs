//! Provisioning: what rdev creates for a project in other systems, step by step.
//!
//! Every step can be repeated: what it creates has the project's ownership tag, so that a repeat
//! finds it. After a crash between two steps, or in one, the step is repeated.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::dns::DomainSpec;
use crate::time::Timestamp;

/// What rdev creates for a project, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Provisioning {
    /// The steps, in order.
    pub steps: Vec<ProvisionStep>,
    /// The domain that the project is to have.
    pub domain: Option<DomainSpec>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProvisionStep {
    /// What it makes.
    pub name: StepName,
    /// How far it is.
    pub state: StepState,
    /// Why it failed, at its last try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it last changed.
    pub at: Timestamp,
}

/// What a step makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// The repository on the forge, with its first commit.
    Repository,
    /// The repository at the CI server.
    Ci,
    /// The name in DNS.
    Domain,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// It was not done, or was begun and nobody knows.
    Pending,
    /// It was done.
    Done,
    /// It failed; another try may go through.
    Failed,
}

impl Provisioning {
    /// These steps, none of them done.
    pub fn of(names: &[StepName], domain: Option<DomainSpec>, now: Timestamp) -> Self {
        let step = |&name| ProvisionStep { name, state: StepState::Pending, error: None, at: now };
        Self { steps: names.iter().map(step).collect(), domain }
    }

    /// The first step that was not done.
    pub fn next(&self) -> Option<StepName> {
        self.steps.iter().find(|step| step.state != StepState::Done).map(|step| step.name)
    }

    /// Whether a step was done.
    pub fn is_done(&self, name: StepName) -> bool {
        self.steps.iter().any(|step| step.name == name && step.state == StepState::Done)
    }

    /// The same with a step begun again: nobody knows how far it is.
    #[must_use]
    pub fn begun(&self, name: StepName, now: Timestamp) -> Self {
        self.changed(name, StepState::Pending, None, now)
    }

    /// The same with a step done (no `error`) or failed.
    #[must_use]
    pub fn with(&self, name: StepName, error: Option<&str>, now: Timestamp) -> Self {
        let state = if error.is_none() { StepState::Done } else { StepState::Failed };
        self.changed(name, state, error, now)
    }

    fn changed(
        &self,
        name: StepName,
        state: StepState,
        error: Option<&str>,
        now: Timestamp,
    ) -> Self {
        let mut changed = self.clone();
        for step in changed.steps.iter_mut().filter(|step| step.name == name) {
            step.state = state;
            step.error = error.map(str::to_owned);
            step.at = now;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_done_in_order_and_a_failed_one_is_next_again() {
        let now = Timestamp::from_millis(0);
        let all = Provisioning::of(&[StepName::Repository, StepName::Ci], None, now);
        assert_eq!(all.next(), Some(StepName::Repository));
        let all = all.with(StepName::Repository, None, now);
        assert_eq!(all.next(), Some(StepName::Ci));
        let all = all.with(StepName::Ci, Some("away"), now);
        assert_eq!(all.next(), Some(StepName::Ci));
        assert_eq!(all.with(StepName::Ci, None, now).next(), None);
    }
}
