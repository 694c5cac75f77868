//! Step 9: cancel, in every state and in a race with everything that moves a task.

use rdev_domain::failure::FailureClass;
use rdev_domain::ports::{Claim, PortResult};
use rdev_domain::step::Refusal;
use rdev_domain::task::TaskState;

use super::cases;
use super::world::{ClaimedTask, MINUTE, Runner, World, race_two, refusal};

/// How often each race is run.
const ROUNDS: usize = 15;

cases! {
    a_queued_task_is_cancelled_at_once;
    a_parked_task_is_cancelled_at_once;
    a_cancelled_running_task_is_stopped_by_its_holder;
    asking_twice_is_asking_once;
    whatever_a_flagged_holder_writes_cancels;
    a_flagged_task_whose_holder_died_is_cancelled;
    a_flagged_task_cannot_prepare;
    a_pushing_task_cannot_be_cancelled;
    cancel_against_claim;
    cancel_against_renew;
    cancel_against_prepare;
    cancel_against_finish;
    cancel_against_complete;
    cancel_against_recover;
    cancel_against_recover_of_the_last_attempt;
    cancel_against_release;
}

async fn a_queued_task_is_cancelled_at_once(w: World) {
    let project = w.project().await;
    let task = w.enqueue(&project).await;
    let after = w.cancel(task.id).await.expect("a queued task can be cancelled");
    assert_eq!((after.task.state, &after.lease), (TaskState::Cancelled, &None));
    assert_eq!(after.task.finished_at, Some(w.now()));
    assert_eq!(w.read(task.id).await.task, after.task);
    w.nothing_to_claim(&project).await;
    assert_eq!(refusal(w.cancel(task.id).await), Refusal::Ended(TaskState::Cancelled));
}

async fn a_parked_task_is_cancelled_at_once(w: World) {
    let held = w.running().await;
    w.fail(&held, FailureClass::Quota).await.expect("a holder may fail");
    let after = w.cancel(held.id).await.expect("a parked task can be cancelled");
    assert_eq!(after.task.state, TaskState::Cancelled);
    w.pass(60 * MINUTE);
    w.sweep().await;
    w.nothing_to_claim(held.project()).await;
}

async fn a_cancelled_running_task_is_stopped_by_its_holder(w: World) {
    let held = w.running().await;
    assert!(!w.renew(&held).await.expect("a holder may renew").cancel_requested);
    let after = w.cancel(held.id).await.expect("a running task can be cancelled");
    assert_eq!(after.task.state, TaskState::Running);
    assert!(after.lease.expect("its holder keeps it").cancel_requested);
    assert!(w.read(held.id).await.lease.expect("its holder keeps it").cancel_requested);
    for _ in 0..2 {
        let renewal = w.renew(&held).await.expect("a holder may renew");
        assert!(renewal.cancel_requested, "every renewal says so");
    }
}

async fn asking_twice_is_asking_once(w: World) {
    let held = w.running().await;
    w.cancel(held.id).await.expect("a running task can be cancelled");
    let after = w.cancel(held.id).await.expect("asking again is no error");
    assert!(after.lease.expect("its holder keeps it").cancel_requested);
    let done = w.fail(&held, FailureClass::Cancelled).await.expect("the holder stops");
    assert_eq!(done.task.state, TaskState::Cancelled);
}

async fn whatever_a_flagged_holder_writes_cancels(w: World) {
    let first = w.running().await;
    let names = first.writes_while_running(w.now()).len();
    w.finish(&first).await.expect("a holder may finish");
    for number in 0..names {
        let held = w.running().await;
        let (name, event) = held.writes_while_running(w.now()).swap_remove(number);
        if name == "prepare" {
            w.finish(&held).await.expect("a holder may finish");
            continue; // refused: the next case
        }
        let waiting = w.enqueue(held.project()).await;
        w.cancel(held.id).await.expect("a running task can be cancelled");
        let after = w.write(&held, event).await.expect("the holder may report");
        assert_eq!((after.task.state, &after.lease), (TaskState::Cancelled, &None), "{name}");
        assert_eq!(w.read(held.id).await.task, after.task, "{name}");
        assert_eq!(after.task.result, None, "{name}");
        w.woke(name, &after.outbox, held.project()).await;
        let next = w.claim(held.project()).await;
        assert_eq!(next.id, waiting.id, "{name} frees the slot");
        w.finish(&next).await.expect("a holder may finish");
    }
}

async fn a_flagged_task_whose_holder_died_is_cancelled(w: World) {
    let held = w.running().await;
    w.cancel(held.id).await.expect("a running task can be cancelled");
    w.let_leases_expire();
    let after = w.recover(held.id).await.expect("the holder is dead");
    assert_eq!((after.task.state, &after.lease), (TaskState::Cancelled, &None));
    w.woke("a freed slot", &after.outbox, held.project()).await;
    w.nothing_to_claim(held.project()).await;
}

async fn a_flagged_task_cannot_prepare(w: World) {
    let held = w.running().await;
    w.cancel(held.id).await.expect("a running task can be cancelled");
    let before = w.snapshot(held.id).await;
    assert_eq!(refusal(w.prepare(&held).await), Refusal::CancelRequested);
    assert_eq!(w.snapshot(held.id).await, before);
    let after = w.fail(&held, FailureClass::Cancelled).await.expect("the holder stops");
    assert_eq!(after.task.state, TaskState::Cancelled);
}

async fn a_pushing_task_cannot_be_cancelled(w: World) {
    let held = w.pushing().await;
    let before = w.snapshot(held.id).await;
    assert_eq!(refusal(w.cancel(held.id).await), Refusal::WrongState(TaskState::Pushing));
    assert_eq!(w.snapshot(held.id).await, before);
    w.release(&held).await.expect("a holder may release");
    assert_eq!(refusal(w.cancel(held.id).await), Refusal::WrongState(TaskState::Pushing));
    let again = w.claim(held.project()).await;
    assert_eq!(refusal(w.cancel(held.id).await), Refusal::WrongState(TaskState::Pushing));
    w.complete(&again).await.expect("the holder completes");
}

async fn cancel_against_claim(w: World) {
    for round in 0..ROUNDS {
        let project = w.project().await;
        let task = w.enqueue(&project).await;
        let (one, other, target) = (w.clone(), w.clone(), project.clone());
        let (cancelled, claim) = race_two(async move { one.cancel(task.id).await }, async move {
            other.try_claim(&target, &Runner::named("w1")).await
        })
        .await;
        let after = cancelled.expect("a queued or running task can be cancelled").task;
        let record = w.read(task.id).await;
        match claim {
            Claim::Claimed(claimed) => {
                let lease = record.lease.expect("its holder keeps it");
                assert!(lease.cancel_requested, "round {round}: the holder will learn of it");
                let after =
                    w.finish(&ClaimedTask::new(*claimed)).await.expect("the holder may report");
                assert_eq!(after.task.state, TaskState::Cancelled);
            }
            Claim::Nothing | Claim::Contended => {
                assert_eq!((after.state, record.lease), (TaskState::Cancelled, None));
            }
            other => panic!("round {round}: {other:?}"),
        }
        w.nothing_to_claim(&project).await;
    }
}

async fn cancel_against_renew(w: World) {
    for round in 0..ROUNDS {
        let held = w.running().await;
        let (cancelled, renewed) =
            against(&w, &held, |w, held| async move { w.renew(&held).await }).await;
        cancelled.expect("a running task can be cancelled");
        renewed.expect("a holder may renew");
        let record = w.read(held.id).await;
        let lease = record.lease.expect("its holder keeps it");
        assert!(lease.cancel_requested, "round {round}: the heartbeat has not wiped the flag out");
        assert_eq!(lease.heartbeat, 1, "round {round}: nor the flag the heartbeat");
        assert!(w.renew(&held).await.expect("a holder may renew").cancel_requested);
    }
}

async fn cancel_against_prepare(w: World) {
    for round in 0..ROUNDS {
        let held = w.running().await;
        let (cancelled, prepared) =
            against(&w, &held, |w, held| async move { w.prepare(&held).await }).await;
        match (cancelled, prepared) {
            (Ok(_), Err(error)) => {
                assert_eq!(refusal::<()>(Err(error)), Refusal::CancelRequested, "round {round}");
                let after = w.fail(&held, FailureClass::Cancelled).await;
                assert_eq!(after.expect("the holder stops").task.state, TaskState::Cancelled);
            }
            (Err(error), Ok(_)) => {
                let refused = Refusal::WrongState(TaskState::Pushing);
                assert_eq!(refusal::<()>(Err(error)), refused, "round {round}");
                w.complete(&held).await.expect("the holder completes");
            }
            both => panic!("round {round}: one of them wins, not {both:?}"),
        }
    }
}

async fn cancel_against_finish(w: World) {
    for round in 0..ROUNDS {
        let held = w.running().await;
        let (cancelled, finished) =
            against(&w, &held, |w, held| async move { w.finish(&held).await }).await;
        let state = finished.expect("a holder may finish").task.state;
        match cancelled {
            Ok(_) => assert_eq!(state, TaskState::Cancelled, "round {round}"),
            Err(error) => {
                let ended = Refusal::Ended(TaskState::Succeeded);
                assert_eq!(refusal::<()>(Err(error)), ended, "round {round}");
                assert_eq!(state, TaskState::Succeeded);
            }
        }
        assert_eq!(w.state(held.id).await, state);
    }
}

async fn cancel_against_complete(w: World) {
    for round in 0..ROUNDS {
        let held = w.pushing().await;
        let (cancelled, completed) =
            against(&w, &held, |w, held| async move { w.complete(&held).await }).await;
        let state = completed.expect("a push is not cancelled").task.state;
        assert_eq!(state, TaskState::Succeeded, "round {round}");
        let refused = refusal(cancelled);
        let late = [Refusal::WrongState(TaskState::Pushing), Refusal::Ended(TaskState::Succeeded)];
        assert!(late.contains(&refused), "round {round}: {refused:?}");
    }
}

async fn cancel_against_recover(w: World) {
    for round in 0..ROUNDS {
        let held = w.running().await;
        w.let_leases_expire();
        let (cancelled, recovered) =
            against(&w, &held, |w, held| async move { w.recover(held.id).await }).await;
        cancelled.expect("a running or queued task can be cancelled");
        recovered.expect("a flag is no heartbeat");
        let record = w.read(held.id).await;
        assert_eq!(record.task.state, TaskState::Cancelled, "round {round}");
        assert_eq!(record.lease, None);
        w.nothing_to_claim(held.project()).await;
    }
}

async fn cancel_against_recover_of_the_last_attempt(w: World) {
    for round in 0..ROUNDS {
        let held = w.running_for_the_last_time().await;
        w.let_leases_expire();
        let (cancelled, recovered) =
            against(&w, &held, |w, held| async move { w.recover(held.id).await }).await;
        recovered.expect("a flag is no heartbeat");
        let state = w.state(held.id).await;
        match cancelled {
            Ok(_) => assert_eq!(state, TaskState::Cancelled, "round {round}"),
            Err(error) => {
                let ended = Refusal::Ended(TaskState::Failed);
                assert_eq!(refusal::<()>(Err(error)), ended, "round {round}");
                assert_eq!(state, TaskState::Failed);
            }
        }
    }
}

async fn cancel_against_release(w: World) {
    for round in 0..ROUNDS {
        let held = w.running().await;
        let (cancelled, released) =
            against(&w, &held, |w, held| async move { w.release(&held).await }).await;
        cancelled.expect("a running or queued task can be cancelled");
        released.expect("a holder may release");
        assert_eq!(w.state(held.id).await, TaskState::Cancelled, "round {round}");
        w.nothing_to_claim(held.project()).await;
    }
}

/// A cancel of the task in a race with another write about it.
async fn against<T, F>(
    w: &World,
    held: &ClaimedTask,
    write: impl FnOnce(World, ClaimedTask) -> F,
) -> (PortResult<rdev_domain::ports::Advanced>, T)
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (one, id) = (w.clone(), held.id);
    race_two(async move { one.cancel(id).await }, write(w.clone(), held.clone())).await
}
