//! Step 8: what each failure class makes of a task, and retries on the same lineage.

use std::time::Duration;

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{OwnRef, RecordedRef, Tip};
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::page::Page;
use rdev_domain::ports::{Conflict, Enqueued, PortError, PortResult};
use rdev_domain::project::Deletion;
use rdev_domain::step::{self, Refusal};
use rdev_domain::task::{Task, TaskState, WipRef};

use super::cases;
use super::race::{race, settled};
use super::world::{ClaimedTask, HOUR, MINUTE, SECOND, World, commit, conflict, key_actor};

cases! {
    a_transient_failure_is_retried_after_a_backoff;
    the_last_attempt_is_the_last;
    a_retry_waits_for_the_time_that_the_provider_names;
    an_exhausted_quota_parks_and_gives_the_attempt_back;
    a_quota_without_a_reset_time_parks_for_a_quarter_of_an_hour;
    a_stalled_agent_is_retried_once;
    a_permanent_failure_ends_the_task;
    a_released_task_gets_its_attempt_back;
    a_retry_continues_the_lineage;
    a_retry_of_a_refused_push_resumes_from_its_work;
    a_retry_after_a_rewritten_history_begins_a_lineage;
    a_retry_of_a_retry_keeps_the_first_name;
    a_task_that_has_not_failed_is_not_retried;
    a_retry_enqueued_twice_is_one_task;
    a_task_is_retried_once_and_only_the_newest_of_a_chain_is_retried;
    of_several_retries_at_once_one_is_queued;
    a_retry_of_a_task_that_is_gone_is_not_queued;
    a_second_retry_in_a_project_that_is_being_deleted_hears_of_the_project;
    a_retry_keeps_the_priority_the_attempts_and_the_webhook_of_the_first;
    a_record_keeps_the_latest_fifty_attempts;
    a_restarted_task_does_not_resume_from_earlier_work;
    a_retry_inherits_the_refs_of_its_whole_chain_whatever_its_lineage;
}

async fn a_transient_failure_is_retried_after_a_backoff(w: World) {
    for class in [FailureClass::Infra, FailureClass::RateLimited, FailureClass::AgentFailed] {
        let project = w.project().await;
        w.enqueue_task(Task { max_attempts: 10, ..w.new_task(&project) }).await;
        for (attempt, base_s) in
            [(1, 30), (2, 60), (3, 120), (4, 240), (5, 480), (6, 900), (7, 900)]
        {
            let held = w.claim(&project).await;
            assert_eq!(held.claimed.task.attempt, attempt);
            let after = w.fail(&held, class).await.expect("a holder may fail");
            assert_eq!((after.task.state, &after.lease), (TaskState::Queued, &None));
            assert_eq!(after.task.failure.as_ref().map(|failure| failure.class), Some(class));
            let wait = after.task.available_at.since(w.now());
            let base = Duration::from_secs(base_s);
            assert!(wait >= base * 4 / 5 && wait <= base * 6 / 5, "try {attempt}: {wait:?}");
            w.pass(wait - Duration::from_millis(1));
            w.nothing_to_claim(&project).await;
            w.pass(Duration::from_millis(1));
        }
    }
}

async fn the_last_attempt_is_the_last(w: World) {
    let project = w.project().await;
    let task = w.enqueue(&project).await;
    for attempt in 1..=task.max_attempts {
        let held = w.claim(&project).await;
        let after = w.fail(&held, FailureClass::Infra).await.expect("a holder may fail");
        let last = attempt == task.max_attempts;
        assert_eq!(after.task.state, if last { TaskState::Failed } else { TaskState::Queued });
        w.pass(HOUR);
    }
    w.nothing_to_claim(&project).await;
    let task = w.read(task.id).await.task;
    assert_eq!((task.attempt, task.attempts.len()), (3, 3));
}

async fn a_retry_waits_for_the_time_that_the_provider_names(w: World) {
    let held = w.running().await;
    let retry_at = Some(w.now().plus(HOUR));
    let failure = Failure { retry_at, ..Failure::new(FailureClass::RateLimited, "slow down") };
    let after = w.write(&held, held.fail_with(failure)).await.expect("a holder may fail");
    assert_eq!(Some(after.task.available_at), retry_at);
    assert_eq!(after.task.attempt, 1, "the attempt is spent");
    let due = after.outbox.iter().map(|entry| entry.send_at).max();
    assert_eq!(due, retry_at, "a wake-up is sent for it");
}

async fn an_exhausted_quota_parks_and_gives_the_attempt_back(w: World) {
    let project = w.project().await;
    w.enqueue_task(Task { max_attempts: 1, ..w.new_task(&project) }).await;
    for _ in 0..4 {
        let held = w.claim(&project).await;
        assert_eq!(held.claimed.task.attempt, 1, "no attempt is spent by a quota");
        let retry_at = Some(w.now().plus(5 * HOUR));
        let failure = Failure { retry_at, ..Failure::new(FailureClass::Quota, "used up") };
        let after = w.write(&held, held.fail_with(failure)).await.expect("a holder may fail");
        assert_eq!((after.task.state, &after.lease), (TaskState::Queued, &None));
        assert_eq!((after.task.attempt, Some(after.task.available_at)), (0, retry_at));
        let due = after.outbox.iter().map(|entry| entry.send_at).max();
        assert_eq!(due, retry_at, "a wake-up is sent for it");
        let other = w.enqueue(&project).await;
        let next = w.claim(&project).await;
        assert_eq!(next.id, other.id, "its slot is free while it is parked");
        w.finish(&next).await.expect("a holder may finish");
        w.pass(5 * HOUR - SECOND);
        w.nothing_to_claim(&project).await;
        w.pass(SECOND);
    }
    let held = w.claim(&project).await;
    w.finish(&held).await.expect("a holder may finish");
}

async fn a_quota_without_a_reset_time_parks_for_a_quarter_of_an_hour(w: World) {
    let held = w.running().await;
    let after = w.fail(&held, FailureClass::Quota).await.expect("a holder may fail");
    assert_eq!(after.task.available_at, w.now().plus(15 * MINUTE));
    w.pass(15 * MINUTE);

    let held = w.claim(held.project()).await;
    let retry_at = Some(w.now().minus(HOUR));
    let failure = Failure { retry_at, ..Failure::new(FailureClass::Quota, "used up") };
    let after = w.write(&held, held.fail_with(failure)).await.expect("a holder may fail");
    assert!(after.task.available_at > w.now(), "a reset time in the past makes no hot loop");
}

async fn a_stalled_agent_is_retried_once(w: World) {
    let held = w.running().await;
    let after = w.fail(&held, FailureClass::AgentStalled).await.expect("a holder may fail");
    assert_eq!((after.task.state, after.task.stalls), (TaskState::Queued, 1));
    w.pass(MINUTE);
    let held = w.claim(held.project()).await;
    assert!(held.claimed.task.attempt < held.claimed.task.max_attempts);
    let after = w.fail(&held, FailureClass::AgentStalled).await.expect("a holder may fail");
    assert_eq!(after.task.state, TaskState::Failed);
}

async fn a_permanent_failure_ends_the_task(w: World) {
    for class in [
        FailureClass::Auth,
        FailureClass::VerifyFailed,
        FailureClass::PushRejected,
        FailureClass::HistoryRewritten,
        FailureClass::Invalid,
        FailureClass::Timeout,
        FailureClass::BudgetExceeded,
        FailureClass::Poison,
    ] {
        let held = w.running().await;
        let after = w.fail(&held, class).await.expect("a holder may fail");
        assert_eq!((after.task.state, &after.lease), (TaskState::Failed, &None), "{class:?}");
        let record = w.read(held.id).await;
        assert_eq!((&record.task, record.lease), (&after.task, None));
        assert_eq!(record.task.failure.map(|failure| failure.class), Some(class));
        assert_eq!(record.task.finished_at, Some(w.now()));
        w.nothing_to_claim(held.project()).await;
    }
}

async fn a_released_task_gets_its_attempt_back(w: World) {
    let project = w.project().await;
    w.enqueue_task(Task { max_attempts: 1, ..w.new_task(&project) }).await;
    for round in 1..=3 {
        let held = w.claim(&project).await;
        assert_eq!((held.claimed.task.attempt, held.holder.fence), (1, Fence(round)));
        let after = w.release(&held).await.expect("a holder may release");
        assert_eq!((after.task.state, &after.lease), (TaskState::Queued, &None));
        assert_eq!((after.task.attempt, after.task.available_at), (0, w.now()));
    }
}

async fn a_retry_continues_the_lineage(w: World) {
    let other = w.running().await;
    w.write(&other, other.prepare_on(&Tip::Absent, w.now())).await.expect("a holder may prepare");
    w.fail(&other, FailureClass::Conflict).await.expect("the branch has moved");
    w.cancel(other.id).await.expect("a queued task can be cancelled");

    w.pass(HOUR);
    let retry = retried(&w, other.id).await;
    assert_eq!((retry.lineage, retry.retry_of), (other.id, Some(other.id)));
    assert_eq!((retry.attempt, retry.fence, retry.wip_floor), (0, Fence(0), Fence(0)));
    assert_eq!(retry.scan_base, Some(Tip::Absent), "a late push of the first is still found");
    assert_eq!(retry.resume_from, None);
    let again = w.claim(other.project()).await;
    assert_eq!(again.id, retry.id);
    let moved = Tip::Commit(commit(5));
    w.write(&again, again.prepare_on(&moved, w.now())).await.expect("a holder may prepare");
    assert_eq!(w.read(retry.id).await.task.scan_base, Some(Tip::Absent), "and never changed");

    let old = w.read(other.id).await.task;
    assert_eq!(old.retried_as, Some(retry.id));
    assert_eq!(old.state, TaskState::Cancelled);
}

async fn a_retry_of_a_refused_push_resumes_from_its_work(w: World) {
    let held = w.pushing().await;
    w.fail(&held, FailureClass::PushRejected).await.expect("a definite refusal");
    let retry = retried(&w, held.id).await;
    let wip = WipRef { task: held.id, fence: held.holder.fence };
    assert_eq!(retry.resume_from, Some(wip));
    assert_eq!(retry.scan_base, Some(Tip::Commit(commit(1))));
    let again = w.claim(held.project()).await;
    assert_eq!((again.id, again.claimed.task.resume_from), (retry.id, Some(wip)));
    w.fail(&again, FailureClass::Auth).await.expect("the token was refused");
    assert_eq!(retried(&w, retry.id).await.resume_from, Some(wip), "it was not pushed yet");
}

async fn a_retry_after_a_rewritten_history_begins_a_lineage(w: World) {
    let held = w.pushing().await;
    w.fail(&held, FailureClass::HistoryRewritten).await.expect("its base is gone");
    let retry = retried(&w, held.id).await;
    assert_eq!((retry.lineage, retry.retry_of), (retry.id, Some(held.id)));
    assert_eq!((retry.scan_base, retry.resume_from), (None, None));
    assert_eq!(w.read(held.id).await.task.retried_as, Some(retry.id));
}

async fn a_retry_of_a_retry_keeps_the_first_name(w: World) {
    let held = w.running().await;
    w.fail(&held, FailureClass::Invalid).await.expect("a holder may fail");
    let (mut last, first) = (held.id, held.id);
    for _ in 0..3 {
        let retry = retried(&w, last).await;
        assert_eq!((retry.lineage, retry.retry_of), (first, Some(last)));
        let again = w.claim(held.project()).await;
        w.fail(&again, FailureClass::Invalid).await.expect("a holder may fail");
        last = retry.id;
    }
}

async fn a_task_that_has_not_failed_is_not_retried(w: World) {
    let held = w.running().await;
    w.finish(&held).await.expect("a holder may finish");
    let other = w.running().await;
    for (held, state) in [(held, TaskState::Succeeded), (other, TaskState::Running)] {
        let task = w.read(held.id).await.task;
        let retry = step::retry(&task, TaskId(w.ulid()), w.now());
        assert_eq!(retry, Err(Refusal::NotRetryable(state)));
    }
}

async fn a_retry_enqueued_twice_is_one_task(w: World) {
    let held: ClaimedTask = w.running().await;
    w.fail(&held, FailureClass::Invalid).await.expect("a holder may fail");
    let old = w.read(held.id).await.task;
    let retry = step::retry(&old, TaskId(w.ulid()), w.now()).expect("it failed");
    let first = w.store.enqueue(&retry, &key_actor(), w.now()).await.expect("it is accepted");
    assert_eq!(first.outbox.len(), 1);
    let second = w.store.enqueue(&retry, &key_actor(), w.now()).await.expect("the same again");
    assert_eq!((second.task, second.outbox.len()), (first.task, 0));
    assert_eq!(w.all_tasks(held.project()).await.len(), 2);
}

async fn a_second_retry_in_a_project_that_is_being_deleted_hears_of_the_project(w: World) {
    let project = w.project().await;
    let old = w.enqueue(&project).await;
    w.cancel(old.id).await.expect("a queued task can be cancelled");
    w.enqueue_task(Task { retry_of: Some(old.id), ..w.new_task(&project) }).await;
    let (keep, by) = (Deletion::KeepRepository, key_actor());
    let deleting = w.store.begin_delete_project(&project, keep, None, &by, w.now()).await;
    deleting.expect("nothing runs");
    let second = Task { retry_of: Some(old.id), ..w.new_task(&project) };
    let answer = w.store.enqueue(&second, &key_actor(), w.now()).await;
    assert_eq!(conflict(answer), Conflict::ProjectNotReady);
}

async fn a_retry_keeps_the_priority_the_attempts_and_the_webhook_of_the_first(w: World) {
    let project = w.project().await;
    let priority = 9.try_into().expect("a priority");
    let first = Task { priority, max_attempts: 2, notify: true, ..w.new_task(&project) };
    let first = w.enqueue_task(first).await;
    let held = w.claim(&project).await;
    w.fail(&held, FailureClass::Invalid).await.expect("a holder may fail");
    let normal = w.enqueue(&project).await;
    assert!(normal.priority < priority);
    let retry = retried(&w, first.id).await;
    let record = w.read(retry.id).await.task;
    assert_eq!((record.priority, record.max_attempts, record.notify), (priority, 2, true));

    // Its priority is that of its queue entry too, and both its attempts are tried.
    for state in [TaskState::Queued, TaskState::Failed] {
        let held = w.claim(&project).await;
        assert_eq!(held.id, retry.id, "it is more urgent than {}", normal.id);
        let after = w.fail(&held, FailureClass::Infra).await.expect("a holder may fail");
        assert_eq!(after.task.state, state);
        w.pass(HOUR);
    }
    let page = Page { limit: 100, before: None };
    let deliveries = w.store.deliveries(&project, &page).await.expect("deliveries").items;
    let tasks: Vec<TaskId> = deliveries.iter().map(|delivery| delivery.task_id).collect();
    assert_eq!(tasks, [retry.id, first.id], "the webhook gets the end of each");
}

async fn a_record_keeps_the_latest_fifty_attempts(w: World) {
    let project = w.project().await;
    let task = w.enqueue(&project).await;
    for claim in 1..=52 {
        let held = w.claim(&project).await;
        assert_eq!(held.claimed.task.attempts.len(), claim.min(50), "claim {claim}");
        w.release(&held).await.expect("a holder may release");
    }
    let attempts = w.read(task.id).await.task.attempts;
    let fences: Vec<u64> = attempts.iter().map(|attempt| attempt.fence.0).collect();
    assert_eq!(fences, (3..=52).collect::<Vec<u64>>());
}

async fn a_restarted_task_does_not_resume_from_earlier_work(w: World) {
    let held = w.pushing().await;
    w.fail(&held, FailureClass::PushRejected).await.expect("a definite refusal");
    let retry = retried(&w, held.id).await;
    assert!(retry.resume_from.is_some(), "it has work to resume from");
    let again = w.claim(held.project()).await;
    assert_eq!(again.id, retry.id);
    w.prepare(&again).await.expect("a holder may prepare");
    // Its commit is neither on the branch nor at its wip ref: the work is gone.
    w.restart(&again).await.expect("a holder may restart");
    assert_eq!(w.read(retry.id).await.task.resume_from, None);
    let anew = w.claim(held.project()).await;
    assert_eq!((anew.id, anew.claimed.task.resume_from), (retry.id, None));
}

async fn a_task_is_retried_once_and_only_the_newest_of_a_chain_is_retried(w: World) {
    // Whether the retry keeps the lineage or begins one.
    for class in [FailureClass::Invalid, FailureClass::HistoryRewritten] {
        let held = w.pushing().await;
        w.fail(&held, class).await.expect("a holder may fail");
        let old = w.read(held.id).await.task;
        let second = retried(&w, held.id).await;
        let again = step::retry(&old, TaskId(w.ulid()), w.now()).expect("it failed");
        for task in [&again, &Task { lineage: again.id, scan_base: None, ..again.clone() }] {
            let refused = w.store.enqueue(task, &key_actor(), w.now()).await;
            assert!(retried_already(&refused, second.id), "{class:?}: {refused:?}");
        }
        assert_eq!(w.all_tasks(held.project()).await.len(), 2, "nothing was queued");
        assert_eq!(w.read(held.id).await.task.retried_as, Some(second.id));

        w.cancel(second.id).await.expect("a queued task can be cancelled");
        let third = retried(&w, second.id).await;
        let refused = w.store.enqueue(&again, &key_actor(), w.now()).await;
        assert!(retried_already(&refused, second.id), "{class:?}: {refused:?}");
        assert_eq!(w.read(second.id).await.task.retried_as, Some(third.id));
    }
}

async fn of_several_retries_at_once_one_is_queued(w: World) {
    for _ in 0..5 {
        let held = w.running().await;
        w.fail(&held, FailureClass::Invalid).await.expect("a holder may fail");
        let old = w.read(held.id).await.task;
        let store = w.store.clone();
        let retries: Vec<_> = (0..4)
            .map(|_| step::retry(&old, TaskId(w.ulid()), w.now()).expect("it failed"))
            .collect();
        let now = w.now();
        let answers = race(retries.len(), |racer| {
            let (store, retry) = (store.clone(), retries[racer].clone());
            async move {
                let by = key_actor();
                settled(|| store.enqueue(&retry, &by, now)).await
            }
        })
        .await;
        let queued: Vec<TaskId> = answers.iter().flatten().map(|queued| queued.task.id).collect();
        let [winner] = queued[..] else { panic!("not one of them is queued: {answers:?}") };
        for answer in answers.iter().filter(|answer| answer.is_err()) {
            assert!(retried_already(answer, winner), "{answer:?}");
        }
        assert_eq!(w.read(held.id).await.task.retried_as, Some(winner));
        assert_eq!(w.all_tasks(held.project()).await.len(), 2);
    }
}

async fn a_retry_of_a_task_that_is_gone_is_not_queued(w: World) {
    let held = w.running().await;
    w.fail(&held, FailureClass::Invalid).await.expect("a holder may fail");
    let old = w.read(held.id).await.task;
    let mut retry = step::retry(&old, TaskId(w.ulid()), w.now()).expect("it failed");
    // Nobody can tell whether it was retried before.
    retry.retry_of = Some(TaskId(w.ulid()));
    let refused = w.store.enqueue(&retry, &key_actor(), w.now()).await;
    assert!(matches!(refused, Err(PortError::NotFound { .. })), "{refused:?}");
    assert_eq!(w.all_tasks(held.project()).await.len(), 1);
}

fn retried_already(answer: &PortResult<Enqueued>, by: TaskId) -> bool {
    matches!(answer, Err(PortError::Refused(Refusal::RetriedAlready(next))) if *next == by)
}

/// The retry of a task, enqueued.
async fn retried(w: &World, id: TaskId) -> Task {
    let old = w.read(id).await.task;
    let retry = step::retry(&old, TaskId(w.ulid()), w.now()).expect("it can be retried");
    let enqueued = w.store.enqueue(&retry, &key_actor(), w.now()).await.expect("it is accepted");
    w.woke("a retry", &enqueued.outbox, &old.project_id).await;
    assert_eq!(w.read(id).await.task.retried_as, Some(enqueued.task.id));
    enqueued.task
}

async fn a_retry_inherits_the_refs_of_its_whole_chain_whatever_its_lineage(w: World) {
    for class in [FailureClass::PushRejected, FailureClass::HistoryRewritten] {
        let held = w.running().await;
        let mut refs = vec![RecordedRef::of(OwnRef::Wip(held.id, held.holder.fence), commit(8))];
        w.record_refs(&held, &refs).await.expect("a holder may renew");
        w.write(&held, held.prepare(w.now())).await.expect("it may push");
        refs[0].may_land = true;
        let failed = w.fail(&held, class).await.expect("a holder may fail").task;
        assert_eq!(failed.state, TaskState::Failed);

        // A retry that is cancelled while it is queued hides none.
        let first = step::retry(&failed, TaskId(w.ulid()), w.now()).expect("it may be retried");
        let first = w.enqueue_task(first).await;
        let cancelled = w.cancel(first.id).await.expect("it is queued").task;
        assert_eq!((cancelled.state, &cancelled.own_refs), (TaskState::Cancelled, &refs));
        let second = step::retry(&cancelled, TaskId(w.ulid()), w.now()).expect("it may be retried");
        let second = w.enqueue_task(second).await;
        assert_eq!(w.read(second.id).await.task.own_refs, refs);
    }
}
