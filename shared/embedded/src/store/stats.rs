//! How much work there is. What is queued is counted where it changes (the triggers of version 5),
//! so that a long queue costs no more than a short one; what is held is counted here.

use rdev_domain::ports::WorkStats;
use rdev_domain::time::Timestamp;
use rusqlite::{Connection, params};

use super::rows::unsigned;
use crate::error::Error;

/// The clock may have gone back since an entry became due: then it is not due yet.
pub(super) fn work_stats(conn: &Connection, now: Timestamp) -> Result<WorkStats, Error> {
    let mut all = conn.prepare_cached(
        "SELECT (SELECT n FROM counts WHERE name = 'due') - early_n + now_due_n,
                (SELECT n FROM counts WHERE name = 'later') - now_due_n + early_n,
                min(coalesce(oldest, oldest_later), coalesce(oldest_later, oldest)),
                running_n, held_n - running_n,
                (SELECT n FROM counts WHERE name = 'dead_letters')
        FROM (SELECT count(*) AS early_n FROM due WHERE since > ?1),
              (SELECT min(since) AS oldest FROM due WHERE since <= ?1),
              (SELECT count(*) AS now_due_n, min(at) AS oldest_later FROM later WHERE at <= ?1),
              (SELECT count(*) AS running_n FROM tasks WHERE state = 'running'),
              (SELECT count(*) AS held_n FROM leases)",
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

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::database::migrate::migrate;
    use crate::store::schema::SCHEMA;

    #[test]
    fn what_an_earlier_version_has_queued_is_counted_when_its_file_is_opened() {
        let conn = Connection::open_in_memory().expect("a database");
        migrate(&conn, &SCHEMA.migrations[..4]).expect("version 4");
        conn.execute_batch(
            "INSERT INTO due VALUES ('a', '', 1, 5, x'01', 5), ('a', '', 1, 6, x'02', 6), ('b', '', 1, 9, x'03', 9);
             INSERT INTO later VALUES ('a', 7, x'04', '', 1, 7), ('b', 20, x'05', '', 1, 20);
             INSERT INTO dead_letters VALUES (x'06', '');",
        )
        .expect("rows");
        migrate(&conn, SCHEMA.migrations).expect("this version");
        let stats = |now| {
            let stats = work_stats(&conn, Timestamp::from_millis(now)).expect("stats");
            (stats.due, stats.later, stats.oldest_due_ms, stats.dead_letters)
        };
        assert_eq!(
            stats(8),
            (3, 2, Some(3), 1),
            "one is due that no sweep has moved, and one is early"
        );
        assert_eq!(stats(4), (0, 5, None, 1));
        conn.execute_batch(
            "DELETE FROM due WHERE since = 5; DELETE FROM later; DELETE FROM dead_letters;
             INSERT INTO due VALUES ('c', '', 1, 7, x'07', 7);",
        )
        .expect("changes");
        assert_eq!(stats(8), (2, 1, Some(2), 0));
    }
}
