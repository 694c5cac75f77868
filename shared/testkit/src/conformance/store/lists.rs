//! Lists: newest first, filtered, in pages, also while others insert.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rdev_domain::failure::FailureClass;
use rdev_domain::ids::TaskId;
use rdev_domain::page::Page;
use rdev_domain::ports::TaskFilter;
use rdev_domain::task::TaskState;
use ulid::Ulid;

use super::cases;
use super::world::{MINUTE, SECOND, World};

cases! {
    tasks_are_listed_newest_first_in_pages;
    tasks_are_filtered_by_project_state_and_type;
    pages_have_no_gap_and_no_double_while_others_insert;
    pages_hold_under_a_concurrent_stream_of_inserts;
    projects_are_listed_newest_first_in_pages;
    a_held_task_is_listed_with_its_lease;
    the_stats_count_what_there_is_to_do;
    the_stats_count_what_is_not_due_by_the_clock_that_asks_as_later;
    a_store_answers_a_ping;
}

async fn tasks_are_listed_newest_first_in_pages(w: World) {
    let (mine, other) = (w.project().await, w.project().await);
    let mut expected = Vec::new();
    for number in 0..12 {
        w.pass(SECOND);
        let project = if number % 3 == 0 { &other } else { &mine };
        expected.insert(0, w.enqueue(project).await.id);
    }
    for limit in [1, 5, 6, 11, 12, 13, 100] {
        assert_eq!(ids(&w, &TaskFilter::default(), limit).await, expected, "in pages of {limit}");
    }
    assert_eq!(ids_before(&w, Some(expected[11].0)).await, []);
    assert_eq!(ids_before(&w, Some(expected[9].0)).await, expected[10..]);
}

async fn tasks_are_filtered_by_project_state_and_type(w: World) {
    let (mine, other) = (w.project().await, w.project().await);
    let check = w.enqueue_task(w.new_check(&mine)).await.id;
    let held = w.claim(&mine).await;
    w.finish(&held).await.expect("a holder may finish");
    w.enqueue(&other).await;
    let failed = w.claim(&other).await;
    w.fail(&failed, FailureClass::Invalid).await.expect("a holder may fail");
    w.enqueue(&mine).await;
    let running = w.claim(&mine).await.id;
    let queued = w.enqueue(&mine).await.id;
    let elsewhere = w.enqueue(&other).await.id;

    let filter = TaskFilter::default;
    let project = Some(mine.clone());
    let of = |state| TaskFilter { state: Some(state), ..filter() };
    for (filter, expected) in [
        (filter(), vec![elsewhere, queued, running, failed.id, check]),
        (TaskFilter { project: project.clone(), ..filter() }, vec![queued, running, check]),
        (
            TaskFilter { builds_only: true, project: project.clone(), ..filter() },
            vec![queued, running],
        ),
        (of(TaskState::Queued), vec![elsewhere, queued]),
        (of(TaskState::Running), vec![running]),
        (of(TaskState::Pushing), vec![]),
        (of(TaskState::Succeeded), vec![check]),
        (of(TaskState::Failed), vec![failed.id]),
        (of(TaskState::Cancelled), vec![]),
        (TaskFilter { builds_only: true, ..of(TaskState::Succeeded) }, vec![]),
        (TaskFilter { project, ..of(TaskState::Queued) }, vec![queued]),
        (TaskFilter { project: Some("nowhere".parse().expect("a slug")), ..filter() }, vec![]),
    ] {
        for limit in [1, 2, 100] {
            assert_eq!(ids(&w, &filter, limit).await, expected, "{filter:?}, pages of {limit}");
        }
    }
}

async fn pages_have_no_gap_and_no_double_while_others_insert(w: World) {
    let project = w.project().await;
    let mut before = BTreeSet::new();
    for _ in 0..20 {
        w.pass(SECOND);
        before.insert(w.enqueue(&project).await.id);
    }
    let filter = TaskFilter { project: Some(project.clone()), ..TaskFilter::default() };
    let mut page = Page { limit: 3, before: None };
    let mut seen = Vec::new();
    loop {
        let listed = w.store.tasks(&filter, &page).await.expect("a page of tasks");
        seen.extend(listed.items.iter().map(|record| record.task.id));
        w.pass(SECOND);
        w.enqueue(&project).await;
        w.enqueue(&project).await;
        match listed.next {
            Some(next) => page.before = Some(next),
            None => break,
        }
    }
    assert!(seen.is_sorted_by(|a, b| a > b), "newest first, none twice");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), before);
}

async fn pages_hold_under_a_concurrent_stream_of_inserts(w: World) {
    let project = w.project().await;
    let mut before = BTreeSet::new();
    for _ in 0..25 {
        before.insert(w.enqueue(&project).await.id);
    }
    // At most thirty more while a list is read: a store that writes faster than it lists would
    // never come to an end.
    let allowed = Arc::new(AtomicUsize::new(0));
    let inserter = tokio::spawn({
        let (w, project, allowed) = (w.clone(), project.clone(), Arc::clone(&allowed));
        async move {
            let mut inserted = 0;
            while inserted < 300 {
                if inserted < allowed.load(Ordering::SeqCst) {
                    w.enqueue(&project).await;
                    inserted += 1;
                }
                tokio::task::yield_now().await;
            }
        }
    });
    for pass in 1..=10 {
        allowed.store(30 * pass, Ordering::SeqCst);
        let seen = ids(&w, &TaskFilter::default(), 4).await;
        assert!(seen.is_sorted_by(|a, b| a > b), "newest first, none twice");
        assert!(before.is_subset(&seen.into_iter().collect()), "none of the first is left out");
    }
    inserter.await.expect("the inserter does not panic");
}

async fn projects_are_listed_newest_first_in_pages(w: World) {
    let mut expected = Vec::new();
    for _ in 0..7 {
        w.pass(SECOND);
        let project = w.new_project();
        w.create(&project).await.expect("a new name");
        expected.insert(0, project);
    }
    for limit in [1, 3, 7, 100] {
        let mut page = Page { limit, before: None };
        let mut seen = Vec::new();
        loop {
            let listed = w.store.projects(&page).await.expect("a page of projects");
            assert!(listed.items.len() <= limit as usize);
            seen.extend(listed.items);
            match listed.next {
                Some(next) => page.before = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, expected, "in pages of {limit}");
    }
}

async fn a_held_task_is_listed_with_its_lease(w: World) {
    let held = w.running().await;
    let queued = w.enqueue(held.project()).await;
    w.pass(SECOND);
    w.renew(&held).await.expect("a holder may renew");
    let tasks = w.all_tasks(held.project()).await;
    assert_eq!(tasks, [w.read(queued.id).await, w.read(held.id).await]);
    assert_eq!(tasks[1].lease.as_ref().map(|lease| lease.heartbeat), Some(1));
}

async fn the_stats_count_what_there_is_to_do(w: World) {
    let stats = w.store.work_stats(w.now()).await.expect("the stats");
    assert_eq!(stats, rdev_domain::ports::WorkStats::default());

    let project = w.project_with_limit(9).await;
    let held = w.hold(&project, 5).await;
    w.prepare(&held[0]).await.expect("a holder may prepare");
    w.prepare(&held[1]).await.expect("a holder may prepare");
    w.fail(&held[2], FailureClass::Quota).await.expect("a holder may fail");
    w.enqueue(&project).await;
    w.pass(MINUTE);
    w.release(&held[1]).await.expect("a holder may release");
    w.enqueue(&w.project().await).await;
    w.pass(SECOND);
    let stats = w.store.work_stats(w.now()).await.expect("the stats");
    assert_eq!((stats.due, stats.later), (3, 1), "two builds and an unowned push; a parked one");
    assert_eq!((stats.running, stats.pushing, stats.dead_letters), (2, 1, 0));
    assert_eq!(stats.oldest_due_ms, Some(61_000));

    w.pass(15 * MINUTE);
    let stats = w.store.work_stats(w.now()).await.expect("the stats");
    assert_eq!((stats.due, stats.later), (4, 0), "the parked one is due");
}

async fn the_stats_count_what_is_not_due_by_the_clock_that_asks_as_later(w: World) {
    let project = w.project().await;
    w.enqueue(&project).await;
    let slow = w.with_clock(w.now().minus(MINUTE));
    slow.nothing_to_claim(&project).await;
    let stats = slow.store.work_stats(slow.now()).await.expect("the stats");
    assert_eq!((stats.due, stats.later, stats.oldest_due_ms), (0, 1, None));
    let stats = w.store.work_stats(w.now()).await.expect("the stats");
    assert_eq!((stats.due, stats.later, stats.oldest_due_ms), (1, 0, Some(0)));
}

async fn a_store_answers_a_ping(w: World) {
    w.store.ping().await.expect("it is there");
}

/// Every task of a filter, read in pages of `limit`.
async fn ids(w: &World, filter: &TaskFilter, limit: u32) -> Vec<TaskId> {
    let mut page = Page { limit, before: None };
    let mut ids = Vec::new();
    loop {
        let listed = w.store.tasks(filter, &page).await.expect("a page of tasks");
        assert!(listed.items.len() <= limit as usize);
        ids.extend(listed.items.iter().map(|record| record.task.id));
        match listed.next {
            Some(next) => {
                assert_eq!(listed.items.len(), limit as usize, "a page with a next one is full");
                page.before = Some(next);
            }
            None => return ids,
        }
    }
}

async fn ids_before(w: &World, before: Option<Ulid>) -> Vec<TaskId> {
    let page = Page { limit: 100, before };
    let listed = w.store.tasks(&TaskFilter::default(), &page).await.expect("a page of tasks");
    listed.items.iter().map(|record| record.task.id).collect()
}
