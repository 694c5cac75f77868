//! What the forge is to show at a build's commit, and whether it does.
//!
//! A task has one such record: its newest word. It is written by the transaction that makes the
//! word true, and only for a repository whose forge shows statuses. The final word (delivered, or
//! not) is due from then on until the forge has taken it: [`send`] brings it there.

pub mod send;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::chain;
use crate::git::CommitId;
use crate::ports::{CommitState, PortError, PortResult};
use crate::result::{Outcome, TaskResult};
use crate::task::{Task, TaskState};
use crate::time::Timestamp;

/// How long a try may take at most. Before that a try that has begun is not repeated.
pub const LONGEST_TRY: Duration = Duration::from_secs(30);

/// For how long a final status is sent again.
pub const GIVEN_UP_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// After how long it is sent again: 5 s after the first try, then 30 s, 2 min, 10 min, 30 min, and
/// each hour.
const BACKOFF_S: [u64; 6] = [5, 30, 120, 600, 1800, 3600];

/// The most characters of an error that are kept.
const MAX_ERROR: usize = 300;

/// What the forge is to show at a commit of the build, as `rdev/build`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShownStatus {
    /// The commit.
    pub commit: CommitId,
    /// What is to be shown.
    pub state: CommitState,
    /// The line beside it.
    pub description: String,
    /// Whether the forge shows it.
    pub shown: Shown,
    /// How often it was sent, if it is final. Of one that is not, nothing is recorded.
    pub tries: u32,
    /// When it is sent next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// Why the forge has not taken it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Since when it is to be shown.
    pub since: Timestamp,
    /// When this record last changed.
    pub updated_at: Timestamp,
}

/// Whether the forge shows a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// It is not known to: a final status is sent until the forge has taken it.
    Pending,
    /// The forge has taken it.
    Taken,
    /// It was given up; `error` says why.
    GivenUp,
}

impl ShownStatus {
    fn new(commit: CommitId, state: CommitState, description: &str, now: Timestamp) -> Self {
        Self {
            commit,
            state,
            description: description.to_owned(),
            shown: Shown::Pending,
            tries: 0,
            next_at: None,
            error: None,
            since: now,
            updated_at: now,
        }
    }

    /// Whether the build's word on the commit is said.
    pub fn is_final(&self) -> bool {
        self.state != CommitState::Pending
    }

    /// A try begins. It is counted first, so that of two senders only one makes it; if the sender
    /// dies, another one follows.
    #[must_use]
    pub fn begun(&self, now: Timestamp) -> Self {
        let tries = self.tries + 1;
        let next_at = Some(now.plus(wait_after(tries).max(LONGEST_TRY)));
        Self { tries, next_at, updated_at: now, ..self.clone() }
    }

    /// A try, begun by [`ShownStatus::begun`], has ended so.
    #[must_use]
    pub fn ended(&self, outcome: &PortResult<()>, now: Timestamp) -> Self {
        let error = match outcome {
            Ok(()) => {
                return Self {
                    shown: Shown::Taken,
                    next_at: None,
                    error: None,
                    updated_at: now,
                    ..self.clone()
                };
            }
            Err(error) => error,
        };
        let asked = match error {
            PortError::Limited { retry_after, .. } => retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let next_at = now.plus(wait_after(self.tries).max(asked));
        let again = may_go_through(error) && next_at.since(self.since) <= GIVEN_UP_AFTER;
        Self {
            shown: if again { Shown::Pending } else { Shown::GivenUp },
            next_at: again.then_some(next_at),
            error: Some(chain(error).chars().take(MAX_ERROR).collect()),
            updated_at: now,
            ..self.clone()
        }
    }

    /// It is given up because `why`.
    #[must_use]
    pub fn dropped(&self, why: &str, now: Timestamp) -> Self {
        let (shown, error) = (Shown::GivenUp, Some(why.to_owned()));
        Self { shown, next_at: None, error, updated_at: now, ..self.clone() }
    }

    /// Something older may have come to the forge after it: it is sent once more.
    #[must_use]
    pub fn again(&self, now: Timestamp) -> Self {
        Self {
            shown: Shown::Pending,
            next_at: Some(now),
            since: now,
            updated_at: now,
            ..self.clone()
        }
    }
}

/// The pause after that many tries.
fn wait_after(tries: u32) -> Duration {
    let longest = BACKOFF_S.len() - 1;
    Duration::from_secs(BACKOFF_S[(tries.saturating_sub(1) as usize).min(longest)])
}

/// Whether the forge may take later what it has answered with this error. A repository that is
/// gone and a user without the right to it are definite.
pub(crate) fn may_go_through(error: &PortError) -> bool {
    error.is_transient() || matches!(error, PortError::Upstream { .. } | PortError::Broken { .. })
}

/// What the forge is to show after a step took `before` to `task`. `told`: the holder that made the
/// step sends it at once, so its first try counts as begun.
pub(crate) fn after(before: &Task, task: &Task, told: bool, now: Timestamp) -> Option<ShownStatus> {
    let there = task.commit_status.as_ref();
    if there.is_none() && !task.shows_status {
        return None;
    }
    let word = |commit: &CommitId, state, description: &str| {
        let new = ShownStatus::new(commit.clone(), state, description, now);
        if told { new.begun(now) } else { ShownStatus { next_at: Some(now), ..new } }
    };
    // What was said to be under way, and is now to end.
    let open = || {
        let shown = there.filter(|status| !status.is_final()).map(|status| &status.commit);
        shown.or(before.prepared.as_ref().map(|prepared| &prepared.commit))
    };
    match (before.state, task.state) {
        (_, TaskState::Pushing) => {
            let prepared = task.prepared.as_ref()?;
            let is_said = |status: &&ShownStatus| {
                // A claim that resumes the push does not say it of another commit.
                !status.is_final()
                    && (before.state == TaskState::Pushing || status.commit == prepared.commit)
            };
            there.filter(is_said).cloned().or_else(|| {
                let (commit, state) = (prepared.commit.clone(), CommitState::Pending);
                Some(ShownStatus::new(commit, state, "is being pushed", now))
            })
        }
        (_, TaskState::Succeeded) => match &task.result {
            Some(TaskResult::Build(build)) if build.outcome == Outcome::Delivered => {
                let commit = build.commit_sha.as_ref()?;
                Some(word(commit, CommitState::Success, "delivered"))
            }
            _ if before.state == TaskState::Pushing => {
                let why = "the branch already has the same change";
                open().map(|commit| word(commit, CommitState::Success, why))
            }
            _ => there.cloned(),
        },
        (TaskState::Pushing, _) => {
            let class = task.failure.as_ref().map_or("failed", |failure| failure.class.as_str());
            open().map(|commit| word(commit, CommitState::Failure, class))
        }
        _ => there.cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Invalid;

    fn due() -> ShownStatus {
        let commit = "0123456789012345678901234567890123456789".parse().expect("a commit");
        ShownStatus::new(commit, CommitState::Success, "delivered", Timestamp::from_millis(0))
    }

    fn busy() -> PortError {
        PortError::unavailable("the forge", "it answered 500")
    }

    #[test]
    fn a_status_is_sent_with_growing_pauses_for_a_day_and_then_given_up() {
        let (mut status, mut now, mut waits) = (due(), Timestamp::from_millis(0), Vec::new());
        while status.shown == Shown::Pending {
            status = status.begun(now).ended(&Err(busy()), now);
            if let Some(next) = status.next_at {
                waits.push((next.as_millis() - now.as_millis()) / 1000);
                now = next;
            }
        }
        assert_eq!(waits[..7], [5, 30, 120, 600, 1800, 3600, 3600]);
        let total: i64 = waits.iter().sum();
        assert!((23 * 3600..=24 * 3600).contains(&total), "{total} s");
        assert_eq!((status.shown, status.next_at), (Shown::GivenUp, None));
        assert_eq!(status.error.as_deref(), Some("the forge is not available: it answered 500"));
    }

    #[test]
    fn a_try_that_does_not_end_is_repeated_only_when_it_must_have_ended() {
        let now = Timestamp::from_millis(0);
        let begun = due().begun(now);
        assert_eq!((begun.tries, begun.next_at), (1, Some(now.plus(LONGEST_TRY))));
    }

    #[test]
    fn a_definite_no_gives_it_up_and_anything_else_may_go_through() {
        let now = Timestamp::from_millis(0);
        let shown = |error| due().begun(now).ended(&Err(error), now).shown;
        let invalid = || PortError::from(Invalid::new("repository", "is archived"));
        let denied = || PortError::Denied { what: "the forge".to_owned() };
        for no in [PortError::not_found("repository"), denied(), invalid()] {
            assert_eq!(shown(no), Shown::GivenUp);
        }
        let silent = PortError::TimedOut { what: "the forge" };
        for later in [busy(), silent, PortError::upstream("the forge", "a page of a proxy")] {
            assert_eq!(shown(later), Shown::Pending);
        }
        let taken = due().begun(now).ended(&Ok(()), now);
        assert_eq!((taken.shown, taken.next_at, taken.error), (Shown::Taken, None, None));
    }

    #[test]
    fn a_forge_that_names_a_time_is_not_asked_before_it() {
        let now = Timestamp::from_millis(0);
        let retry_after = Some(Duration::from_secs(600));
        let limited = PortError::Limited { what: "the forge", retry_after };
        let ended = due().begun(now).ended(&Err(limited), now);
        assert_eq!(ended.next_at, Some(now.plus(Duration::from_secs(600))));
    }

    #[test]
    fn an_error_of_any_length_is_kept_short() {
        let now = Timestamp::from_millis(0);
        let long = PortError::unavailable("the forge", "ü".repeat(10_000));
        let ended = due().begun(now).ended(&Err(long), now);
        assert_eq!(ended.error.map(|error| error.chars().count()), Some(MAX_ERROR));
    }
}
