//! Step 7: a dead lease becomes a queue entry once, no matter who finds it.

use std::time::Duration;

use rdev_domain::failure::FailureClass;
use rdev_domain::ids::Fence;
use rdev_domain::lease::{CLOCK_SLACK, LEASE};
use rdev_domain::ports::{Claim, PortError};
use rdev_domain::step::Refusal;
use rdev_domain::task::{Task, TaskState};

use super::cases;
use super::world::{MINUTE, Runner, SECOND, World, race, race_two, refusal};

cases! {
    a_dead_running_task_is_queued_again;
    a_dead_pushing_task_is_pushed_by_another;
    a_task_that_died_in_its_last_attempt_fails;
    a_push_that_died_in_the_last_attempt_is_still_pushed;
    a_lease_that_has_not_expired_is_not_recovered;
    a_recoverer_acts_only_on_the_heartbeat_it_saw;
    a_recoverer_acts_only_on_the_fence_it_saw;
    a_task_without_a_lease_is_not_recovered;
    of_twenty_recoverers_one_recovers;
    a_recovery_and_a_heartbeat_never_both_succeed;
    a_recovery_and_a_completion_never_both_succeed;
    a_paused_holder_cannot_prepare_after_a_recovery;
    a_paused_pusher_cannot_complete_after_a_recovery;
    a_recoverer_whose_clock_is_ahead_wastes_work_and_no_more;
    a_holder_whose_clock_is_behind_wastes_work_and_no_more;
    sweeps_at_once_recover_each_lease_once;
    a_start_recovers_every_lease_or_says_that_it_cannot;
}

async fn a_dead_running_task_is_queued_again(w: World) {
    let held = w.running().await;
    w.let_leases_expire();
    let recovered = w.recover(held.id).await.expect("the holder is dead");
    assert_eq!((recovered.task.state, recovered.task.fence), (TaskState::Queued, Fence(2)));
    assert_eq!((recovered.task.attempt, &recovered.lease), (1, &None), "the attempt is spent");
    let failure = recovered.task.attempts[0].failure.as_ref().expect("the attempt ended badly");
    assert_eq!(failure.class, FailureClass::WorkerLost);
    let record = w.read(held.id).await;
    assert_eq!((&record.task, record.lease), (&recovered.task, None));
    w.woke("a recovery", &recovered.outbox, held.project()).await;

    let again = w.claim_as(held.project(), &Runner::named("w2")).await;
    assert_eq!((again.id, again.holder.fence), (held.id, Fence(3)));
    assert_eq!(again.claimed.task.attempt, 2);
}

async fn a_dead_pushing_task_is_pushed_by_another(w: World) {
    let held = w.pushing().await;
    let prepared = w.read(held.id).await.task;
    w.let_leases_expire();
    let recovered = w.recover(held.id).await.expect("the holder is dead");
    assert_eq!((recovered.task.state, recovered.task.fence), (TaskState::Pushing, Fence(2)));
    assert_eq!(recovered.lease, None);
    w.woke("a recovery", &recovered.outbox, held.project()).await;

    let again = w.claim_as(held.project(), &Runner::named("w2")).await;
    let task = &again.claimed.task;
    assert_eq!((again.id, again.holder.fence), (held.id, Fence(3)));
    assert_eq!((task.state, task.attempt, task.push_attempt), (TaskState::Pushing, 1, 1));
    assert_eq!(task.prepared, prepared.prepared, "what was prepared is what is pushed");
    assert_eq!(task.scan_base, prepared.scan_base);
    let done = w.complete(&again).await.expect("the new holder completes");
    assert_eq!(done.task.state, TaskState::Succeeded);
}

async fn a_task_that_died_in_its_last_attempt_fails(w: World) {
    let held = w.running_for_the_last_time().await;
    w.let_leases_expire();
    let recovered = w.recover(held.id).await.expect("the holder is dead");
    assert_eq!(recovered.task.state, TaskState::Failed);
    let failure = recovered.task.failure.expect("a failed task says why");
    assert_eq!(failure.class, FailureClass::WorkerLost);
    assert_eq!(w.read(held.id).await.lease, None);
    w.woke("a freed slot", &recovered.outbox, held.project()).await;
    w.nothing_to_claim(held.project()).await;
}

async fn a_push_that_died_in_the_last_attempt_is_still_pushed(w: World) {
    let held = w.running_for_the_last_time().await;
    w.prepare(&held).await.expect("a holder may prepare");
    w.let_leases_expire();
    w.recover(held.id).await.expect("the holder is dead");
    let again = w.claim_as(held.project(), &Runner::named("w2")).await;
    assert_eq!(again.claimed.task.state, TaskState::Pushing);
    w.complete(&again).await.expect("the new holder completes");
}

async fn a_lease_that_has_not_expired_is_not_recovered(w: World) {
    let held = w.running().await;
    for wait in [Duration::ZERO, LEASE, CLOCK_SLACK] {
        w.pass(wait);
        let before = w.snapshot(held.id).await;
        assert_eq!(refusal(w.recover(held.id).await), Refusal::Alive);
        assert_eq!(w.snapshot(held.id).await, before);
    }
    w.pass(Duration::from_millis(1));
    w.recover(held.id).await.expect("the clocks agree that it is over");
}

async fn a_recoverer_acts_only_on_the_heartbeat_it_saw(w: World) {
    let held = w.running().await;
    w.renew(&held).await.expect("a holder may renew");
    let seen = w.read(held.id).await;
    w.let_leases_expire();
    w.renew(&held).await.expect("a holder may renew late");
    w.let_leases_expire();
    let before = w.snapshot(held.id).await;
    assert_eq!(refusal(w.recover_seen(&seen).await), Refusal::Stale);
    assert_eq!(w.snapshot(held.id).await, before);
    w.recover(held.id).await.expect("seen as it is, it is dead");
}

async fn a_recoverer_acts_only_on_the_fence_it_saw(w: World) {
    let held = w.running().await;
    let seen = w.read(held.id).await;
    w.release(&held).await.expect("a holder may release");
    let again = w.claim(held.project()).await;
    assert_eq!(again.id, held.id);
    w.let_leases_expire();
    let before = w.snapshot(held.id).await;
    assert_eq!(refusal(w.recover_seen(&seen).await), Refusal::Stale);
    assert_eq!(w.snapshot(held.id).await, before);
}

async fn a_task_without_a_lease_is_not_recovered(w: World) {
    let project = w.project().await;
    let queued = w.enqueue(&project).await;
    let unowned = w.pushing().await;
    w.release(&unowned).await.expect("a holder may release");
    w.let_leases_expire();
    for id in [queued.id, unowned.id] {
        let before = w.snapshot(id).await;
        assert_eq!(refusal(w.recover(id).await), Refusal::Stale);
        assert_eq!(w.snapshot(id).await, before);
    }
}

async fn of_twenty_recoverers_one_recovers(w: World) {
    for pushing in [false, true] {
        let held = if pushing { w.pushing().await } else { w.running().await };
        w.let_leases_expire();
        let seen = w.read(held.id).await;
        let answers = race(20, |_| {
            let (w, seen) = (w.clone(), seen.clone());
            async move { w.recover_seen(&seen).await }
        })
        .await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        for answer in lost {
            assert_eq!(refusal(answer), Refusal::Stale);
        }
        assert_eq!(w.read(held.id).await.task.fence, Fence(2));
        w.claim(held.project()).await;
        let other = w.try_claim(held.project(), &Runner::named("w2")).await;
        assert_eq!(other, Claim::Nothing, "one queue entry, not twenty");
    }
}

async fn a_recovery_and_a_heartbeat_never_both_succeed(w: World) {
    for round in 0..20 {
        let held = w.running().await;
        w.let_leases_expire();
        let seen = w.read(held.id).await;
        let (holder, recoverer) = (w.clone(), w.clone());
        let beating = held.clone();
        let (renewed, recovered) =
            race_two(async move { holder.renew(&beating).await }, async move {
                recoverer.recover_seen(&seen).await
            })
            .await;
        let record = w.read(held.id).await;
        match (renewed, recovered) {
            (Ok(_), Err(refused)) => {
                assert_eq!(refusal::<()>(Err(refused)), Refusal::Stale, "round {round}");
                assert_eq!(record.task.state, TaskState::Running);
                w.finish(&held).await.expect("it is still the holder's");
            }
            (Err(refused), Ok(_)) => {
                assert_eq!(refusal::<()>(Err(refused)), Refusal::Stale, "round {round}");
                assert_eq!((record.task.state, record.lease), (TaskState::Queued, None));
                assert_eq!(refusal(w.finish(&held).await), Refusal::Stale);
            }
            both => panic!("round {round}: one of them wins, not {both:?}"),
        }
    }
}

async fn a_recovery_and_a_completion_never_both_succeed(w: World) {
    for round in 0..20 {
        let held = w.pushing().await;
        w.let_leases_expire();
        let seen = w.read(held.id).await;
        let (holder, recoverer) = (w.clone(), w.clone());
        let done = held.clone();
        let (completed, recovered) =
            race_two(async move { holder.complete(&done).await }, async move {
                recoverer.recover_seen(&seen).await
            })
            .await;
        let record = w.read(held.id).await;
        assert_eq!(record.lease, None);
        match (completed, recovered) {
            (Ok(_), Err(refused)) => {
                let ended = Refusal::Ended(TaskState::Succeeded);
                assert_eq!(refusal::<()>(Err(refused)), ended, "round {round}");
                w.nothing_to_claim(held.project()).await;
            }
            (Err(refused), Ok(_)) => {
                assert_eq!(refusal::<()>(Err(refused)), Refusal::Stale, "round {round}");
                assert_eq!(record.task.state, TaskState::Pushing);
                let again = w.claim_as(held.project(), &Runner::named("w2")).await;
                w.complete(&again).await.expect("the new holder completes");
            }
            both => panic!("round {round}: one of them wins, not {both:?}"),
        }
    }
}

async fn a_paused_holder_cannot_prepare_after_a_recovery(w: World) {
    let paused = w.running().await;
    w.let_leases_expire();
    w.recover(paused.id).await.expect("the holder counts as dead");
    assert_eq!(refusal(w.prepare(&paused).await), Refusal::Stale, "while it has no holder");
    let again = w.claim_as(paused.project(), &Runner::named("w2")).await;
    assert_eq!(refusal(w.prepare(&paused).await), Refusal::Stale, "while another runs it");
    w.prepare(&again).await.expect("the new holder prepares");
    assert_eq!(refusal(w.prepare(&paused).await), Refusal::Stale, "while another pushes it");
    let prepared = w.read(paused.id).await.task.prepared.expect("it was prepared");
    assert_eq!(prepared.wip.fence, again.holder.fence);
}

async fn a_paused_pusher_cannot_complete_after_a_recovery(w: World) {
    let paused = w.pushing().await;
    w.let_leases_expire();
    w.recover(paused.id).await.expect("the holder counts as dead");
    assert_eq!(refusal(w.complete(&paused).await), Refusal::Stale);
    let again = w.claim_as(paused.project(), &Runner::named("w2")).await;
    assert_eq!(refusal(w.complete(&paused).await), Refusal::Stale);
    w.complete(&again).await.expect("the new holder completes");
    assert_eq!(refusal(w.complete(&paused).await), Refusal::Ended(TaskState::Succeeded));
}

async fn a_recoverer_whose_clock_is_ahead_wastes_work_and_no_more(w: World) {
    let held = w.running().await;
    w.renew(&held).await.expect("a holder may renew");
    let ahead = w.with_clock(w.now().plus(5 * MINUTE));
    let thief = ahead.claim_as(held.project(), &Runner::named("w2")).await;
    assert_eq!(
        (thief.id, thief.holder.fence),
        (held.id, Fence(3)),
        "a living holder counted as dead"
    );
    assert_eq!(refusal(w.renew(&held).await), Refusal::Stale);
    assert_eq!(refusal(w.prepare(&held).await), Refusal::Stale);
    ahead.prepare(&thief).await.expect("the new holder prepares");
    assert_eq!(refusal(w.complete(&held).await), Refusal::Stale);
    ahead.complete(&thief).await.expect("the new holder completes");
    assert_eq!(w.leases(held.project()).await, 0);
}

async fn a_holder_whose_clock_is_behind_wastes_work_and_no_more(w: World) {
    let project = w.project().await;
    let old = w.now();
    w.pass(5 * MINUTE);
    let behind = w.with_clock(old);
    w.enqueue_task(Task { available_at: old, ..w.new_task(&project) }).await;
    let held = behind.claim_as(&project, &Runner::named("slow")).await;
    let thief = w.claim_as(&project, &Runner::named("w2")).await;
    assert_eq!((thief.id, thief.holder.fence), (held.id, Fence(3)), "its lease began in the past");
    assert_eq!(refusal(behind.prepare(&held).await), Refusal::Stale);
    w.finish(&thief).await.expect("the new holder finishes");
    assert_eq!(refusal(behind.finish(&held).await), Refusal::Ended(TaskState::Succeeded));
    behind.nothing_to_claim(&project).await;
}

async fn sweeps_at_once_recover_each_lease_once(w: World) {
    let project = w.project_with_limit(5).await;
    let dead = w.hold(&project, 5).await;
    w.let_leases_expire();
    let swept = race(4, |_| {
        let w = w.clone();
        async move { w.sweep().await.recovered }
    })
    .await;
    assert_eq!(swept.into_iter().sum::<u64>(), 5);
    for held in dead {
        let record = w.read(held.id).await;
        assert_eq!((record.task.fence, record.lease), (Fence(2), None));
    }
    for _ in 0..5 {
        w.claim(&project).await;
    }
    w.nothing_to_claim(&project).await;
}

async fn a_start_recovers_every_lease_or_says_that_it_cannot(w: World) {
    let (running, pushing) = (w.running().await, w.pushing().await);
    let last = w.running_for_the_last_time().await;
    let flagged = w.running().await;
    w.cancel(flagged.id).await.expect("a running task can be cancelled");
    w.pass(SECOND);
    let answer = w.store.recover_all(w.now()).await;
    if !w.recovers_all {
        let refused = matches!(answer, Err(PortError::NotSupported { .. }));
        assert!(refused, "it is refused, not {answer:?}");
        for held in [&running, &pushing, &last, &flagged] {
            w.renew(held).await.expect("no holder counts as dead");
        }
        return;
    }
    let outbox = answer.expect("the store recovers");
    for (held, state) in [
        (&running, TaskState::Queued),
        (&pushing, TaskState::Pushing),
        (&last, TaskState::Failed),
        (&flagged, TaskState::Cancelled),
    ] {
        let record = w.read(held.id).await;
        assert_eq!((record.task.state, record.lease), (state, None));
        assert_eq!(record.task.fence, Fence(2));
        assert_eq!(refusal(w.renew(held).await), Refusal::Stale);
        assert!(outbox.iter().any(|entry| entry.project_id == *held.project()), "{state:?}");
    }
    let again = w.store.recover_all(w.now()).await.expect("the store recovers");
    assert_eq!(again, [], "there is nothing left to recover");
    w.claim(running.project()).await;
    w.claim(pushing.project()).await;
}
