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

/// How many turns may be taken instead of the first one.
const ALIKE: usize = 5;

/// How much later than the first one an equal turn was served at most.
const ABOUT_THE_SAME: Duration = Duration::from_secs(1);

/// The order in which a runner tries turns: the least first, but of the first few that hold the
/// same number of tasks and were served within the same second one that `chance` picks. So the
/// runners of a fleet that claim at the same time do not all meet at one project. With 0 it is the
/// plain order.
pub fn in_order(mut turns: Vec<Turn>, chance: u32) -> Vec<Turn> {
    turns.sort();
    let Some(first) = turns.first().cloned() else { return turns };
    let is_alike = |turn: &&Turn| {
        turn.held == first.held
            && match (first.served, turn.served) {
                (Some(first), Some(served)) => served < first.plus(ABOUT_THE_SAME),
                (first, served) => first == served,
            }
    };
    let alike = turns.iter().take(ALIKE).take_while(is_alike).count();
    let picked = turns.remove(chance as usize % alike);
    turns.insert(0, picked);
    turns
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
    fn chance_picks_one_of_the_first_few_that_are_alike_and_none_behind_them() {
        let at = |millis: i64| Some(Timestamp::from_millis(millis));
        let turn = |held, served, project: &str| Turn {
            held,
            served,
            project: project.parse().expect("a slug"),
        };
        let first = |turns: &[Turn]| -> Vec<String> {
            let mut first: Vec<String> = (0..60)
                .map(|chance| in_order(turns.to_vec(), chance).remove(0).project.to_string())
                .collect();
            assert_eq!(first[0], in_order(turns.to_vec(), 0)[0].project.as_str());
            first.sort();
            first.dedup();
            first
        };
        let served = [
            turn(1, at(0), "held"),
            turn(0, at(5000), "a"),
            turn(0, at(5999), "b"),
            turn(0, at(6000), "late"),
        ];
        assert_eq!(first(&served), ["a", "b"]);
        assert_eq!(first(&[turn(0, None, "new"), turn(0, at(0), "old")]), ["new"]);
        let many: Vec<Turn> = (10..30).map(|n| turn(0, None, &format!("p{n}"))).collect();
        assert_eq!(first(&many), ["p10", "p11", "p12", "p13", "p14"]);
        let mut rest = in_order(served.to_vec(), 1).into_iter().map(|turn| turn.project);
        let rest: Vec<String> = rest.by_ref().map(String::from).collect();
        assert_eq!(rest, ["b", "a", "late", "held"], "the others keep their order");
        assert_eq!(in_order(Vec::new(), 7), []);
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
