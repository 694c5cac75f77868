//! What a campaign prints.

use std::fmt::Write;

use rdev_domain::time::Timestamp;

use super::checker::tasks::Audited;
use super::checker::{Breach, Column};

/// The rows of the table: what, and how much.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<(String, String)>);

impl Table {
    pub(crate) fn row(&mut self, what: impl Into<String>, how_much: &dyn std::fmt::Display) {
        self.0.push((what.into(), how_much.to_string()));
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = self.0.iter().map(|(what, _)| what.chars().count()).max().unwrap_or(0);
        for (what, how_much) in &self.0 {
            writeln!(f, "| {what:<width$} | {how_much}")?;
        }
        Ok(())
    }
}

/// The last line.
pub(crate) fn last_line(builds: usize, kills: usize, breaches: &[Breach]) -> String {
    let mut line = format!("builds={builds} kills={kills}");
    for column in [Column::Lost, Column::Doubled, Column::Orphans, Column::Leaked] {
        let count = breaches.iter().filter(|breach| breach.column == column).count();
        // Writing to a string cannot fail.
        let _ = write!(line, " {column}={count}");
    }
    line
}

/// How long it took until a task of a killed runner was claimed again, in milliseconds, sorted.
/// `events` are the audit log's, oldest first; `kills` are the times with the runners' worker ids.
pub(crate) fn reclaimed(events: &[Audited], kills: &[(Timestamp, String)]) -> Vec<u64> {
    let mut times = Vec::new();
    for (index, recovered) in events.iter().enumerate() {
        if recovered.action != "task.recovered" {
            continue;
        }
        let same = |event: &&Audited| event.task == recovered.task;
        let claimed = |event: &&Audited| event.action == "task.claimed";
        let before = events[..index].iter().rev().filter(same).find(claimed);
        let after = events[index..].iter().filter(same).find(claimed);
        let (Some(before), Some(after)) = (before, after) else { continue };
        let worker = before.actor.strip_prefix("worker:").unwrap_or_default();
        // A holder that was only paused was recovered too: no kill lies between.
        let killed = kills
            .iter()
            .rev()
            .find(|(at, killed)| killed == worker && *at >= before.at && *at <= recovered.at);
        if let Some((killed, _)) = killed {
            let waited = after.at.since(*killed).as_millis();
            times.push(u64::try_from(waited).unwrap_or(u64::MAX));
        }
    }
    times.sort_unstable();
    times
}

/// `p50 … p99 … max …` of sorted milliseconds, in seconds.
pub(crate) fn percentiles(sorted: &[u64]) -> String {
    let Some(max) = sorted.last() else { return "none".to_owned() };
    let at = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
    let s = |millis: u64| {
        let tenths = millis.div_ceil(100);
        format!("{}.{} s", tenths / 10, tenths % 10)
    };
    format!("{} times: p50 {}, p99 {}, max {}", sorted.len(), s(at(50)), s(at(99)), s(*max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: i64, action: &str, actor: &str) -> Audited {
        let (action, actor) = (format!("task.{action}"), actor.to_owned());
        Audited { at: Timestamp::from_millis(at), action, actor, task: "one".to_owned() }
    }

    #[test]
    fn the_time_to_the_next_claim_is_counted_from_the_kill_of_the_holder() {
        let events = [
            event(1_000, "claimed", "worker:a"),
            event(3_000, "recovered", "maintenance"),
            event(4_500, "claimed", "worker:b"),
            event(9_000, "recovered", "maintenance"),
            event(9_100, "claimed", "worker:a"),
        ];
        let at = Timestamp::from_millis;
        let kills =
            [(at(500), "a".to_owned()), (at(2_000), "a".to_owned()), (at(9_000), "a".to_owned())];
        assert_eq!(reclaimed(&events, &kills), [2_500], "the second holder was not killed");
        assert_eq!(reclaimed(&events, &[]), [0; 0]);
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<u64> = (1..=100).map(|n| n * 1_000).collect();
        assert_eq!(percentiles(&hundred), "100 times: p50 50.0 s, p99 99.0 s, max 100.0 s");
        assert_eq!(percentiles(&[70]), "1 times: p50 0.1 s, p99 0.1 s, max 0.1 s");
        assert_eq!(percentiles(&[]), "none");
    }

    #[test]
    fn the_last_line_counts_breaches_by_column() {
        let breach = |column| Breach { column, what: String::new() };
        assert_eq!(last_line(7, 3, &[]), "builds=7 kills=3 lost=0 doubled=0 orphans=0 leaked=0");
        let some = [Column::Leaked, Column::Leaked, Column::Lost].map(breach);
        assert_eq!(last_line(7, 3, &some), "builds=7 kills=3 lost=1 doubled=0 orphans=0 leaked=2");
    }
}
