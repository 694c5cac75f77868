//! Pages of pipelines, while others arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rdev_domain::page::Page;
use rdev_domain::pipeline::{CiId, PipelineFilter, PipelineSummary};
use rdev_domain::ports::Ci;
use rdev_platform::woodpecker::Woodpecker;
use rdev_testkit::servers::faults::Server;
use ulid::Ulid;

use super::{active, adapter, all, first, seed};

rdev_testkit::trials! {
    async pages_neither_repeat_nor_skip_while_pipelines_arrive;
    async a_long_page_is_whole_while_pipelines_arrive;
    async more_pipelines_in_one_second_than_a_page_of_the_server_holds;
    async a_server_whose_clock_was_set_back_still_has_each_pipeline_once;
    async a_filter_leaves_what_it_names_and_unknown_statuses_are_passed_on;
    async any_place_is_one_to_go_on_from;
}

/// All pages of a list, with something done after each.
async fn walk(
    ci: &Woodpecker,
    id: CiId,
    filter: &PipelineFilter,
    limit: u32,
    mut after: impl FnMut(),
) -> Vec<PipelineSummary> {
    let mut page = first(limit);
    let mut read: Vec<PipelineSummary> = Vec::new();
    loop {
        let listed = ci.pipelines(id, filter, &page).await.expect("a page");
        assert!(listed.items.len() <= limit as usize);
        let full = listed.items.len() == limit as usize;
        assert!(full || listed.next.is_none(), "a short page is the last");
        read.extend(listed.items);
        after();
        let Some(next) = listed.next else { return read };
        assert_eq!(read.last().map(PipelineSummary::place), Some(next));
        page.before = Some(next);
    }
}

fn numbers(read: &[PipelineSummary]) -> Vec<u64> {
    read.iter().map(|one| one.number).collect()
}

fn down_from(highest: u64) -> Vec<u64> {
    (1..=highest).rev().collect()
}

async fn pages_neither_repeat_nor_skip_while_pipelines_arrive() {
    let (server, ci, id) = active().await;
    // Some of them in the same second.
    for at in 0..130 {
        server.add_pipeline(id.0, seed("success", 1_700_000_000 + at / 3));
    }
    let mut at = 1_700_001_000;
    for limit in [1, 7, 49, 50, 51, 100] {
        let before = server.repositories()[0].pipelines as u64;
        let read = walk(&ci, id, &all(), limit, || {
            at += 1;
            server.add_pipeline(id.0, seed("running", at));
        })
        .await;
        assert_eq!(numbers(&read), down_from(before), "limit {limit}");
    }
}

async fn a_long_page_is_whole_while_pipelines_arrive() {
    let (server, _, id) = active().await;
    for at in 0..200 {
        server.add_pipeline(id.0, seed("success", 1_700_000_000 + at));
    }
    // Some arrive with each request that the server is sent.
    let between = Arc::new(Server::before(&server.url()));
    let ci = adapter(&between.url());
    let done = Arc::new(AtomicBool::new(false));
    let adding = std::thread::spawn({
        let (between, done) = (Arc::clone(&between), Arc::clone(&done));
        move || {
            let (mut at, mut seen) = (1_700_000_200, 0);
            while !done.load(Ordering::Relaxed) {
                let requests = between.requests().len();
                for _ in seen..requests {
                    at += 1;
                    server.add_pipeline(id.0, seed("pending", at));
                    server.add_pipeline(id.0, seed("pending", at));
                }
                seen = requests;
                std::thread::yield_now();
            }
        }
    });
    let mut pages = Vec::new();
    for _ in 0..20 {
        pages.push(ci.pipelines(id, &all(), &first(100)).await.expect("a page").items);
    }
    done.store(true, Ordering::Relaxed);
    adding.join().expect("pipelines were added");
    assert!(pages[0][0].number < pages[19][0].number, "none arrived");
    for items in pages {
        let highest = items[0].number;
        let expected: Vec<u64> = (highest - 99..=highest).rev().collect();
        assert_eq!(numbers(&items), expected);
    }
}

async fn more_pipelines_in_one_second_than_a_page_of_the_server_holds() {
    let (server, ci, id) = active().await;
    for _ in 0..130 {
        server.add_pipeline(id.0, seed("success", 1_700_000_000));
    }
    let read = walk(&ci, id, &all(), 20, || {}).await;
    assert_eq!(numbers(&read), down_from(130));
}

async fn a_server_whose_clock_was_set_back_still_has_each_pipeline_once() {
    let (server, ci, id) = active().await;
    for at in 0..90 {
        let back = if at >= 80 { 1_000 } else { 0 };
        server.add_pipeline(id.0, seed("success", 1_700_000_000 + at - back));
    }
    for limit in [5, 40, 50] {
        let read = walk(&ci, id, &all(), limit, || {}).await;
        let places: Vec<Ulid> = read.iter().map(PipelineSummary::place).collect();
        assert!(places.is_sorted_by(|a, b| a > b), "limit {limit}");
        assert_eq!(places.len(), 90, "limit {limit}");
        assert_eq!(read[0].number, 80);
    }
}

async fn a_filter_leaves_what_it_names_and_unknown_statuses_are_passed_on() {
    let (server, ci, id) = active().await;
    for at in 0..60 {
        let mut one = seed(if at % 2 == 0 { "success" } else { "on-holiday" }, 1_700_000_000 + at);
        one.branch = if at % 3 == 0 { "next" } else { "main" }.to_owned();
        server.add_pipeline(id.0, one);
    }
    let filter = |branch: Option<&str>, status: Option<&str>| PipelineFilter {
        branch: branch.map(str::to_owned),
        status: status.map(str::to_owned),
    };
    let count = async |filter| walk(&ci, id, &filter, 7, || {}).await.len();
    assert_eq!(count(filter(None, None)).await, 60);
    assert_eq!(count(filter(Some("next"), None)).await, 20);
    assert_eq!(count(filter(None, Some("on-holiday"))).await, 30);
    assert_eq!(count(filter(Some("next"), Some("on-holiday"))).await, 10);
    assert_eq!(count(filter(Some("nex"), None)).await, 0);
    assert_eq!(count(filter(Some("a&status=success"), None)).await, 0);
    let held = walk(&ci, id, &filter(None, Some("on-holiday")), 100, || {}).await;
    assert!(held.iter().all(|one| one.status == "on-holiday"));
}

async fn any_place_is_one_to_go_on_from() {
    let (server, ci, id) = active().await;
    assert!(ci.pipelines(id, &all(), &first(10)).await.expect("none").items.is_empty());
    server.add_pipeline(id.0, seed("success", 1_700_000_000));
    let below = async |place: Ulid| {
        let page = Page { limit: 10, before: Some(place) };
        ci.pipelines(id, &all(), &page).await.expect("a page").items.len()
    };
    assert_eq!(below(Ulid::from_parts(1_700_000_000_000, 1)).await, 0);
    assert_eq!(below(Ulid::from_parts(1_700_000_000_000, 2)).await, 1);
    assert_eq!(below(Ulid::from_parts(u64::MAX >> 16, u128::MAX >> 48)).await, 1);
    assert_eq!(below(Ulid::nil()).await, 0);
}
