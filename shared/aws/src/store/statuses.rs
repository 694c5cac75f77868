//! The commit statuses of tasks that are still to be sent to the forge. Such a task is in the index
//! of due records.

use futures_util::future::try_join_all;
use rdev_domain::commit_status::ShownStatus;
use rdev_domain::ids::TaskId;
use rdev_domain::ports::{Conflict, PortResult};
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use ulid::Ulid;

use super::context::Context;
use super::indexes;
use super::item::{Item, Values, get_text, key_of, number, text};
use super::item_size;
use super::rows::{Found, Row};
use super::table::{Query, pause};
use crate::error::{self, alone};
use crate::schema::{DUE, DUE_SHARDS, Key, due_shard, sortable};

/// How often a task is read again that others change at the same time.
const MAX_RACES: u32 = 5;

/// When the task's status is sent next.
pub(super) fn due_at(task: &Task) -> Option<Timestamp> {
    task.commit_status.as_ref()?.next_at
}

/// The part of the index of due records that the task is in.
pub(super) fn part(id: TaskId) -> String {
    part_of_shard(due_shard(id.0))
}

fn part_of_shard(shard: u128) -> String {
    format!("S#{shard}")
}

/// Its place there.
pub(super) fn place(id: TaskId, at: Timestamp) -> String {
    format!("{}#{id}", sortable(at))
}

pub(super) async fn due(context: &Context, now: Timestamp, limit: u32) -> PortResult<Vec<Task>> {
    let shards = (0..DUE_SHARDS).map(|shard| {
        let due = indexes::due(part_of_shard(shard), Some(now));
        context.table.query(Query { limit: Some(limit), ..due })
    });
    let found = try_join_all(shards).await?;
    let mut found: Vec<_> = found.into_iter().flat_map(|found| found.items).collect();
    found.sort_by(|a, b| get_text(a, DUE.2).cmp(&get_text(b, DUE.2)));
    found.truncate(limit as usize);
    let items = context.table.get_all(found.iter().map(key_of).collect()).await?;
    let mut tasks = Vec::with_capacity(items.len());
    for item in &items {
        let key = key_of(item);
        match alone(&key, Row::of(item, None, context.format))?.map(|row| row.found) {
            // What a newer program has written, that one sends.
            Some(Found::Newer(_)) => {}
            Some(Found::Task(record)) if due_at(&record.task).is_some() => tasks.push(record.task),
            // It cannot be read, or a program that knows of no statuses has written it since. It
            // is not to stand before the others.
            _ => leave(context, key, item).await?,
        }
    }
    // The index may not have the newest state.
    tasks.retain(|task| due_at(task).is_some_and(|at| at <= now));
    tasks.sort_by_key(|task| (due_at(task), task.id));
    Ok(tasks)
}

/// Takes the item out of the index, if it is as it was read.
async fn leave(context: &Context, key: Key, seen: &Item) -> PortResult<()> {
    let Some(place) = get_text(seen, DUE.2) else { return Ok(()) };
    let with = vec![(":place", text(place))];
    let _ = context.table.update(key, "REMOVE #dpk, #dsk", "#dsk = :place", with).await?;
    Ok(())
}

pub(super) async fn update(
    context: &Context,
    before: &Task,
    after: &ShownStatus,
) -> PortResult<Option<Task>> {
    let key = Key::task(&before.project_id, before.id);
    let nonce = Ulid::generate().to_string();
    // As this process has read or written it, nearly always: that needs no read.
    let mut seen = context.format.encode(before).map_err(error::defect)?;
    let mut task = before.clone();
    for race in 1..=MAX_RACES {
        task.commit_status = Some(after.clone());
        let body = item_size::encode(&mut task, context.format)?;
        // What this process remembers of the task is older than that.
        context.leases.remove(task.id);
        let (set, with) = update_of(&task, body, seen, &nonce);
        let there = match context.table.update(key.clone(), &set, "#body = :seen", with).await? {
            Ok(_) => return Ok(Some(task)),
            Err(None) => return Ok(None),
            Err(Some(there)) => there,
        };
        // After a lost answer, the condition fails because this very write has been applied.
        if get_text(&there, "status_nonce") == Some(&nonce) {
            return Ok(Some(task));
        }
        let Found::Task(record) = Row::of(&there, None, context.format)?.found else {
            return Ok(None);
        };
        if record.task.commit_status != before.commit_status {
            return Ok(None);
        }
        seen = get_text(&there, "body").unwrap_or_default().to_owned();
        task = record.task;
        pause(race).await;
    }
    Err(Conflict::Contended.into())
}

fn update_of(task: &Task, body: String, seen: String, nonce: &str) -> (String, Values) {
    // With a new `rev`, so that nobody writes a task from before over it.
    let set = "SET #body = :body, #rev = #rev + :one, #status_nonce = :nonce";
    let mut with: Values = vec![
        (":seen", text(seen)),
        (":body", text(body)),
        (":one", number(1)),
        (":nonce", text(nonce)),
    ];
    let set = match due_at(task) {
        Some(at) => {
            with.push((":part", text(part(task.id))));
            with.push((":place", text(place(task.id, at))));
            format!("{set}, #dpk = :part, #dsk = :place")
        }
        None => format!("{set} REMOVE #dpk, #dsk"),
    };
    (set, with)
}
