//! How much work there is. It reads one item for each project with something queued, and counts a
//! key for each task that somebody holds. What is queued is counted where it changes
//! ([`super::counts`]).

use futures_util::future::try_join_all;
use rdev_domain::ids::TaskId;
use rdev_domain::ports::{PortResult, WorkStats};
use rdev_domain::task::TaskState;
use rdev_domain::time::Timestamp;
use ulid::Ulid;

use super::context::{Change, Context};
use super::indexes::{self, Pages};
use super::item::{Item, get_text, key_of, text};
use super::rows::lease_part;
use super::table::Query;
use super::{counts, turns};
use crate::schema::{DEAD_LETTERS, DUE, DUE_SHARDS};

pub(super) async fn work_stats(change: &Change<'_>) -> PortResult<WorkStats> {
    let (context, now) = (change.context, change.now);
    let dead_letters =
        Query { keys: "#pk = :pk", with: vec![(":pk", text(DEAD_LETTERS))], ..Query::default() };
    // What the clock that asks sees otherwise: the queue's parts are as the sweep has left them.
    let (due, later, early, ready, running, pushing, dead_letters) = tokio::try_join!(
        queued(context, turns::PART),
        queued(context, turns::LATER),
        indexes::count(context, shards("Q").map(|part| indexes::due_after(part, now))),
        Ready::read(context, now),
        indexes::count(context, leased(TaskState::Running)),
        indexes::count(context, leased(TaskState::Pushing)),
        indexes::count(context, [dead_letters]),
    )?;
    let (queued, parked) = (due.0 + later.0, due.1 + later.1);
    // An index may be behind its table.
    Ok(WorkStats {
        due: queued.saturating_sub(early) + ready.count,
        later: parked.saturating_sub(ready.count) + early,
        running,
        pushing,
        oldest_due_ms: ready
            .oldest
            .map(|at| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX)),
        dead_letters,
    })
}

/// How many entries both parts of the queues have of the projects in a part of the index.
async fn queued(context: &Context, part: &'static str) -> PortResult<(u64, u64)> {
    let (mut queued, mut parked) = (0, 0);
    let mut pages = Pages::of(context, indexes::due(part.to_owned(), None));
    while let Some(page) = pages.next().await? {
        for item in context.table.get_all(page.iter().map(key_of).collect()).await? {
            let (due, later) = counts::of(&item);
            queued += due;
            parked += later;
        }
    }
    Ok((queued, parked))
}

/// What is due by its time.
struct Ready {
    /// How many entries of the later part of the queues have become due since the last sweep.
    count: u64,
    /// Since when the oldest due entry of either part has been due.
    oldest: Option<Timestamp>,
}

impl Ready {
    async fn read(context: &Context, now: Timestamp) -> PortResult<Self> {
        let first = |part: String| async move {
            let query = Query { limit: Some(1), ..indexes::due(part, Some(now)) };
            context.table.query(query).await.map(|found| found.items.first().and_then(since))
        };
        let later = async {
            let oldest = try_join_all(shards("R").map(first)).await?.into_iter().flatten().min();
            if oldest.is_none() {
                return Ok((0, None));
            }
            let due = shards("R").map(|part| indexes::due(part, Some(now)));
            Ok((indexes::count(context, due).await?, oldest))
        };
        let (due, (count, later)) = tokio::try_join!(try_join_all(shards("Q").map(first)), later)?;
        let oldest = due.into_iter().flatten().chain(later).min();
        Ok(Self { count, oldest })
    }
}

fn shards(part: &'static str) -> impl Iterator<Item = String> {
    (0..DUE_SHARDS).map(move |shard| format!("{part}#{shard}"))
}

fn leased(state: TaskState) -> impl Iterator<Item = Query> {
    let part = move |shard| lease_part(state, TaskId(Ulid::from_parts(0, shard)));
    (0..DUE_SHARDS).map(move |shard| indexes::due(part(shard), None))
}

/// The time that an entry's place in the index begins with.
fn since(item: &Item) -> Option<Timestamp> {
    let (at, _) = get_text(item, DUE.2)?.split_once('#')?;
    at.parse().ok().map(Timestamp::from_millis)
}
