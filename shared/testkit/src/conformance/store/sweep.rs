//! Step 11: the sweep finds what every other step has lost.

use rdev_domain::audit::Actor;
use rdev_domain::failure::FailureClass;
use rdev_domain::ids::{Fence, ProjectId};
use rdev_domain::project::{ABANDONED_AFTER, Deletion, Project, ProjectState};
use rdev_domain::spec::AgentName;
use rdev_domain::step::Refusal;
use rdev_domain::task::{Task, TaskState};
use rdev_domain::wake_up::WakeUp;

use super::cases;
use super::world::{HOUR, MINUTE, Runner, SECOND, World, key_actor, race, refusal};

cases! {
    a_sweep_of_an_empty_store_does_nothing;
    a_sweep_recovers_expired_leases_alone;
    a_sweep_recovers_hundreds_of_leases_in_pages;
    a_task_due_for_two_minutes_is_woken;
    a_task_that_waits_for_a_slot_is_not_woken;
    a_parked_task_is_woken_when_it_is_due;
    an_unowned_push_is_woken;
    each_agent_that_is_due_is_woken;
    a_project_that_is_stuck_in_provisioning_has_failed;
    a_deletion_that_was_cut_short_is_found_until_it_is_ended;
    a_deletion_is_ended_as_the_newest_request_asked;
    of_sweeps_at_once_one_takes_a_deletion;
    a_sweep_leaves_what_lives_alone;
}

async fn a_sweep_of_an_empty_store_does_nothing(w: World) {
    assert_eq!(w.sweep().await, rdev_domain::ports::Swept::default());
    w.pass(24 * HOUR);
    assert_eq!(w.sweep().await, rdev_domain::ports::Swept::default());
}

async fn a_sweep_recovers_expired_leases_alone(w: World) {
    let (running, pushing) = (w.running().await, w.pushing().await);
    let last = w.running_for_the_last_time().await;
    let flagged = w.running().await;
    w.cancel(flagged.id).await.expect("a running task can be cancelled");
    let alive = w.running().await;
    w.let_leases_expire();
    w.renew(&alive).await.expect("a holder may renew");

    let swept = w.sweep().await;
    assert_eq!(swept.recovered, 4);
    for (held, state) in [
        (&running, TaskState::Queued),
        (&pushing, TaskState::Pushing),
        (&last, TaskState::Failed),
        (&flagged, TaskState::Cancelled),
    ] {
        let record = w.read(held.id).await;
        assert_eq!((record.task.state, record.lease), (state, None));
        assert_eq!(record.task.fence, Fence(2));
        assert!(swept.outbox.iter().any(|entry| entry.project_id == *held.project()), "{state:?}");
        assert_eq!(refusal(w.renew(held).await), Refusal::Stale);
    }
    let record = w.read(alive.id).await;
    assert_eq!((record.task.state, record.task.fence), (TaskState::Running, Fence(1)));
    assert_eq!(w.sweep().await.recovered, 0);
}

async fn a_sweep_recovers_hundreds_of_leases_in_pages(w: World) {
    let project = w.project_with_limit(100).await;
    let other = w.project_with_limit(100).await;
    w.hold(&project, 100).await;
    w.hold(&other, 100).await;
    w.let_leases_expire();
    assert_eq!(w.sweep().await.recovered, 200);
    for project in [&project, &other] {
        let tasks = w.all_tasks(project).await;
        assert!(tasks.iter().all(|r| r.lease.is_none() && r.task.fence == Fence(2)));
    }
}

async fn a_task_due_for_two_minutes_is_woken(w: World) {
    let project = w.project().await;
    w.enqueue(&project).await;
    let swept = {
        w.pass(MINUTE);
        w.sweep().await
    };
    assert_eq!((swept.outbox.len(), swept.wake), (1, vec![]), "its outbox entry woke it just now");
    w.pass(MINUTE + SECOND);
    let swept = w.sweep().await;
    assert_eq!((swept.outbox, swept.wake), (vec![], vec![for_command(&project)]));
    assert_eq!(w.sweep().await.wake, vec![for_command(&project)], "until a runner claims it");
    w.claim(&project).await;
    assert_eq!(w.sweep().await.wake, vec![]);
}

async fn a_task_that_waits_for_a_slot_is_not_woken(w: World) {
    let project = w.project().await;
    let held = w.hold(&project, 1).await.remove(0);
    w.enqueue(&project).await;
    for _ in 0..20 {
        w.pass(15 * SECOND);
        w.renew(&held).await.expect("a holder may renew");
    }
    assert_eq!(w.sweep().await.wake, vec![], "the end of the lease wakes it");
    w.set_limit(&project, 2).await;
    assert_eq!(w.sweep().await.wake, vec![for_command(&project)]);
}

async fn a_parked_task_is_woken_when_it_is_due(w: World) {
    let held = w.running().await;
    let after = w.fail(&held, FailureClass::Quota).await.expect("a holder may fail");
    // The wake-ups were sent, and then lost.
    w.store.delete_outbox(&after.outbox).await.expect("outbox entries can be deleted");
    w.send_outbox().await;
    w.pass(after.task.available_at.since(w.now()) - SECOND);
    assert_eq!(w.sweep().await.wake, vec![], "it is not due");
    w.pass(2 * SECOND);
    assert_eq!(w.sweep().await.wake, vec![for_command(held.project())]);
    assert_eq!(w.claim(held.project()).await.id, held.id);
}

async fn an_unowned_push_is_woken(w: World) {
    let held = w.pushing().await;
    w.release(&held).await.expect("a holder may release");
    w.send_outbox().await;
    w.pass(2 * MINUTE);
    let any_runner = WakeUp { agent: None, ..for_command(held.project()) };
    assert_eq!(w.sweep().await.wake, vec![any_runner]);
}

async fn each_agent_that_is_due_is_woken(w: World) {
    let project = w.project_with_limit(1).await;
    let of = |agent| w.build_by(&project, agent);
    // Many for an agent that no runner has do not hide the others.
    for _ in 0..30 {
        w.enqueue_task(of(AgentName::Codex)).await;
    }
    w.enqueue_task(of(AgentName::Command)).await;
    w.send_outbox().await;
    w.pass(2 * MINUTE);
    let codex = WakeUp { agent: Some(AgentName::Codex), ..for_command(&project) };
    assert_eq!(w.sweep().await.wake, vec![codex, for_command(&project)]);
}

/// The wake-up for the tasks that the cases queue.
fn for_command(project: &ProjectId) -> WakeUp {
    WakeUp { project_id: project.clone(), agent: Some(AgentName::Command) }
}

async fn a_project_that_is_stuck_in_provisioning_has_failed(w: World) {
    let stuck = Project { state: ProjectState::Provisioning, ..w.new_project() };
    w.create(&stuck).await.expect("a new name");
    let ready = w.project().await;
    w.pass(2 * MINUTE - SECOND);
    w.sweep().await;
    let state = async |id| w.store.project(id).await.expect("it is there").state;
    assert_eq!(state(&stuck.id).await, ProjectState::Provisioning);
    w.pass(2 * SECOND);
    w.sweep().await;
    assert_eq!(state(&stuck.id).await, ProjectState::ProvisioningFailed);
    assert_eq!(state(&ready).await, ProjectState::Ready);
}

async fn a_deletion_that_was_cut_short_is_found_until_it_is_ended(w: World) {
    let (kept, deleted) = (w.project().await, w.project().await);
    w.project().await;
    let begin = async |id, deletion| {
        let begun = w.store.begin_delete_project(id, deletion, None, &key_actor(), w.now()).await;
        begun.expect("nothing runs")
    };
    assert_eq!(begin(&kept, Deletion::KeepRepository).await.state, ProjectState::Deleting);
    begin(&deleted, Deletion::DeleteRepository).await;
    w.pass(ABANDONED_AFTER - SECOND);
    assert_eq!(w.sweep().await.deleting, vec![], "whoever began it may still live");
    w.pass(2 * SECOND);
    let found = async || {
        let mut found = w.sweep().await.deleting;
        found.sort_by_key(|project| project.nonce);
        for project in &found {
            assert_eq!(w.store.project(&project.id).await.expect("it is there"), *project);
        }
        found.into_iter().map(|project| (project.id, project.deletion)).collect::<Vec<_>>()
    };
    let both = vec![
        (kept.clone(), Some(Deletion::KeepRepository)),
        (deleted.clone(), Some(Deletion::DeleteRepository)),
    ];
    assert_eq!(found().await, both);
    assert_eq!(found().await, vec![], "another sweep ends them");
    w.pass(ABANDONED_AFTER);
    assert_eq!(found().await, both, "that sweep has died too");
    w.store
        .forget_project(&deleted, None, &Actor::maintenance(), w.now())
        .await
        .expect("it is deleting");
    w.pass(ABANDONED_AFTER);
    assert_eq!(found().await, both[..1]);
}

async fn a_deletion_is_ended_as_the_newest_request_asked(w: World) {
    let project = w.project().await;
    for deletion in [Deletion::KeepRepository, Deletion::DeleteRepository, Deletion::KeepRepository]
    {
        let begun =
            w.store.begin_delete_project(&project, deletion, None, &key_actor(), w.now()).await;
        assert_eq!(begun.expect("it is being deleted").deletion, Some(deletion));
        w.pass(ABANDONED_AFTER);
        let found = w.sweep().await.deleting;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((&found[0].id, found[0].deletion), (&project, Some(deletion)));
    }
}

async fn of_sweeps_at_once_one_takes_a_deletion(w: World) {
    let project = w.project().await;
    let deletion = Deletion::KeepRepository;
    let begun = w.store.begin_delete_project(&project, deletion, None, &key_actor(), w.now()).await;
    begun.expect("nothing runs");
    w.pass(ABANDONED_AFTER);
    let found = race(8, |_| {
        let w = w.clone();
        async move { w.store.sweep(w.now()).await.expect("the store sweeps").deleting.len() }
    })
    .await;
    assert_eq!(found.into_iter().sum::<usize>(), 1);
    w.store
        .forget_project(&project, None, &Actor::maintenance(), w.now())
        .await
        .expect("it is deleting");
}

async fn a_sweep_leaves_what_lives_alone(w: World) {
    let (running, pushing) = (w.running().await, w.pushing().await);
    let project = w.project().await;
    let queued = w.enqueue(&project).await;
    let parked = Task { available_at: w.now().plus(HOUR), ..w.new_task(&project) };
    let parked = w.enqueue_task(parked).await;
    w.pass(59 * SECOND);
    let ids = [running.id, pushing.id, queued.id, parked.id];
    let mut before = Vec::new();
    for id in ids {
        before.push(w.snapshot(id).await);
    }
    w.sweep().await;
    for (id, before) in ids.into_iter().zip(before) {
        assert_eq!(w.snapshot(id).await, before);
    }
    w.complete(&pushing).await.expect("the holder completes");
    w.finish(&running).await.expect("the holder finishes");
    assert_eq!(w.claim_as(&project, &Runner::named("w2")).await.id, queued.id);
}
