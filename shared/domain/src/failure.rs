//! Failure classes: one table says everything that depends on a class.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use strum::{EnumCount, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use crate::ids::TaskId;
use crate::names::names;
use crate::time::Timestamp;

/// Why an attempt failed. `docs/protocol.md` has the table of reactions.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    EnumCount,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
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
    /// A verify command failed, also after the agent had seen its output.
    VerifyFailed,
    /// The work does not apply to the branch's new tip.
    Conflict,
    /// The git server refused the push permanently.
    PushRejected,
    /// The branch's history no longer holds what the build was based on.
    HistoryRewritten,
    /// The task cannot be done, or the agent's work may not be delivered.
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

names!(FailureClass);

/// What follows from a failure's class: a row of the table in [`FailureClass::rules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// What happens to a task that was `running`.
    pub running: Reaction,
    /// What happens to a task that was `pushing`.
    pub pushing: PushReaction,
    /// What happens to work that the attempt had not finished.
    pub unfinished: Unfinished,
    /// What a retry of the failed task starts from.
    pub retry: RetryStart,
    /// Whether a retry can succeed although nobody changes anything.
    pub retryable: bool,
    /// Whether the model's provider says when to try again (`retry_at`).
    pub names_a_time: bool,
}

/// What happens to a task after a failure while it was `running`.
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

/// What happens to a task after a failure while it was `pushing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushReaction {
    /// `failed` at once.
    Fail,
    /// Pushed again with backoff, for a limited time; then `failed` as `infra`.
    Postpone,
    /// A `conflict`: queued again at once, while attempts are left.
    Conflict,
}

/// What happens to work that an attempt had not finished when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfinished {
    /// The runner pushes it to a part ref, for people to look at.
    Kept,
    /// It is deleted with the workspace.
    Dropped,
}

/// What a retry starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryStart {
    /// The task cannot be retried.
    Refused,
    /// Nothing: the retry has a lineage of its own.
    NewLineage,
    /// The lineage, without the work: the work is what failed.
    Lineage,
    /// The lineage and the commit that was prepared. Work that was never prepared is what failed.
    Prepared,
    /// The lineage and the commit that was prepared, or else the one that the task resumed from.
    PreparedOrResumed,
    /// The lineage and the commit that the task itself resumed from.
    Resumed,
}

impl RetryStart {
    /// Whether a retry may deliver work that its predecessor finished and did not push.
    pub fn adopts_finished_work(self) -> bool {
        match self {
            Self::PreparedOrResumed | Self::Resumed => true,
            Self::Refused | Self::NewLineage | Self::Lineage | Self::Prepared => false,
        }
    }
}

impl FailureClass {
    /// The table. `docs/protocol.md` shows its first two columns.
    #[rustfmt::skip]
    pub const fn rules(self) -> Rules {
        use PushReaction::{Conflict, Fail as Fails, Postpone};
        use Reaction::{Again, Cancel, Fail, Park, Retry, RetryOnce};
        use RetryStart::{Lineage, NewLineage, Prepared, PreparedOrResumed, Refused, Resumed};
        use Unfinished::{Dropped, Kept};

        let (running, pushing, unfinished, retry, retryable, names_a_time) = match self {
            // running    pushing   unfinished  retry            retryable  names a time
            Self::Auth             => (Fail,      Fails,    Dropped, PreparedOrResumed, true,  false),
            Self::Quota            => (Park,      Postpone, Dropped, Resumed,           true,  true),
            Self::RateLimited      => (Retry,     Postpone, Dropped, Resumed,           true,  true),
            Self::Infra            => (Retry,     Postpone, Dropped, PreparedOrResumed, true,  false),
            Self::AgentFailed      => (Retry,     Postpone, Dropped, Resumed,           true,  false),
            Self::AgentStalled     => (RetryOnce, Postpone, Dropped, Resumed,           true,  false),
            Self::VerifyFailed     => (Fail,      Conflict, Dropped, Lineage,           true,  false),
            Self::Conflict         => (Again,     Conflict, Dropped, Lineage,           true,  false),
            Self::PushRejected     => (Fail,      Fails,    Dropped, PreparedOrResumed, true,  false),
            Self::HistoryRewritten => (Fail,      Fails,    Dropped, NewLineage,        true,  false),
            // While the task was pushing, its work was good: the repository could not be reached.
            Self::Invalid          => (Fail,      Fails,    Dropped, Prepared,          false, false),
            Self::Timeout          => (Fail,      Postpone, Kept,    Resumed,           true,  false),
            Self::BudgetExceeded   => (Fail,      Fails,    Kept,    Resumed,           true,  false),
            Self::Cancelled        => (Cancel,    Postpone, Dropped, Resumed,           true,  false),
            Self::WorkerLost       => (Retry,     Postpone, Dropped, Resumed,           true,  false),
            Self::Poison           => (Fail,      Fails,    Dropped, Refused,           false, false),
        };
        Rules { running, pushing, unfinished, retry, retryable, names_a_time }
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
        let retryable = class.rules().retryable;
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

    #[test]
    fn backoff_is_the_same_wherever_it_is_computed() {
        let task = TaskId(ulid::Ulid(7919));
        let waits = [1, 2, 6].map(|n| backoff(task, n).as_millis());
        assert_eq!(waits, [35_940, 62_640, 1_034_100]);
    }

    #[test]
    fn jitter_uses_the_whole_fifth_on_both_sides() {
        let waits: Vec<_> =
            (0..2000_u128).map(|seed| backoff(TaskId(ulid::Ulid(seed)), 1).as_millis()).collect();
        assert_eq!(waits.iter().min(), Some(&24_000));
        assert_eq!(waits.iter().max(), Some(&36_000));
    }

    #[test]
    fn a_message_is_cut_at_four_thousand_characters_and_not_within_one() {
        let of = |count| Failure::new(FailureClass::Infra, "\u{e4}".repeat(count)).message;
        assert_eq!(of(3999).chars().count(), 3999);
        assert_eq!(of(4000).chars().count(), 4000);
        assert_eq!(of(4001).chars().count(), 4000);
    }

    #[test]
    fn a_failure_says_what_its_class_says_about_a_retry() {
        for class in FailureClass::ALL {
            let failure = Failure::new(class, "x");
            let useless = class == FailureClass::Invalid || class == FailureClass::Poison;
            assert_eq!(failure.retryable, !useless, "{class:?}");
            assert_eq!((failure.push_in_doubt, failure.retry_at), (false, None));
        }
    }
}
