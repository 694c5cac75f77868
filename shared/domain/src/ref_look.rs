//! Looking through a repository for refs of rdev's own that nobody needs any more: when, and what is
//! known of them. The store keeps it, so that a runner that dies, and a project that never builds
//! again, leave nothing behind. Only runners touch repositories.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::git_url::GitUrl;
use crate::ids::TaskId;
use crate::time::Timestamp;

/// The time from a fetch, or a look, to the next look. A runner asks once an hour what is due, so a
/// ref that nobody needs goes within a day.
pub const SELDOM: Duration = Duration::from_secs(22 * 60 * 60);

/// The time to a look that has something to do: something could not be removed.
pub const SOON: Duration = Duration::from_secs(60 * 60);

/// A process that has planned a look of a repository does not plan it again at its fetches for so
/// long.
pub const PLANNED_FOR: Duration = Duration::from_secs(12 * 60 * 60);

/// Once nobody has planned a look for so long, and nothing of ours is in the repository, there are
/// no more looks. Every fetch since was more than [`PLANNED_FOR`] ago: its attempt has ended, and
/// what it left would have been seen.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(26 * 60 * 60);

/// The most tasks that are remembered for one repository.
pub const MAX_KNOWN: usize = 2000;

/// When a repository is looked through next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefLook {
    /// The repository.
    pub repository: GitUrl,
    /// When.
    pub due: Timestamp,
    /// When an attempt fetched from it last, as far as that was told.
    pub planned_at: Timestamp,
    /// Tasks of ours whose refs were there at the last look. Once the store does not know one of
    /// them any more, its record has expired. (Refs of other tasks may belong to another
    /// installation.)
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub known: BTreeSet<TaskId>,
}

impl RefLook {
    /// The plan after somebody wants a look `at` a time; `before`: the plan so far.
    pub fn planned(
        before: Option<Self>,
        repository: &GitUrl,
        at: Timestamp,
        now: Timestamp,
    ) -> Self {
        match before {
            Some(before) => {
                Self { due: before.due.min(at), planned_at: before.planned_at.max(now), ..before }
            }
            None => Self {
                repository: repository.clone(),
                due: at,
                planned_at: now,
                known: BTreeSet::new(),
            },
        }
    }

    /// The plan while a runner looks: if it dies, another one looks soon.
    #[must_use]
    pub fn taken(&self, now: Timestamp) -> Self {
        Self { due: now.plus(SOON), ..self.clone() }
    }

    /// The plan after a look that has seen refs of the tasks `known`. `None`: none is needed.
    pub fn looked(&self, mut known: BTreeSet<TaskId>, again: bool, now: Timestamp) -> Option<Self> {
        if !again && known.is_empty() && now.since(self.planned_at) > FORGOTTEN_AFTER {
            return None;
        }
        while known.len() > MAX_KNOWN {
            // The oldest have other means: see the age from which a record is taken for expired.
            known.pop_first();
        }
        let due = now.plus(if again { SOON } else { SELDOM });
        Some(Self { due, known, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn plan(before: Option<RefLook>, at: Timestamp, now: Timestamp) -> RefLook {
        let url = "https://git.example.com/site.git".parse().expect("a clone URL");
        RefLook::planned(before, &url, at, now)
    }

    #[test]
    fn a_plan_is_brought_forward_and_never_put_off() {
        let now = Timestamp::from_millis(1_000_000_000);
        let first = plan(None, now.plus(SELDOM), now);
        assert_eq!((first.due, first.planned_at), (now.plus(SELDOM), now));
        let later = now.plus(HOUR);
        let second = plan(Some(first.clone()), later.plus(SELDOM), later);
        assert_eq!((second.due, second.planned_at), (first.due, later));
        let third = plan(Some(second), later.plus(SOON), later);
        assert_eq!(third.due, later.plus(SOON));
        // A clock that is behind takes nothing back.
        assert_eq!(plan(Some(third.clone()), now.plus(SELDOM), now), third);
    }

    #[test]
    fn looks_end_a_day_after_the_last_fetch_when_nothing_is_left() {
        let begun = Timestamp::from_millis(1_000_000_000);
        let first = plan(None, begun.plus(SELDOM), begun);
        let next = first.looked(BTreeSet::new(), false, begun.plus(SELDOM));
        let next = next.expect("an attempt may still have been at work");
        assert_eq!(next.due, begun.plus(2 * SELDOM));
        assert_eq!(next.looked(BTreeSet::new(), false, next.due), None);
        let failed = next.looked(BTreeSet::new(), true, next.due).expect("it is to be tried again");
        assert_eq!(failed.due, next.due.plus(SOON));
        let task: TaskId = "01JDGZ2V9QK8M3T5X7Y9ABCDEF".parse().expect("a ULID");
        let seen = next.looked([task].into(), false, next.due).expect("a ref is there");
        assert_eq!((seen.due, seen.known), (next.due.plus(SELDOM), [task].into()));
    }

    #[test]
    fn a_plan_remembers_a_limited_number_of_tasks_the_newest() {
        let now = Timestamp::from_millis(0);
        let ids = |range: std::ops::Range<u64>| -> BTreeSet<TaskId> {
            range.map(|millis| TaskId(ulid::Ulid::from_parts(millis, 0))).collect()
        };
        let all = MAX_KNOWN as u64 + 10;
        let after = plan(None, now, now).looked(ids(0..all), false, now).expect("a plan");
        assert_eq!(after.known, ids(10..all));
    }
}
