//! Step 4: a lease is renewed by its holder alone, and every write names the fence and the owner.

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{OwnRef, RecordedRef};
use rdev_domain::ids::Fence;
use rdev_domain::lease::LEASE;
use rdev_domain::ports::Record;
use rdev_domain::result::Usage;
use rdev_domain::step::{Event, Refusal};
use rdev_domain::task::TaskState;

use super::cases;
use super::world::{ClaimedTask, HOUR, Runner, SECOND, World, commit, refusal};

cases! {
    a_renewal_moves_the_end_of_the_lease_and_touches_nothing_else;
    a_renewal_carries_what_the_attempt_used_so_far;
    what_a_holder_is_about_to_write_is_recorded_before_it_ends;
    a_prepared_ticket_may_land_until_it_is_revoked_or_has_landed;
    a_stranger_to_a_lease_records_nothing;
    a_lease_past_its_end_is_renewed_unless_it_was_recovered;
    an_old_fence_changes_nothing_of_a_running_task;
    an_old_fence_changes_nothing_of_a_pushing_task;
    another_owner_changes_nothing_of_a_running_task;
    another_owner_changes_nothing_of_a_pushing_task;
    the_last_holder_changes_nothing_of_a_queued_task;
    a_holder_of_one_task_changes_nothing_of_another;
    nothing_changes_a_task_that_has_ended;
}

async fn a_renewal_moves_the_end_of_the_lease_and_touches_nothing_else(w: World) {
    let held = w.running().await;
    let before = w.snapshot(held.id).await;
    let task = w.read(held.id).await.task;
    for round in 1..=3 {
        w.pass(15 * SECOND);
        let renewal = w.renew(&held).await.expect("a holder may renew");
        assert_eq!(renewal.until, w.now().plus(LEASE));
        assert!(!renewal.cancel_requested);
        let record = w.read(held.id).await;
        let lease = record.lease.expect("it is held");
        assert_eq!((lease.heartbeat, lease.until), (round, renewal.until));
        assert_eq!((lease.fence, lease.owner), (held.holder.fence, held.holder.owner.clone()));
        assert_eq!(record.task, task, "heartbeats touch nothing but the lease");
    }
    assert_ne!(w.snapshot(held.id).await, before);
    assert_eq!(w.audit(held.project()).await.len(), 3, "created, enqueued, claimed: no heartbeats");
}

async fn a_renewal_carries_what_the_attempt_used_so_far(w: World) {
    let held = w.running().await;
    let used = |turns| Usage {
        input_tokens: 100 * turns,
        turns,
        cost_usd: Some(0.25),
        ..Usage::default()
    };
    w.renew_with(&held, &[], Some(used(1))).await.expect("a holder may renew");
    w.renew_with(&held, &[], Some(used(3))).await.expect("a holder may renew");
    w.renew(&held).await.expect("a renewal without a usage keeps the last one");
    let record = w.read(held.id).await;
    assert_eq!(record.lease.expect("it is held").usage, used(3));
    assert_eq!(record.task.usage, Usage::default());

    w.let_leases_expire();
    let recovered = w.recover(held.id).await.expect("the holder is dead");
    assert_eq!(recovered.task.usage, used(3), "what a lost worker used is not lost");
    assert_eq!(w.read(held.id).await.task.attempts[0].usage, used(3));
}

/// The ticket of a holder, and the commit that its preparation has.
fn ticket(held: &ClaimedTask) -> RecordedRef {
    let fence = held.holder.fence;
    RecordedRef::of(OwnRef::Wip(held.id, fence), commit(1000 + fence.0))
}

async fn what_a_holder_is_about_to_write_is_recorded_before_it_ends(w: World) {
    type End = fn(&ClaimedTask) -> Option<Event>;
    let ends: [End; 4] = [
        |held| Some(held.fail(FailureClass::Infra)),
        |held| Some(held.fail(FailureClass::PushRejected)),
        |held| Some(held.release()),
        |_| None,
    ];
    for end in ends {
        let held = w.running().await;
        let mut refs = vec![RecordedRef::of(OwnRef::Kept(held.id), commit(7))];
        w.record_refs(&held, &refs).await.expect("a holder may renew");
        refs.push(ticket(&held));
        w.record_refs(&held, &refs).await.expect("a holder may renew");
        w.renew(&held).await.expect("a renewal without refs keeps the last ones");
        let lease = w.read(held.id).await.lease.expect("it is held");
        assert_eq!(lease.own_refs.as_ref(), Some(&refs));
        let after = match end(&held) {
            Some(event) => w.write(&held, event).await.expect("a holder may end it").task,
            None => {
                w.let_leases_expire();
                w.recover(held.id).await.expect("the holder is dead").task
            }
        };
        assert_eq!(after.own_refs, refs);
        assert_eq!(w.read(held.id).await.task.own_refs, refs);
    }
}

async fn a_prepared_ticket_may_land_until_it_is_revoked_or_has_landed(w: World) {
    let prepared = |held: &ClaimedTask| vec![RecordedRef { may_land: true, ..ticket(held) }];
    let pushing = async || {
        let held = w.running().await;
        w.record_refs(&held, &[ticket(&held)]).await.expect("a holder may renew");
        let after = w.write(&held, held.prepare(w.now())).await.expect("it may push");
        assert_eq!(after.task.own_refs, prepared(&held));
        held
    };
    let held = pushing().await;
    w.let_leases_expire();
    let recovered = w.recover(held.id).await.expect("the holder is dead").task;
    assert_eq!(recovered.own_refs, prepared(&held));

    let held = pushing().await;
    let (task, fence) = (held.id, held.holder.fence);
    let reason = Some(FailureClass::Conflict);
    let moved = RecordedRef {
        revoked_for: reason,
        ..RecordedRef::of(OwnRef::Revoked(task, fence), commit(1000 + fence.0))
    };
    let both = [prepared(&held), vec![moved.clone()]].concat();
    w.record_refs(&held, &both).await.expect("a holder may renew");
    let unknown = Failure { push_in_doubt: true, ..Failure::new(FailureClass::Conflict, "x") };
    let Event::Fail { holder, usage, .. } = held.fail_with(unknown.clone()) else { unreachable!() };
    let event = Event::Fail { holder, failure: unknown, usage, revoked: true, left: None };
    let after = w.write(&held, event).await.expect("a holder may fail").task;
    assert_eq!((after.state, after.own_refs), (TaskState::Queued, vec![moved]));
    assert!(!after.failure.expect("a failure").push_in_doubt, "it is known not to land");

    let held = pushing().await;
    let after = w.write(&held, held.complete()).await.expect("it has landed").task;
    assert_eq!(after.own_refs, []);
}

async fn a_stranger_to_a_lease_records_nothing(w: World) {
    let held = w.running().await;
    for stranger in [held.with_fence(held.holder.fence.0 + 1), held.with_another_owner()] {
        let refused = w.record_refs(&stranger, &[ticket(&held)]).await;
        assert_eq!(refusal(refused), Refusal::Stale);
    }
    assert_eq!(w.read(held.id).await.lease.expect("it is held").own_refs, None);
}

async fn a_lease_past_its_end_is_renewed_unless_it_was_recovered(w: World) {
    let held = w.running().await;
    w.pass(HOUR);
    let renewal = w.renew(&held).await.expect("a blip must not kill an hour's work");
    assert_eq!(renewal.until, w.now().plus(LEASE));
    let waiting = w.enqueue_with_priority(held.project(), 0).await;
    let other = w.try_claim(held.project(), &Runner::named("w2")).await;
    assert_eq!(other, rdev_domain::ports::Claim::SlotsTaken, "it lives again");

    w.let_leases_expire();
    w.recover(held.id).await.expect("its lease was not renewed");
    refused_without_a_trace(&w, &held, &held).await;
    let again = w.claim_as(held.project(), &Runner::named("w2")).await;
    refused_without_a_trace(&w, &again, &held).await;
    assert_eq!(w.state(waiting.id).await, TaskState::Queued);
}

async fn an_old_fence_changes_nothing_of_a_running_task(w: World) {
    let current = reclaimed(&w, w.running().await).await;
    for fence in [0, 1, 2, 4] {
        refused_without_a_trace(&w, &current, &current.with_fence(fence)).await;
    }
    w.finish(&current).await.expect("the holder may still finish");
}

async fn an_old_fence_changes_nothing_of_a_pushing_task(w: World) {
    let current = reclaimed(&w, w.pushing().await).await;
    assert_eq!(w.state(current.id).await, TaskState::Pushing);
    for fence in [0, 1, 2, 4] {
        refused_without_a_trace(&w, &current, &current.with_fence(fence)).await;
    }
    w.complete(&current).await.expect("the holder may still complete");
}

async fn another_owner_changes_nothing_of_a_running_task(w: World) {
    let held = w.running().await;
    refused_without_a_trace(&w, &held, &held.with_another_owner()).await;
    w.finish(&held).await.expect("the holder may still finish");
}

async fn another_owner_changes_nothing_of_a_pushing_task(w: World) {
    let held = w.pushing().await;
    refused_without_a_trace(&w, &held, &held.with_another_owner()).await;
    w.complete(&held).await.expect("the holder may still complete");
}

async fn the_last_holder_changes_nothing_of_a_queued_task(w: World) {
    let held = w.running().await;
    w.release(&held).await.expect("a holder may release");
    assert_eq!(w.state(held.id).await, TaskState::Queued);
    refused_without_a_trace(&w, &held, &held).await;
    w.claim(held.project()).await;
}

async fn a_holder_of_one_task_changes_nothing_of_another(w: World) {
    let project = w.project_with_limit(2).await;
    let mine = w.hold(&project, 1).await.remove(0);
    w.enqueue(&project).await;
    let other = w.claim_as(&project, &Runner::named("w2")).await;
    assert_eq!(mine.holder.fence, other.holder.fence, "the owners alone tell them apart");
    let impostor = ClaimedTask { id: other.id, ..mine };
    refuses_every_write(&w, &other, &impostor).await;
    w.finish(&other).await.expect("the holder may still finish");
}

async fn nothing_changes_a_task_that_has_ended(w: World) {
    let succeeded = w.running().await;
    w.finish(&succeeded).await.expect("a holder may finish");
    let failed = w.running().await;
    w.fail(&failed, FailureClass::Invalid).await.expect("it fails");
    let cancelled = w.running().await;
    w.cancel(cancelled.id).await.expect("a running task can be cancelled");
    w.release(&cancelled).await.expect("the holder stops");

    for (held, state) in [
        (succeeded, TaskState::Succeeded),
        (failed, TaskState::Failed),
        (cancelled, TaskState::Cancelled),
    ] {
        w.let_leases_expire();
        let before = w.snapshot(held.id).await;
        let mut events = held.writes_while_running(w.now());
        events.extend(held.writes_while_pushing(w.now()));
        events.push(("cancel", Event::Cancel));
        for (name, event) in events {
            assert_eq!(refusal(w.write(&held, event).await), Refusal::Ended(state), "{name}");
        }
        assert_eq!(refusal(w.recover(held.id).await), Refusal::Ended(state));
        assert_eq!(refusal(w.renew(&held).await), Refusal::Stale);
        w.sweep().await;
        w.nothing_to_claim(held.project()).await;
        assert_eq!(w.snapshot(held.id).await, before);
    }
}

/// The same task, recovered from `dead` and claimed by another worker: fence 3.
async fn reclaimed(w: &World, dead: ClaimedTask) -> ClaimedTask {
    w.let_leases_expire();
    w.recover(dead.id).await.expect("the holder is dead");
    let current = w.claim_as(dead.project(), &Runner::named("w2")).await;
    assert_eq!((current.id, current.holder.fence), (dead.id, Fence(3)));
    current
}

/// Asserts that `stale` may not write anything about the task of `current`, and that
/// trying leaves nothing behind: no state, event, diff, audit event or entry.
async fn refused_without_a_trace(w: &World, current: &ClaimedTask, stale: &ClaimedTask) {
    stay_alive(w, current).await;
    w.send_outbox().await;
    stay_alive(w, current).await;
    refuses_every_write(w, current, stale).await;
    assert_eq!(w.send_outbox().await, vec![], "a refused write wakes no runner");
}

async fn refuses_every_write(w: &World, current: &ClaimedTask, stale: &ClaimedTask) {
    let before = w.snapshot(current.id).await;
    let events = [stale.event(7, w.now())];
    let mut writes = stale.writes_while_running(w.now());
    writes.extend(stale.writes_while_pushing(w.now()));
    for (name, event) in writes {
        let record = Record {
            events: events.to_vec(),
            diff: Some("a stale diff".to_owned()),
            ..Record::default()
        };
        let answer = w.advance(stale.id, event, record, &stale.by).await;
        assert_eq!(refusal(answer), Refusal::Stale, "{name}");
    }
    let answer = w.renew_with(stale, &events, Some(Usage { turns: 9, ..Usage::default() })).await;
    assert_eq!(refusal(answer), Refusal::Stale, "renew");
    assert_eq!(w.snapshot(current.id).await, before);
}

/// Renews the lease of a task that its holder has not lost.
async fn stay_alive(w: &World, held: &ClaimedTask) {
    let lease = w.read(held.id).await.lease;
    if lease
        .is_some_and(|lease| lease.fence == held.holder.fence && lease.owner == held.holder.owner)
    {
        w.renew(held).await.expect("a holder may renew");
    }
}
