//! How much work there is. It counts unfinished tasks and never reads finished ones.

use futures_util::future::try_join_all;
use rdev_domain::ids::TaskId;
use rdev_domain::ports::{PortResult, WorkStats};
use rdev_domain::task::TaskState;
use rdev_domain::time::Timestamp;
use ulid::Ulid;

use super::context::Change;
use super::indexes::due_keys;
use super::item::{Item, get_text, text};
use super::rows::lease_part;
use super::table::Query;
use crate::schema::{DEAD_LETTERS, DUE, DUE_SHARDS};

pub(super) async fn work_stats(change: &Change<'_>) -> PortResult<WorkStats> {
    let (due, later, running, pushing, dead_letters) = tokio::try_join!(
        all(change, |shard| format!("Q#{shard}")),
        all(change, |shard| format!("R#{shard}")),
        all(change, |shard| leased(TaskState::Running, shard)),
        all(change, |shard| leased(TaskState::Pushing, shard)),
        change.context.table.query_all(|| Query {
            keys: "#pk = :pk",
            with: vec![(":pk", text(DEAD_LETTERS))],
            ..Query::default()
        }),
    )?;
    let times: Vec<Timestamp> = due.iter().chain(&later).filter_map(since).collect();
    let now_due = times.iter().filter(|&&at| at <= change.now).count();
    let oldest = times.into_iter().min().filter(|&at| at <= change.now);
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    Ok(WorkStats {
        due: count(now_due),
        later: count(due.len() + later.len() - now_due),
        running: count(running.len()),
        pushing: count(pushing.len()),
        oldest_due_ms: oldest
            .map(|at| u64::try_from(change.now.since(at).as_millis()).unwrap_or(u64::MAX)),
        dead_letters: count(dead_letters.len()),
    })
}

fn leased(state: TaskState, shard: u128) -> String {
    lease_part(state, TaskId(Ulid::from_parts(0, shard)))
}

async fn all(change: &Change<'_>, part: impl Fn(u128) -> String) -> PortResult<Vec<Item>> {
    let parts = (0..DUE_SHARDS).map(|shard| due_keys(change.context, part(shard), None));
    Ok(try_join_all(parts).await?.into_iter().flatten().collect())
}

/// The time that an entry's place in the index begins with.
fn since(item: &Item) -> Option<Timestamp> {
    let (at, _) = get_text(item, DUE.2)?.split_once('#')?;
    at.parse().ok().map(Timestamp::from_millis)
}
