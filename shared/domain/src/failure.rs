//! Failure classes, each with one fixed reaction.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::ids::TaskId;
use crate::time::Timestamp;

/// Why an attempt ended badly. `docs/protocol.md` has the table of reactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// A credential was refused: by the model, or by the git server.
    Auth,
    /// The model's quota is used up until a time it names.
    Quota,
    /// The model asked to slow down.
    RateLimited,
    /// A machine, network or server of ours or theirs failed.
    Infra,
    /// The agent ended badly.
    AgentFailed,
    /// The agent was silent for too long.
    AgentStalled,
    /// A verify command failed, also after the agent had been told.
    VerifyFailed,
    /// The work does not apply to the branch's new tip.
    Conflict,
    /// The git server refused the push for good.
    PushRejected,
    /// The branch's history no longer holds what the build was based on.
    HistoryRewritten,
    /// What was asked cannot be done, or what the agent made may not be delivered.
    Invalid,
    /// The attempt took longer than `timeout_s`.
    Timeout,
    /// `max_turns` or `max_cost_usd` was reached.
    BudgetExceeded,
    /// Somebody cancelled it.
    Cancelled,
    /// Its worker died or lost its lease.
    WorkerLost,
    /// Its record cannot be read.
    Poison,
}

/// What happens to a task after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// `failed` at once.
    Fail,
    /// Queued again with backoff, while attempts are left.
    Retry,
    /// Queued again, but once only.
    RetryOnce,
    /// Queued for the reset time; the attempt is given back.
    Park,
    /// Queued again at once, while attempts are left; earlier wip refs are out of date.
    Again,
    /// `cancelled`.
    Cancel,
}

impl FailureClass {
    /// Every class, in the order of the table in the docs.
    pub const ALL: [Self; 16] = [
        Self::Auth,
        Self::Quota,
        Self::RateLimited,
        Self::Infra,
        Self::AgentFailed,
        Self::AgentStalled,
        Self::VerifyFailed,
        Self::Conflict,
        Self::PushRejected,
        Self::HistoryRewritten,
        Self::Invalid,
        Self::Timeout,
        Self::BudgetExceeded,
        Self::Cancelled,
        Self::WorkerLost,
        Self::Poison,
    ];

    /// The reaction when the class ends an attempt that was `running`.
    pub fn reaction(self) -> Reaction {
        match self {
            Self::Quota => Reaction::Park,
            Self::RateLimited | Self::Infra | Self::AgentFailed | Self::WorkerLost => {
                Reaction::Retry
            }
            Self::AgentStalled => Reaction::RetryOnce,
            Self::Conflict => Reaction::Again,
            Self::Cancelled => Reaction::Cancel,
            Self::Auth
            | Self::VerifyFailed
            | Self::PushRejected
            | Self::HistoryRewritten
            | Self::Invalid
            | Self::Timeout
            | Self::BudgetExceeded
            | Self::Poison => Reaction::Fail,
        }
    }

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Quota => "quota",
            Self::RateLimited => "rate_limited",
            Self::Infra => "infra",
            Self::AgentFailed => "agent_failed",
            Self::AgentStalled => "agent_stalled",
            Self::VerifyFailed => "verify_failed",
            Self::Conflict => "conflict",
            Self::PushRejected => "push_rejected",
            Self::HistoryRewritten => "history_rewritten",
            Self::Invalid => "invalid",
            Self::Timeout => "timeout",
            Self::BudgetExceeded => "budget_exceeded",
            Self::Cancelled => "cancelled",
            Self::WorkerLost => "worker_lost",
            Self::Poison => "poison",
        }
    }
}

/// A failure as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// The class, which alone decides the reaction.
    pub class: FailureClass,
    /// What happened, redacted, at most 4,000 characters.
    pub message: String,
    /// Whether `retry` is worth trying without changing anything.
    pub retryable: bool,
    /// The last push was unanswered and may still land; the next retry finds it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub push_in_doubt: bool,
    /// When to try again, as the model's provider said (`quota`, `rate_limited`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
}

impl Failure {
    /// A failure of `class` because of `message`.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if let Some((cut, _)) = message.char_indices().nth(4000) {
            message.truncate(cut);
        }
        let retryable = !matches!(class, FailureClass::Invalid | FailureClass::Poison);
        Self { class, message, retryable, push_in_doubt: false, retry_at: None }
    }
}

/// How long to wait before try `n` (1 is the first retry): 30 s · 2^(n-1), at
/// most 15 min, ± 20 %. The jitter comes from the task's id, so that it is the
/// same wherever it is computed.
pub fn backoff(task: TaskId, n: u32) -> Duration {
    let base = (30_000_u64 << n.saturating_sub(1).min(10)).min(15 * 60_000);
    let digest = Sha256::digest(format!("{task}/{n}"));
    let jitter = u64::from(digest[0]) * 400 / 255; // 0 to 400 ‰
    Duration::from_millis(base * (800 + jitter) / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_from_thirty_seconds_to_fifteen_minutes_with_a_fifth_of_jitter() {
        for seed in 0..50_u128 {
            let task = TaskId(ulid::Ulid(seed * 7919));
            for (n, base_s) in [(1, 30), (2, 60), (3, 120), (4, 240), (5, 480), (6, 900), (40, 900)]
            {
                let wait = backoff(task, n).as_millis();
                assert!((base_s * 800..=base_s * 1200).contains(&wait), "try {n}: {wait} ms");
            }
        }
    }
}
