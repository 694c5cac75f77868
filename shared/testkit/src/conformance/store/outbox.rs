//! Steps 1 and 11: whatever queues a task or frees a slot leaves an outbox entry that the sweep
//! sends.

use std::time::Duration;

use rdev_domain::failure::FailureClass;
use rdev_domain::ports::{Advanced, PortResult};
use rdev_domain::spec::AgentName;
use rdev_domain::task::{Task, TaskState};
use rdev_domain::wake_up::OutboxEntry;

use super::cases;
use super::world::{ClaimedTask, MINUTE, SECOND, World, key_actor, race_two};

cases! {
    an_enqueue_writes_an_outbox_entry_even_when_the_queue_is_not_empty;
    every_end_of_a_lease_writes_an_outbox_entry;
    a_slot_freed_while_a_task_is_enqueued_wakes_a_runner;
    a_raised_limit_writes_an_outbox_entry_for_each_slot;
    a_raised_limit_wakes_each_agent_that_is_due;
    a_lowered_limit_writes_no_outbox_entry;
    an_outbox_entry_has_the_agent_of_its_task;
    an_outbox_entry_is_sent_half_a_minute_after_its_time_until_it_is_deleted;
    deleting_an_outbox_entry_deletes_only_it;
    the_outbox_entry_of_a_parked_task_waits_for_its_time;
    a_thousand_outbox_entries_are_swept_in_pages;
    a_raised_limit_writes_at_most_a_hundred_outbox_entries;
}

async fn an_enqueue_writes_an_outbox_entry_even_when_the_queue_is_not_empty(w: World) {
    let project = w.project().await;
    for _ in 0..3 {
        let task = w.new_task(&project);
        let enqueued = w.store.enqueue(&task, &key_actor(), w.now()).await.expect("it is accepted");
        assert_eq!(enqueued.outbox.len(), 1);
        w.woke("an enqueue", &enqueued.outbox, &project).await;
    }
}

async fn every_end_of_a_lease_writes_an_outbox_entry(w: World) {
    let names = w.running().await.writes_while_running(w.now()).len();
    for number in 0..names {
        let held = w.running().await;
        let (name, event) = held.writes_while_running(w.now()).swap_remove(number);
        ended_with_a_mark(&w, name, &held, w.write(&held, event).await).await;
    }
    let names = w.pushing().await.writes_while_pushing(w.now()).len();
    for number in 0..names {
        let held = w.pushing().await;
        let (name, event) = held.writes_while_pushing(w.now()).swap_remove(number);
        ended_with_a_mark(&w, name, &held, w.write(&held, event).await).await;
    }
    for number in 0..3 {
        let held = match number {
            0 => w.running().await,
            1 => w.pushing().await,
            _ => w.running_for_the_last_time().await,
        };
        w.let_leases_expire();
        ended_with_a_mark(&w, "recover", &held, w.recover(held.id).await).await;
    }
}

async fn ended_with_a_mark(
    w: &World,
    name: &str,
    held: &ClaimedTask,
    answer: PortResult<Advanced>,
) {
    let after = answer.expect("a holder may write");
    if after.lease.is_some() {
        assert_eq!(after.task.state, TaskState::Pushing, "{name}");
        return;
    }
    let later = after.task.available_at;
    if !after.task.state.is_terminal() && later > w.now() {
        assert!(
            after.outbox.iter().any(|entry| entry.send_at == later),
            "{name}: {:?}",
            after.outbox
        );
    }
    w.woke(name, &after.outbox, held.project()).await;
}

async fn a_slot_freed_while_a_task_is_enqueued_wakes_a_runner(w: World) {
    for round in 0..10 {
        let held = w.running().await;
        let task = w.new_task(held.project());
        let (one, other) = (w.clone(), w.clone());
        let (done, new) = (held.clone(), task.clone());
        let (finished, enqueued) = race_two(async move { one.finish(&done).await }, async move {
            other.store.enqueue(&new, &key_actor(), other.now()).await
        })
        .await;
        let freed = finished.expect("a holder may finish").outbox;
        let queued = enqueued.expect("a ready project accepts a task").outbox;
        assert!(!freed.is_empty() && !queued.is_empty(), "round {round}: {freed:?}, {queued:?}");
        // Whichever of the two wake-ups comes last finds both the task and the slot.
        assert_eq!(w.claim(held.project()).await.id, task.id, "round {round}");
    }
}

async fn a_raised_limit_writes_an_outbox_entry_for_each_slot(w: World) {
    let project = w.project().await;
    for _ in 0..4 {
        w.enqueue(&project).await;
    }
    w.claim(&project).await;
    w.send_outbox().await;
    let outbox = w.set_limit(&project, 4).await;
    assert_eq!(outbox.len(), 3, "one for each slot that it adds");
    w.woke("a raised limit", &outbox, &project).await;
    assert_eq!(w.set_limit(&project, 100).await.len(), 96);
}

async fn a_raised_limit_wakes_each_agent_that_is_due(w: World) {
    let project = w.project().await;
    for agent in [AgentName::Codex, AgentName::Codex, AgentName::Command] {
        w.enqueue_task(w.build_by(&project, agent)).await;
    }
    w.send_outbox().await;
    let outbox = w.set_limit(&project, 3).await;
    let mut agents: Vec<_> = outbox.iter().map(|entry| entry.agent).collect();
    agents.sort();
    let (codex, command) = (Some(AgentName::Codex), Some(AgentName::Command));
    assert_eq!(agents, [codex, codex, command, command], "any slot may be for any of them");
    w.woke("a raised limit", &outbox, &project).await;
    let idle = w.project().await;
    assert!(w.set_limit(&idle, 3).await.iter().all(|entry| entry.agent.is_none()));
}

async fn an_outbox_entry_has_the_agent_of_its_task(w: World) {
    let project = w.project().await;
    let tasks = [
        w.build_by(&project, AgentName::Codex),
        w.build_by(&project, AgentName::ClaudeCode),
        w.new_check(&project),
    ];
    for task in tasks {
        let agent = task.work.agent();
        let enqueued = w.store.enqueue(&task, &key_actor(), w.now()).await.expect("accepted");
        let held = w.claim(&project).await;
        // Back to its queue, with a wake-up for now and one for later; and then ended.
        let parked = w.fail(&held, FailureClass::Infra).await.expect("a holder may fail");
        assert_eq!(parked.outbox.len(), 2);
        w.pass(parked.task.available_at.since(w.now()) + SECOND);
        let held = w.claim(&project).await;
        assert_eq!(held.id, task.id);
        let ended = w.fail(&held, FailureClass::Auth).await.expect("a holder may fail");
        assert_eq!(ended.task.state, TaskState::Failed);
        let mut written = [enqueued.outbox, parked.outbox, ended.outbox].concat();
        assert!(written.iter().all(|entry| entry.agent == agent), "{agent:?}: {written:?}");
        w.pass(31 * SECOND);
        let mut swept = swept_outbox(&w).await;
        swept.sort_by_key(|entry| entry.id);
        written.sort_by_key(|entry| entry.id);
        assert_eq!(swept, written);
        w.store.delete_outbox(&written).await.expect("outbox entries can be deleted");
    }
}

async fn a_lowered_limit_writes_no_outbox_entry(w: World) {
    let project = w.project_with_limit(5).await;
    assert_eq!(w.set_limit(&project, 2).await, vec![]);
    assert_eq!(w.set_limit(&project, 2).await, vec![]);
}

async fn an_outbox_entry_is_sent_half_a_minute_after_its_time_until_it_is_deleted(w: World) {
    let project = w.project().await;
    let entry = enqueued_entry(&w, w.new_task(&project)).await;
    assert_eq!((&entry.project_id, entry.send_at), (&project, w.now()));
    w.pass(29 * SECOND);
    assert_eq!(swept_outbox(&w).await, vec![], "its sender may still be at it");
    w.pass(2 * SECOND);
    assert_eq!(swept_outbox(&w).await, vec![entry.clone()]);
    w.pass(MINUTE);
    assert_eq!(swept_outbox(&w).await, vec![entry.clone()], "the sender died: once more");
    w.store
        .delete_outbox(std::slice::from_ref(&entry))
        .await
        .expect("outbox entries can be deleted");
    assert_eq!(swept_outbox(&w).await, vec![]);
    w.store.delete_outbox(&[entry]).await.expect("an unknown entry is nothing");
}

async fn deleting_an_outbox_entry_deletes_only_it(w: World) {
    let (mine, other) = (w.project().await, w.project().await);
    let first = enqueued_entry(&w, w.new_task(&mine)).await;
    let second = enqueued_entry(&w, w.new_task(&mine)).await;
    let third = enqueued_entry(&w, w.new_task(&other)).await;
    w.store.delete_outbox(&[first]).await.expect("outbox entries can be deleted");
    w.pass(31 * SECOND);
    let mut left = swept_outbox(&w).await;
    left.sort_by_key(|entry| entry.id);
    let mut expected = vec![second, third];
    expected.sort_by_key(|entry| entry.id);
    assert_eq!(left, expected);
}

async fn the_outbox_entry_of_a_parked_task_waits_for_its_time(w: World) {
    let held = w.running().await;
    let after = w.fail(&held, FailureClass::Infra).await.expect("a holder may fail");
    let due = after.task.available_at;
    let at_once: Vec<_> = after.outbox.into_iter().filter(|entry| entry.send_at < due).collect();
    w.store.delete_outbox(&at_once).await.expect("outbox entries can be deleted");
    w.pass(due.since(w.now()) + 29 * SECOND);
    let early: Vec<_> = swept_outbox(&w).await.into_iter().filter(|m| m.send_at == due).collect();
    assert_eq!(early, vec![]);
    w.pass(2 * SECOND);
    assert!(swept_outbox(&w).await.iter().any(|entry| entry.send_at == due));
}

async fn a_thousand_outbox_entries_are_swept_in_pages(w: World) {
    let project = w.project_with_limit(1).await;
    let mut written = Vec::new();
    for _ in 0..11 {
        w.set_limit(&project, 1).await;
        written.extend(w.set_limit(&project, 100).await);
    }
    assert_eq!(written.len(), 11 * 99);
    w.pass(31 * SECOND);
    let mut sent = w.sweep().await.outbox;
    sent.sort_by_key(|entry| entry.id);
    written.sort_by_key(|entry| entry.id);
    assert_eq!(sent, written, "each once, as each page is sent before the next");
    w.pass(Duration::from_secs(1));
    assert_eq!(w.sweep().await.outbox, vec![]);
}

async fn enqueued_entry(w: &World, task: Task) -> OutboxEntry {
    let enqueued = w.store.enqueue(&task, &key_actor(), w.now()).await.expect("it is accepted");
    assert_eq!(enqueued.outbox.len(), 1);
    enqueued.outbox.into_iter().next().expect("there is one")
}

/// The outbox entries of one page of a sweep. They are not sent.
async fn swept_outbox(w: &World) -> Vec<OutboxEntry> {
    w.store.sweep(w.now()).await.expect("the store sweeps").outbox
}

async fn a_raised_limit_writes_at_most_a_hundred_outbox_entries(w: World) {
    let project = w.project().await;
    assert_eq!(w.set_limit(&project, 101).await.len(), 100);
    assert_eq!(w.set_limit(&project, 1000).await.len(), 100);
}
