//! Build events and diffs ride on the writes of a task's holder.

use rdev_domain::event::{BuildEvent, EventKind, seq};
use rdev_domain::failure::FailureClass;
use rdev_domain::ports::Record;
use rdev_domain::task::TaskState;
use serde_json::json;

use super::cases;
use super::world::{ClaimedTask, HOUR, Runner, World};

cases! {
    events_ride_on_renewals_and_on_the_end;
    events_are_read_in_order_after_a_seq_and_up_to_a_limit;
    events_sent_again_are_there_once;
    events_of_a_lease_past_its_end_are_kept;
    events_of_several_claims_follow_each_other;
    many_events_at_once_are_kept;
    the_page_tells_the_task_s_state;
    a_diff_is_kept_and_replaced;
    a_large_diff_is_kept;
}

async fn events_ride_on_renewals_and_on_the_end(w: World) {
    let held = w.running().await;
    assert_eq!(events(&w, &held, 0, 100).await, []);
    let full = BuildEvent {
        seq: seq(held.holder.fence, 0),
        at: w.now(),
        kind: EventKind::AgentToolUse,
        data: json!({ "tool": "edit", "id": "ü", "input": { "lines": [1, 2.5, null, "\u{0}\n"] } }),
    };
    let mut sent = vec![full, held.event(1, w.now())];
    w.renew_with(&held, &sent, None).await.expect("a holder may renew");
    assert_eq!(events(&w, &held, 0, 100).await, sent);

    let more = [held.event(2, w.now())];
    let record = Record { events: more.to_vec(), ..Record::default() };
    w.advance(held.id, held.prepare(w.now()), record, &held.by).await.expect("a holder prepares");
    let last = [held.event(3, w.now())];
    let record = Record { events: last.to_vec(), ..Record::default() };
    w.advance(held.id, held.complete(), record, &held.by).await.expect("a holder completes");
    sent.extend(more);
    sent.extend(last);
    assert_eq!(events(&w, &held, 0, 100).await, sent);
}

async fn events_are_read_in_order_after_a_seq_and_up_to_a_limit(w: World) {
    let held = w.running().await;
    let sent: Vec<_> = (0..10).map(|n| held.event(n, w.now())).collect();
    for chunk in sent.chunks(4) {
        w.renew_with(&held, chunk, None).await.expect("a holder may renew");
    }
    for after in 0..=10_usize {
        for limit in [1, 3, 10] {
            let seq = if after == 0 { 0 } else { sent[after - 1].seq };
            let end = (after + limit).min(10);
            let read = events(&w, &held, seq, u32::try_from(limit).expect("a small number")).await;
            assert_eq!(read, sent[after..end], "{limit} after {after}");
        }
    }
    assert_eq!(events(&w, &held, u64::from(u32::MAX), 10).await, []);
}

async fn events_sent_again_are_there_once(w: World) {
    let held = w.running().await;
    let sent: Vec<_> = (0..5).map(|n| held.event(n, w.now())).collect();
    w.renew_with(&held, &sent[..3], None).await.expect("a holder may renew");
    w.renew_with(&held, &sent[..3], None).await.expect("the answer was lost: the same again");
    w.renew_with(&held, &sent, None).await.expect("the same again, and more");
    assert_eq!(events(&w, &held, 0, 100).await, sent);
}

async fn events_of_a_lease_past_its_end_are_kept(w: World) {
    let held = w.running().await;
    w.pass(HOUR);
    let sent = [held.event(0, w.now())];
    w.renew_with(&held, &sent, None).await.expect("it is still held");
    assert_eq!(events(&w, &held, 0, 100).await, sent);
}

async fn events_of_several_claims_follow_each_other(w: World) {
    let project = w.project().await;
    w.enqueue(&project).await;
    let mut sent = Vec::new();
    let mut last = None;
    for round in 1..=3 {
        let held = w.claim_as(&project, &Runner::named(&format!("w{round}"))).await;
        let chunk = [held.event(0, w.now()), held.event(1, w.now())];
        w.renew_with(&held, &chunk, None).await.expect("a holder may renew");
        sent.extend(chunk);
        if round < 3 {
            let release = [held.event(2, w.now())];
            let record = Record { events: release.to_vec(), ..Record::default() };
            let after = w.advance(held.id, held.release(), record, &held.by).await;
            after.expect("a holder may release");
            sent.extend(release);
        }
        last = Some(held);
    }
    let held = last.expect("there were three");
    assert_eq!(events(&w, &held, 0, 100).await, sent);
    assert!(sent.is_sorted_by_key(|event| event.seq));
}

async fn many_events_at_once_are_kept(w: World) {
    let held = w.running().await;
    let text = "x".repeat(400);
    let sent: Vec<_> = (0..2000)
        .map(|n| BuildEvent { data: json!({ "text": text, "n": n }), ..held.event(n, w.now()) })
        .collect();
    w.renew_with(&held, &sent, None).await.expect("a holder may renew");
    let mut read = Vec::new();
    while read.len() < sent.len() {
        let after = read.last().map_or(0, |event: &BuildEvent| event.seq);
        let page = events(&w, &held, after, 300).await;
        assert!(!page.is_empty(), "{} of 2,000 can be read", read.len());
        read.extend(page);
    }
    assert_eq!(read, sent);
}

async fn the_page_tells_the_task_s_state(w: World) {
    let held = w.running().await;
    let state = |page: rdev_domain::ports::EventPage| page.state;
    let page = w.store.events(held.id, 0, 10).await.expect("the task's events");
    assert_eq!(state(page), TaskState::Running);
    w.fail(&held, FailureClass::Invalid).await.expect("a holder may fail");
    let page = w.store.events(held.id, 0, 10).await.expect("the task's events");
    assert_eq!((page.events.len(), state(page)), (0, TaskState::Failed));
}

async fn a_diff_is_kept_and_replaced(w: World) {
    let held = w.running().await;
    assert_eq!(w.store.diff(held.id).await.expect("the task is there"), None);
    let record =
        Record {
            events: Vec::new(), diff: Some("--- a\n+++ ü\n".to_owned()), ..Record::default()
        };
    w.advance(held.id, held.prepare(w.now()), record, &held.by).await.expect("a holder prepares");
    assert_eq!(diff(&w, &held).await, "--- a\n+++ ü\n");
    w.renew(&held).await.expect("a holder may renew");
    let record = Record {
        events: Vec::new(),
        diff: Some("after the rebase".to_owned()),
        ..Record::default()
    };
    w.advance(held.id, held.complete(), record, &held.by).await.expect("a holder completes");
    assert_eq!(diff(&w, &held).await, "after the rebase");

    let held = w.running().await;
    let record = Record { events: Vec::new(), diff: Some("kept".to_owned()), ..Record::default() };
    w.advance(held.id, held.prepare(w.now()), record, &held.by).await.expect("a holder prepares");
    w.complete(&held).await.expect("a holder completes");
    assert_eq!(diff(&w, &held).await, "kept", "a write without a diff keeps the last one");
}

async fn a_large_diff_is_kept(w: World) {
    let held = w.running().await;
    let large = "+ a line of a large diff, ü\n".repeat(40_000);
    let record = Record { events: Vec::new(), diff: Some(large.clone()), ..Record::default() };
    w.advance(held.id, held.finish(), record, &held.by).await.expect("a holder finishes");
    assert!(diff(&w, &held).await == large, "{} bytes", large.len());
}

async fn events(w: &World, held: &ClaimedTask, after: u64, limit: u32) -> Vec<BuildEvent> {
    w.store.events(held.id, after, limit).await.expect("the task's events").events
}

async fn diff(w: &World, held: &ClaimedTask) -> String {
    w.store.diff(held.id).await.expect("the task is there").expect("it has a diff")
}
