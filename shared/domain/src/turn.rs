//! Whose turn it is: which project a runner claims for when it has received any wake-up.

use std::time::Duration;

use crate::ids::ProjectId;
use crate::time::Timestamp;

/// A project that was not served for this long goes before all others when its own wake-up comes:
/// nobody can have waited much longer.
const LONG_AGO: Duration = Duration::from_secs(60 * 60);

/// The place of a project among those that have a free slot and something due. The least is served
/// first: the one with the fewest held tasks, then the one whose latest claim is the longest ago.
/// So a project with a thousand builds delays another's first one by one build.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// How many of its tasks have a lease.
    pub held: u32,
    /// When its latest claim was; `None`: never.
    pub served: Option<Timestamp>,
    /// The project.
    pub project: ProjectId,
}

impl Turn {
    /// Whether the project is served at once by a wake-up of its own, whoever else waits. Then
    /// nobody needs to look for who else waits.
    pub fn comes_first(&self, now: Timestamp) -> bool {
        let long_ago = |served: Timestamp| served.plus(LONG_AGO) <= now;
        self.held == 0 && self.served.is_none_or(long_ago)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_held_tasks_go_first_and_then_the_longest_wait() {
        let at = |seconds: i64| Some(Timestamp::from_millis(seconds * 1000));
        let turn = |held, served, project: &str| Turn {
            held,
            served,
            project: project.parse().expect("a slug"),
        };
        let mut turns =
            [turn(1, None, "a"), turn(0, at(9), "b"), turn(0, at(5), "c"), turn(0, None, "d")];
        turns.sort();
        let order: Vec<&str> = turns.iter().map(|turn| turn.project.as_str()).collect();
        assert_eq!(order, ["d", "c", "b", "a"]);
    }

    #[test]
    fn a_project_that_was_not_served_for_an_hour_comes_first_unless_it_holds_something() {
        let served = Timestamp::from_millis(0);
        let turn = Turn { held: 0, served: Some(served), project: "a".parse().expect("a slug") };
        let hour = served.plus(LONG_AGO);
        assert!(turn.comes_first(hour));
        assert!(!turn.comes_first(hour.minus(Duration::from_millis(1))));
        assert!(!Turn { held: 1, ..turn.clone() }.comes_first(hour));
        assert!(Turn { served: None, ..turn }.comes_first(served));
    }
}
