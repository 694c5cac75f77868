//! Step 3: one claimer gets a task, and a project never has more than its slots.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rdev_domain::failure::FailureClass;
use rdev_domain::ids::Fence;
use rdev_domain::lease::{CLOCK_SLACK, LEASE, Lease};
use rdev_domain::ports::{Claim, Record};
use rdev_domain::step::{Event, Slots};
use rdev_domain::task::TaskState;

use super::cases;
use super::world::{ClaimedTask, MINUTE, Runner, World, race};

cases! {
    a_claim_gives_the_task_its_lease_and_its_project;
    of_fifty_claimers_of_one_task_one_wins;
    fifty_claimers_never_hold_more_than_three_of_ten_tasks;
    claimers_of_many_projects_do_not_disturb_each_other;
    a_wake_up_too_many_finds_nothing;
    a_wake_up_of_an_unknown_project_finds_nothing;
    a_used_slot_keeps_the_next_task_waiting;
    a_project_with_a_used_slot_and_nothing_due_has_nothing_to_claim;
    a_raised_limit_lets_more_tasks_run;
    a_limit_below_what_runs_lets_nothing_new_run;
    a_claim_recovers_an_expired_lease_and_continues;
    a_claim_that_finds_nothing_due_recovers_an_expired_lease;
    a_claim_does_not_touch_a_lease_until_the_clocks_agree_that_it_has_expired;
    a_claim_recovers_a_lost_push_before_anything_else;
    a_claim_ends_a_dead_task_that_was_to_be_cancelled;
    a_claim_fails_a_task_whose_last_attempt_died;
    of_twenty_claimers_of_a_dead_task_one_wins;
    a_claim_does_not_go_through_advance;
    a_task_that_cannot_be_read_fails_as_poison_and_blocks_nothing;
    a_held_task_that_cannot_be_read_blocks_nothing_for_ever;
}

async fn a_claim_gives_the_task_its_lease_and_its_project(w: World) {
    let project = w.project().await;
    let task = w.enqueue(&project).await;
    w.pass(MINUTE);
    let runner = Runner::named("runner-7");
    let held = w.claim_as(&project, &runner).await;
    let claimed = held.claimed.clone();

    assert_eq!(claimed.task.id, task.id);
    assert_eq!(claimed.task.state, TaskState::Running);
    assert_eq!((claimed.task.fence, claimed.task.attempt), (Fence(1), 1));
    assert_eq!(claimed.task.started_at, Some(w.now()));
    assert_eq!(claimed.task.worker_id, Some(runner.can.worker_id.clone()));
    assert_eq!(claimed.task.attempts.len(), 1);
    assert_eq!(claimed.lease, Lease::taken(Fence(1), runner.owner, w.now()));
    assert_eq!(claimed.lease.until, w.now().plus(LEASE));
    assert_eq!(claimed.project, w.store.project(&project).await.expect("it is there"));
    let record = w.read(task.id).await;
    assert_eq!((record.task, record.lease), (claimed.task, Some(claimed.lease)));
}

async fn of_fifty_claimers_of_one_task_one_wins(w: World) {
    let project = w.project_with_limit(50).await;
    for round in 1..=4 {
        let task = w.enqueue(&project).await;
        let claims = claimed_by(&w, &project, 50).await;
        let winners: Vec<_> = claims.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1, "round {round}");
        let winner = &winners[0];
        let record = w.read(task.id).await;
        assert_eq!((record.task.fence, record.task.attempt), (Fence(1), 1));
        assert_eq!(record.lease.expect("it is held").owner, winner.holder.owner);
        assert_eq!(w.leases(&project).await, round, "one more is held");
    }
}

async fn fifty_claimers_never_hold_more_than_three_of_ten_tasks(w: World) {
    let project = w.project_with_limit(3).await;
    for _ in 0..10 {
        w.enqueue(&project).await;
    }
    let first: Vec<_> = claimed_by(&w, &project, 50).await.into_iter().flatten().collect();
    assert!((1..=3).contains(&first.len()), "{} of 50 hold a slot of 3", first.len());
    assert_eq!(w.leases(&project).await, first.len());
    for held in &first {
        w.finish(held).await.expect("a holder may finish");
    }

    let (holding, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(first.len())));
    race(50, |number| {
        let (w, project) = (w.clone(), project.clone());
        let (holding, done) = (Arc::clone(&holding), Arc::clone(&done));
        async move {
            let runner = Runner::named(&format!("w{number}"));
            while done.load(Ordering::SeqCst) < 10 {
                if let Claim::Claimed(claimed) = w.try_claim(&project, &runner).await {
                    let others = holding.fetch_add(1, Ordering::SeqCst);
                    assert!(others < 3, "{others} others hold a task");
                    tokio::task::yield_now().await;
                    let leases = w.leases(&project).await;
                    assert!(leases <= 3, "{leases} leases");
                    holding.fetch_sub(1, Ordering::SeqCst);
                    w.finish(&ClaimedTask::new(*claimed)).await.expect("a holder may finish");
                    done.fetch_add(1, Ordering::SeqCst);
                } else {
                    tokio::task::yield_now().await;
                }
            }
        }
    })
    .await;
    let tasks = w.all_tasks(&project).await;
    assert_eq!(tasks.len(), 10);
    for record in tasks {
        assert_eq!((record.task.state, record.task.attempt), (TaskState::Succeeded, 1));
        assert_eq!(record.lease, None);
    }
}

async fn claimers_of_many_projects_do_not_disturb_each_other(w: World) {
    let mut projects = Vec::new();
    for _ in 0..10 {
        let project = w.project().await;
        w.enqueue(&project).await;
        w.enqueue(&project).await;
        projects.push(project);
    }
    let claims = race(10, |number| {
        let (w, project) = (w.clone(), projects[number].clone());
        async move { w.try_claim(&project, &Runner::named(&format!("w{number}"))).await }
    })
    .await;
    let mut claimed = Vec::new();
    for claim in claims {
        let Claim::Claimed(one) = claim else { panic!("each has a slot: {claim:?}") };
        claimed.push(one.task.project_id);
    }
    claimed.sort();
    projects.sort();
    assert_eq!(claimed, projects);
    for project in &projects {
        assert_eq!(w.leases(project).await, 1);
    }
}

async fn a_wake_up_too_many_finds_nothing(w: World) {
    let project = w.project_with_limit(2).await;
    w.nothing_to_claim(&project).await;
    w.enqueue(&project).await;
    let held = w.claim(&project).await;
    w.nothing_to_claim(&project).await;
    w.finish(&held).await.expect("a holder may finish");
    w.nothing_to_claim(&project).await;
    w.pass(24 * 60 * MINUTE);
    w.nothing_to_claim(&project).await;
    assert_eq!(w.read(held.id).await.task.fence, Fence(1));
}

async fn a_wake_up_of_an_unknown_project_finds_nothing(w: World) {
    w.nothing_to_claim(&"nowhere".parse().expect("a slug")).await;
}

async fn a_used_slot_keeps_the_next_task_waiting(w: World) {
    let project = w.project().await;
    let (first, second) = (w.enqueue(&project).await, w.enqueue(&project).await);
    let held = w.claim(&project).await;
    assert_eq!(held.id, first.id);
    assert_eq!(w.try_claim(&project, &Runner::named("w2")).await, Claim::SlotsTaken);
    w.prepare(&held).await.expect("a holder may prepare");
    assert_eq!(w.try_claim(&project, &Runner::named("w2")).await, Claim::SlotsTaken);
    w.complete(&held).await.expect("a holder may complete");
    assert_eq!(w.claim(&project).await.id, second.id);
}

async fn a_project_with_a_used_slot_and_nothing_due_has_nothing_to_claim(w: World) {
    let project = w.project().await;
    let parked = w.new_task(&project);
    w.hold(&project, 1).await;
    w.enqueue_task(rdev_domain::task::Task { available_at: w.now().plus(MINUTE), ..parked }).await;
    w.nothing_to_claim(&project).await;
}

async fn a_raised_limit_lets_more_tasks_run(w: World) {
    let project = w.project().await;
    for _ in 0..4 {
        w.enqueue(&project).await;
    }
    w.claim(&project).await;
    assert_eq!(w.try_claim(&project, &Runner::named("w1")).await, Claim::SlotsTaken);
    w.set_limit(&project, 3).await;
    w.claim(&project).await;
    w.claim(&project).await;
    assert_eq!(w.try_claim(&project, &Runner::named("w1")).await, Claim::SlotsTaken);
}

async fn a_limit_below_what_runs_lets_nothing_new_run(w: World) {
    let project = w.project_with_limit(3).await;
    let held = w.hold(&project, 3).await;
    let waiting = w.enqueue(&project).await;
    w.set_limit(&project, 1).await;
    let runner = Runner::named("w1");
    assert_eq!(w.leases(&project).await, 3, "running tasks are not stopped");
    for done in &held[..2] {
        assert_eq!(w.try_claim(&project, &runner).await, Claim::SlotsTaken);
        w.finish(done).await.expect("a holder may finish");
    }
    assert_eq!(w.try_claim(&project, &runner).await, Claim::SlotsTaken);
    w.renew(&held[2]).await.expect("a holder may renew");
    w.finish(&held[2]).await.expect("a holder may finish");
    assert_eq!(w.claim(&project).await.id, waiting.id);
}

async fn a_claim_recovers_an_expired_lease_and_continues(w: World) {
    let project = w.project().await;
    let dead = w.hold(&project, 1).await.remove(0);
    let waiting = w.enqueue_with_priority(&project, 9).await;
    w.let_leases_expire();

    let held = w.claim_as(&project, &Runner::named("w2")).await;
    assert_eq!(held.id, waiting.id, "the freed slot goes to the first that is due");
    w.woke("a recovery on the way", &held.claimed.outbox, &project).await;
    let record = w.read(dead.id).await;
    assert_eq!((record.task.state, record.lease), (TaskState::Queued, None));
    assert_eq!((record.task.fence, record.task.attempt), (Fence(2), 1));
    assert_eq!(w.leases(&project).await, 1, "the slot was freed and used once");

    w.finish(&held).await.expect("a holder may finish");
    let again = w.claim_as(&project, &Runner::named("w3")).await;
    assert_eq!((again.id, again.holder.fence), (dead.id, Fence(3)));
    assert_eq!(again.claimed.task.attempt, 2);
}

async fn a_claim_that_finds_nothing_due_recovers_an_expired_lease(w: World) {
    for limit in [1, 2] {
        let project = w.project_with_limit(limit).await;
        let dead = w.hold(&project, 1).await.remove(0);
        w.let_leases_expire();
        let held = w.claim_as(&project, &Runner::named("w2")).await;
        assert_eq!((held.id, held.holder.fence), (dead.id, Fence(3)), "limit {limit}");
        assert_eq!(w.leases(&project).await, 1);
    }
}

async fn a_claim_does_not_touch_a_lease_until_the_clocks_agree_that_it_has_expired(w: World) {
    let project = w.project().await;
    let held = w.hold(&project, 1).await.remove(0);
    let waiting = w.enqueue_with_priority(&project, 9).await;
    w.pass(LEASE + CLOCK_SLACK);
    assert_eq!(w.try_claim(&project, &Runner::named("w2")).await, Claim::SlotsTaken);
    assert_eq!(w.read(held.id).await.task.fence, Fence(1));
    w.pass(Duration::from_millis(1));
    assert_eq!(w.claim_as(&project, &Runner::named("w2")).await.id, waiting.id);
    assert_eq!(w.read(held.id).await.lease, None);
}

async fn a_claim_recovers_a_lost_push_before_anything_else(w: World) {
    let project = w.project().await;
    let dead = w.hold(&project, 1).await.remove(0);
    w.prepare(&dead).await.expect("a holder may prepare");
    w.enqueue_with_priority(&project, 9).await;
    w.let_leases_expire();
    let held = w.claim_as(&project, &Runner::named("w2")).await;
    assert_eq!((held.id, held.claimed.task.state), (dead.id, TaskState::Pushing));
    assert_eq!((held.claimed.task.attempt, held.claimed.task.push_attempt), (1, 1));
    assert_eq!(held.holder.fence, Fence(3));
}

async fn a_claim_ends_a_dead_task_that_was_to_be_cancelled(w: World) {
    let project = w.project().await;
    let dead = w.hold(&project, 1).await.remove(0);
    let waiting = w.enqueue(&project).await;
    w.cancel(dead.id).await.expect("a running task can be cancelled");
    w.let_leases_expire();
    assert_eq!(w.claim_as(&project, &Runner::named("w2")).await.id, waiting.id);
    assert_eq!(w.state(dead.id).await, TaskState::Cancelled);
}

async fn a_claim_fails_a_task_whose_last_attempt_died(w: World) {
    let dead = w.running_for_the_last_time().await;
    let waiting = w.enqueue(dead.project()).await;
    w.let_leases_expire();
    assert_eq!(w.claim_as(dead.project(), &Runner::named("w2")).await.id, waiting.id);
    let task = w.read(dead.id).await.task;
    assert_eq!(task.state, TaskState::Failed);
    assert_eq!(task.failure.map(|failure| failure.class), Some(FailureClass::WorkerLost));
}

async fn of_twenty_claimers_of_a_dead_task_one_wins(w: World) {
    let project = w.project().await;
    let dead = w.hold(&project, 1).await.remove(0);
    w.let_leases_expire();
    w.enqueue_with_priority(&project, 0).await;
    let winners: Vec<_> = claimed_by(&w, &project, 20).await.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    assert_eq!((winners[0].id, winners[0].holder.fence), (dead.id, Fence(3)));
    let record = w.read(dead.id).await;
    assert_eq!((record.task.fence, record.task.attempt), (Fence(3), 2));
    assert_eq!(w.leases(&project).await, 1);
}

async fn a_claim_does_not_go_through_advance(w: World) {
    let project = w.project().await;
    let task = w.enqueue(&project).await;
    let before = w.snapshot(task.id).await;
    let runner = Runner::named("w1");
    let claim = Event::Claim {
        owner: runner.owner.clone(),
        worker_id: runner.can.worker_id.clone(),
        slots: Slots { taken: 0, limit: 1 },
    };
    let by = rdev_domain::audit::Actor::worker(runner.can.worker_id.clone());
    let answer = w.advance(task.id, claim, Record::default(), &by).await;
    assert!(answer.is_err(), "it would not count the slot: {answer:?}");
    assert_eq!(w.snapshot(task.id).await, before);
}

async fn a_task_that_cannot_be_read_fails_as_poison_and_blocks_nothing(w: World) {
    let project = w.project().await;
    let broken = w.enqueue_with_priority(&project, 9).await;
    let healthy = w.enqueue(&project).await;
    w.corrupt(broken.id).await;

    let held = w.claim(&project).await;
    assert_eq!(held.id, healthy.id);
    w.finish(&held).await.expect("a holder may finish");
    w.nothing_to_claim(&project).await;

    let tasks = w.all_tasks(&project).await;
    let failed: Vec<_> = tasks.iter().filter(|r| r.task.state == TaskState::Failed).collect();
    assert_eq!(failed.len(), 1, "lists can be read, and show it: {tasks:?}");
    assert_eq!(failed[0].task.id, broken.id);
    let task = w.read(broken.id).await.task;
    assert_eq!(task.failure.map(|failure| failure.class), Some(FailureClass::Poison));
    let stats = w.store.work_stats(w.now()).await.expect("the stats");
    assert_eq!((stats.due, stats.later, stats.running), (0, 0, 0));
}

async fn a_held_task_that_cannot_be_read_blocks_nothing_for_ever(w: World) {
    let project = w.project().await;
    let broken = w.hold(&project, 1).await.remove(0);
    let waiting = w.enqueue(&project).await;
    w.corrupt(broken.id).await;
    w.let_leases_expire();
    let held = w.claim_as(&project, &Runner::named("w2")).await;
    assert_eq!(held.id, waiting.id, "its slot is free again");
    let task = w.read(broken.id).await.task;
    assert_eq!(task.state, TaskState::Failed);
    assert_eq!(task.failure.map(|failure| failure.class), Some(FailureClass::Poison));
}

/// What each of `count` claimers got, who begin together.
async fn claimed_by(
    w: &World,
    project: &rdev_domain::ids::ProjectId,
    count: usize,
) -> Vec<Option<ClaimedTask>> {
    let claims = race(count, |number| {
        let (w, project) = (w.clone(), project.clone());
        async move { w.try_claim(&project, &Runner::named(&format!("w{number}"))).await }
    });
    let held = |claim| match claim {
        Claim::Claimed(claimed) => Some(ClaimedTask::new(*claimed)),
        Claim::Nothing | Claim::SlotsTaken | Claim::Contended => None,
        Claim::Unsuited { .. } => panic!("every claimer offers every agent"),
    };
    claims.await.into_iter().map(held).collect()
}
