//! How much work there is. It counts unfinished tasks and never reads finished ones.

use rdev_domain::ports::WorkStats;
use rdev_domain::time::Timestamp;
use rusqlite::{Connection, params};

use super::rows::unsigned;
use crate::error::Error;

/// The clock may have gone back since an entry became due: then it is not due yet.
pub(super) fn work_stats(conn: &Connection, now: Timestamp) -> Result<WorkStats, Error> {
    let mut all = conn.prepare_cached(
        "SELECT due_n + now_due_n, later_n + early_n,
                min(coalesce(oldest, oldest_later), coalesce(oldest_later, oldest)),
                running_n, held_n - running_n, dead_n
        FROM (SELECT count(*) FILTER (WHERE since <= ?1) AS due_n,
                     count(*) FILTER (WHERE since > ?1) AS early_n,
                     min(since) FILTER (WHERE since <= ?1) AS oldest FROM due),
              (SELECT count(*) FILTER (WHERE at <= ?1) AS now_due_n,
                      count(*) FILTER (WHERE at > ?1) AS later_n,
                      min(at) FILTER (WHERE at <= ?1) AS oldest_later FROM later),
              (SELECT count(*) AS running_n FROM tasks WHERE state = 'running'),
              (SELECT count(*) AS held_n FROM leases),
              (SELECT count(*) AS dead_n FROM dead_letters)",
    )?;
    let stats = all.query_row(params![now.as_millis()], |row| {
        let count = |column| row.get(column).map(unsigned);
        let oldest: Option<i64> = row.get(2)?;
        let age = |since| now.since(Timestamp::from_millis(since)).as_millis();
        Ok(WorkStats {
            due: count(0)?,
            later: count(1)?,
            oldest_due_ms: oldest.map(|since| u64::try_from(age(since)).unwrap_or(u64::MAX)),
            running: count(3)?,
            pushing: count(4)?,
            dead_letters: count(5)?,
        })
    })?;
    Ok(stats)
}
