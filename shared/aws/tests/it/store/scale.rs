//! Long queues, many projects and many workers: what a sweep, the stats, a list of workers and a
//! claim read depends on what they find. The emulator is too slow for 200,000 tasks, so a queue is
//! much longer than all that may be read of it; calls and bytes are what is bounded.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use futures_util::{StreamExt, stream};
use rdev_domain::audit::Actor;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{Claim, Store, WorkStats};
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use rdev_domain::worker::{SILENT_AFTER, Worker, WorkerStatus};
use rdev_testkit::tools::trial::Outcome;
use ulid::Ulid;

use super::{Bench, NOW, TABLE, new_task};

rdev_testkit::trials! {
    async a_long_queue_costs_a_sweep_the_stats_and_a_claim_no_more_than_a_short_one;
    async a_sweep_of_a_thousand_projects_reads_each_once_and_wakes_those_with_a_free_slot;
    async two_thousand_workers_are_read_in_pages;
    async projects_of_an_earlier_version_are_counted_and_found_by_the_sweep;
    async an_entry_with_the_sort_key_of_an_earlier_version_is_not_behind_newer_ones;
    async numbers_that_are_wrong_are_counted_anew_after_a_day_or_once_a_queue_is_empty;
    async twenty_builds_that_are_queued_at_once_meet_and_are_all_accepted;
}

type Item = HashMap<String, AttributeValue>;

fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn number(number: usize) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// The time of a sweep that finds what was queued at [`NOW`] due for long.
fn later() -> Timestamp {
    NOW.plus(Duration::from_secs(180))
}

async fn put_all(client: &Client, items: Vec<Item>) {
    put_all_into(client, TABLE, items).await;
}

/// Writes items into a table in batches.
pub(super) async fn put_all_into(client: &Client, table: &str, items: Vec<Item>) {
    let batches: Vec<Vec<Item>> = items.chunks(25).map(<[Item]>::to_vec).collect();
    let put = |items: Vec<Item>| async move {
        let put = |item| PutRequest::builder().set_item(Some(item)).build().expect("an item");
        let put = |item| WriteRequest::builder().put_request(put(item)).build();
        let writes = items.into_iter().map(put).collect();
        let written = client.batch_write_item().request_items(table, writes).send().await;
        assert_eq!(written.expect("an answer").unprocessed_items.map_or(0, |left| left.len()), 0);
    };
    stream::iter(batches).map(put).buffer_unordered(8).collect::<()>().await;
}

/// The item of this key.
async fn item(client: &Client, pk: &str, sk: &str) -> Item {
    let got = client.get_item().table_name(TABLE).key("pk", text(pk)).key("sk", text(sk));
    got.consistent_read(true).send().await.expect("an answer").item.expect("an item")
}

/// The item of a project's slots.
async fn slots(bench: &Bench, project: &ProjectId) -> Item {
    item(&bench.client, &format!("P#{project}"), "META#SLOTS").await
}

/// Changes the item of a project's slots, as another program could.
async fn update(bench: &Bench, project: &ProjectId, change: &str, value: Option<AttributeValue>) {
    let update = bench.client.update_item().table_name(TABLE);
    let update = update.key("pk", text(format!("P#{project}"))).key("sk", text("META#SLOTS"));
    let values = value.map(|value| HashMap::from([(":value".to_owned(), value)]));
    let update = update.update_expression(change).set_expression_attribute_values(values);
    update.send().await.expect("it is there");
}

/// Queues a task, whose wake-up gets lost.
async fn queued(bench: &Bench, task: Task) -> Task {
    let by = Actor::maintenance();
    let queued = bench.store.enqueue(&task, &by, NOW).await.expect("a queued task");
    bench.store.delete_outbox(&queued.outbox).await.expect("it goes");
    task
}

/// The queue entry of a task.
async fn entry(bench: &Bench, task: &Task) -> Item {
    let pk = format!("P#{}", task.project_id);
    let place = item(&bench.client, &pk, &format!("T#{}", task.id)).await["place"].clone();
    item(&bench.client, &pk, place.as_s().expect("a text")).await
}

/// Entries behind this one, of tasks that there are not.
fn more_entries(first: &Item, count: usize) -> Vec<Item> {
    let old = |name: &str| first[name].as_s().expect("a text").clone();
    let (sk, dsk) = (old("sk"), old("dsk"));
    (0..count)
        .map(|n| {
            let id = Ulid::from_parts(u64::MAX >> 16, n as u128).to_string();
            let behind = |key: &str| format!("{}#{id}", key.rsplit_once('#').expect("an id").0);
            let mut item = first.clone();
            item.insert("sk".to_owned(), text(behind(&sk)));
            item.insert("dsk".to_owned(), text(behind(&dsk)));
            item.insert("dpk".to_owned(), text(format!("Q#{}", n % 2)));
            item
        })
        .collect()
}

/// The calls since the last time and the bytes of their answers.
fn cost(bench: &Bench) -> (usize, u64) {
    let seen = bench.proxy.seen();
    bench.proxy.forget_seen();
    (seen.len(), seen.iter().map(|seen| seen.bytes).sum())
}

async fn sweep(bench: &Bench, now: Timestamp) -> Vec<ProjectId> {
    let mut wake = Vec::new();
    for _ in 0..50 {
        let swept = bench.store.sweep(now).await.expect("a sweep");
        wake.extend(swept.wake.into_iter().map(|wake_up| wake_up.project_id));
        if !swept.more {
            return wake;
        }
    }
    panic!("the sweep does not end")
}

async fn stats(bench: &Bench) -> WorkStats {
    bench.store.work_stats(later()).await.expect("the stats")
}

async fn a_long_queue_costs_a_sweep_the_stats_and_a_claim_no_more_than_a_short_one() -> Outcome {
    let mut costs = Vec::new();
    for length in [1_000_usize, 3_000] {
        let bench = Bench::new().await?;
        let project = bench.project().await;
        let task = queued(&bench, new_task(&project)).await;
        let first = entry(&bench, &task).await;
        put_all(&bench.client, more_entries(&first, length - 1)).await;
        update(&bench, &project, "ADD queued :value", Some(number(length - 1))).await;
        cost(&bench);
        assert_eq!(sweep(&bench, later()).await, std::slice::from_ref(&project));
        let swept = cost(&bench);
        let counted = stats(&bench).await;
        assert_eq!((counted.due, counted.oldest_due_ms), (length as u64, Some(180_000)));
        let asked = cost(&bench);
        assert_eq!(bench.claimed(&project).await.task.id, task.id);
        costs.push([swept, asked, cost(&bench)]);
    }
    for ((calls, bytes), (calls_of_short, bytes_of_short)) in costs[1].iter().zip(&costs[0]) {
        assert_eq!(calls, calls_of_short, "{costs:?}");
        // Their names and numbers are not equally long.
        assert!(bytes.abs_diff(*bytes_of_short) * 20 < *bytes_of_short, "{costs:?}");
    }
    Ok(())
}

async fn a_sweep_of_a_thousand_projects_reads_each_once_and_wakes_those_with_a_free_slot() -> Outcome
{
    const PROJECTS: usize = 1_000;
    const TASKS: usize = 1;
    let bench = Bench::new().await?;
    let project = bench.project().await;
    let task = queued(&bench, new_task(&project)).await;
    let first = entry(&bench, &task).await;
    let of_project =
        [item(&bench.client, &format!("P#{project}"), "META").await, slots(&bench, &project).await];
    let mut items = Vec::new();
    for n in 0..PROJECTS {
        let name = format!("copy-{n:04}");
        let [mut meta, mut slots] = of_project.clone();
        let body = meta["body"].as_s().expect("a text").replace(project.as_str(), &name);
        meta.insert("body".to_owned(), text(body));
        let pk = text(format!("P#{name}"));
        slots.insert("dsk".to_owned(), text(format!("{:015}#{name}", 0)));
        slots.insert("queued".to_owned(), number(TASKS));
        if n % 2 == 1 {
            slots.insert("held".to_owned(), AttributeValue::Ss(vec![Ulid::generate().to_string()]));
        }
        let entries = more_entries(&first, TASKS);
        for mut item in [meta, slots].into_iter().chain(entries) {
            item.insert("pk".to_owned(), pk.clone());
            items.push(item);
        }
    }
    put_all(&bench.client, items).await;

    cost(&bench);
    let woken = sweep(&bench, later()).await;
    assert_eq!(woken.len(), PROJECTS / 2 + 1, "those with a free slot");
    let (calls, bytes) = cost(&bench);
    // Two queries for each that is woken, its two items again, and all slots' items in hundreds.
    assert!(calls < PROJECTS + 100, "{calls} calls");
    assert!(bytes < 4_000_000, "{bytes} bytes");
    assert_eq!(stats(&bench).await.due, (PROJECTS * TASKS + 1) as u64);
    let (calls, bytes) = cost(&bench);
    assert!(calls < 50 && bytes < 1_500_000, "{calls} calls, {bytes} bytes");
    Ok(())
}

async fn two_thousand_workers_are_read_in_pages() -> Outcome {
    const WORKERS: usize = 2_000;
    let bench = Bench::new().await?;
    let worker = Worker {
        id: "w-0000".parse().expect("a worker id"),
        hostname: "a-host".to_owned(),
        version: "0.1.0".to_owned(),
        status: WorkerStatus::Idle,
        slots: 4,
        running: Vec::new(),
        agents: Vec::new(),
        started_at: NOW,
        last_heartbeat_at: NOW,
    };
    bench.store.heartbeat(&worker, NOW).await.expect("a report is taken");
    let first = item(&bench.client, "W#w-0000", "WORKER").await;
    let copy = |n: usize| {
        let id = format!("w-{n:04}");
        let mut item = first.clone();
        let body = item["body"].as_s().expect("a text").replace("w-0000", &id);
        item.insert("body".to_owned(), text(body));
        item.insert("pk".to_owned(), text(format!("W#{id}")));
        for place in ["lsk", "dsk"] {
            item.insert(place.to_owned(), text(id.clone()));
        }
        item
    };
    put_all(&bench.client, (1..WORKERS).map(copy).collect()).await;
    cost(&bench);
    let workers = bench.store.workers().await.expect("the workers");
    assert_eq!(workers.len(), WORKERS);
    let (calls, bytes) = cost(&bench);
    assert!(calls <= WORKERS / 50 + 1 && bytes < 3_000_000, "{calls} calls, {bytes} bytes");
    let now = NOW.plus(SILENT_AFTER);
    bench.store.heartbeat(&worker, now).await.expect("a report is taken");
    let swept = bench.store.sweep(now).await.expect("a sweep");
    assert_eq!(swept.offline, (WORKERS - 1) as u64);
    cost(&bench);
    let swept = bench.store.sweep(now).await.expect("a sweep");
    assert_eq!(swept.offline, 0);
    let (calls, bytes) = cost(&bench);
    assert!(calls < 30 && bytes < 20_000, "the silent are not read again: {calls}, {bytes}");
    Ok(())
}

async fn projects_of_an_earlier_version_are_counted_and_found_by_the_sweep() -> Outcome {
    let bench = Bench::new().await?;
    let (due, parked) = (bench.project().await, bench.project().await);
    for _ in 0..2 {
        queued(&bench, new_task(&due)).await;
    }
    let available_at = NOW.plus(Duration::from_secs(3600));
    queued(&bench, Task { available_at, ..new_task(&parked) }).await;
    for project in [&due, &parked] {
        // As a version left it that had neither turns nor numbers.
        update(&bench, project, "REMOVE queued, parked, counted, dpk, dsk", None).await;
    }
    assert_eq!((stats(&bench).await.due, stats(&bench).await.later), (0, 0), "nobody has counted");
    assert_eq!(
        sweep(&bench, later()).await,
        std::slice::from_ref(&due),
        "though no claim has met it"
    );
    assert_eq!((stats(&bench).await.due, stats(&bench).await.later), (2, 1));
    bench.claimed(&due).await;
    assert_eq!((stats(&bench).await.due, stats(&bench).await.later), (1, 1));
    Ok(())
}

async fn an_entry_with_the_sort_key_of_an_earlier_version_is_not_behind_newer_ones() -> Outcome {
    let bench = Bench::new().await?;
    let project = bench.project().await;
    let old = queued(&bench, new_task(&project)).await;
    let mut moved = entry(&bench, &old).await;
    let (pk, sk) = (moved["pk"].clone(), moved["sk"].clone());
    let place = format!("Q#1#4#{}", old.id);
    moved.insert("sk".to_owned(), text(place.clone()));
    put_all(&bench.client, vec![moved]).await;
    let delete = bench.client.delete_item().table_name(TABLE).key("pk", pk.clone()).key("sk", sk);
    delete.send().await.expect("it goes");
    let task = bench.client.update_item().table_name(TABLE).key("pk", pk);
    let task =
        task.key("sk", text(format!("T#{}", old.id))).update_expression("SET place = :value");
    let task = task.expression_attribute_values(":value", text(place));
    task.send().await.expect("it is there");
    let second = Duration::from_secs(1);
    let newer = Task { available_at: NOW.plus(second), ..new_task(&project) };
    bench.store.enqueue(&newer, &Actor::maintenance(), NOW.plus(second)).await.expect("queued");
    let first = entry(&bench, &newer).await;
    put_all(&bench.client, more_entries(&first, 150)).await;

    let claim = async || {
        let worker_id: rdev_domain::ids::WorkerId = "w1".parse().expect("a worker id");
        let owner = rdev_domain::ids::Owner::new(&worker_id, "first");
        let agents = rdev_domain::spec::AgentName::ALL.to_vec();
        let can = rdev_domain::ports::Capabilities { worker_id, agents };
        match bench.store.claim_next(&project, &owner, &can, later()).await.expect("an answer") {
            Claim::Claimed(claimed) => claimed,
            other => panic!("there is a task to claim, not {other:?}"),
        }
    };
    sweep(&bench, later()).await;
    assert_eq!(claim().await.task.id, old.id, "the oldest one");
    Ok(())
}

async fn numbers_that_are_wrong_are_counted_anew_after_a_day_or_once_a_queue_is_empty() -> Outcome {
    let bench = Bench::new().await?;
    let project = bench.project().await;
    for _ in 0..3 {
        queued(&bench, new_task(&project)).await;
    }
    update(&bench, &project, "SET queued = :value", Some(number(7))).await;
    sweep(&bench, later()).await;
    assert_eq!(stats(&bench).await.due, 7, "an earlier version has left it so");
    let day = NOW.plus(Duration::from_secs(24 * 60 * 60));
    sweep(&bench, day).await;
    assert_eq!(stats(&bench).await.due, 3);

    update(&bench, &project, "SET queued = :value", Some(number(7))).await;
    let filter = rdev_domain::ports::TaskFilter::default();
    let page = rdev_domain::page::Page { limit: 10, before: None };
    for record in bench.store.tasks(&filter, &page).await.expect("tasks").items {
        let cancel = rdev_domain::step::Event::Cancel;
        let none = rdev_domain::ports::Record::default();
        let by = Actor::maintenance();
        bench.store.advance(record.task.id, cancel, none, &by, NOW).await.expect("it is queued");
    }
    assert_eq!(stats(&bench).await.due, 4);
    sweep(&bench, day).await;
    assert_eq!(stats(&bench).await, WorkStats::default());

    queued(&bench, new_task(&project)).await;
    update(&bench, &project, "SET queued = :value", Some(number(7))).await;
    bench.claimed(&project).await;
    assert_eq!(stats(&bench).await.due, 0, "a claim of all that is due knows it too");
    Ok(())
}

async fn twenty_builds_that_are_queued_at_once_meet_and_are_all_accepted() -> Outcome {
    let bench = Bench::new().await?;
    let project = bench.project().await;
    bench.proxy.refuse_writes_that_meet();
    bench.called();
    let tasks: Vec<Task> = (0..20).map(|_| new_task(&project)).collect();
    let by = Actor::maintenance();
    let enqueue = |task: &Task| {
        let (store, by, task) = (&bench.store, &by, task.clone());
        async move { store.enqueue(&task, by, NOW).await }
    };
    for enqueued in futures_util::future::join_all(tasks.iter().map(enqueue)).await {
        enqueued.expect("a queued task");
    }
    let seen = bench.proxy.seen();
    let refused = seen.iter().filter(|seen| seen.status == Some(400)).count();
    assert!(refused > 0, "they have met");
    assert!(refused < 20 * 9, "{refused} calls were refused");
    assert_eq!(stats(&bench).await.due, 20);
    Ok(())
}
