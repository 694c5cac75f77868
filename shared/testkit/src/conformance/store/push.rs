//! Steps 5 and 6: prepare, finish, complete, and the exits of a push.

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::Tip;
use rdev_domain::ids::Fence;
use rdev_domain::ports::{Claim, Record};
use rdev_domain::result::{Outcome, TaskResult};
use rdev_domain::step::{Event, MAX_PUSH_ATTEMPTS, Refusal};
use rdev_domain::task::{Task, TaskState};

use super::cases;
use super::world::{ClaimedTask, HOUR, MINUTE, Runner, World, commit, refusal, result};

cases! {
    prepare_keeps_the_commit_and_the_scan_base;
    prepare_whose_answer_was_lost_can_be_repeated;
    prepare_of_another_commit_is_refused_while_pushing;
    the_scan_base_is_never_changed;
    a_completed_push_frees_the_slot;
    work_with_nothing_to_push_finishes;
    a_check_finishes;
    a_task_that_pushes_cannot_finish_and_one_that_runs_cannot_complete;
    a_conflict_sends_the_task_back_to_the_agent;
    a_conflict_in_the_last_attempt_fails;
    a_verify_that_fails_after_a_rebase_is_a_conflict;
    a_conflict_found_before_prepare_raises_the_wip_floor;
    a_refused_push_fails;
    a_rewritten_history_fails;
    a_push_to_an_unreachable_server_is_postponed;
    a_push_is_given_up_after_ten_tries;
    a_push_is_given_up_after_two_hours;
    a_push_in_doubt_says_so;
    a_released_push_is_claimed_at_once;
    a_push_whose_work_is_gone_starts_again;
}

async fn prepare_keeps_the_commit_and_the_scan_base(w: World) {
    let held = w.running().await;
    let base = Tip::Commit(commit(77));
    let after = w.write(&held, held.prepare_on(&base, w.now())).await.expect("a holder prepares");
    assert_eq!(after.task.state, TaskState::Pushing);
    let lease = after.lease.as_ref().expect("its holder keeps it");
    assert_eq!(lease.owner, held.holder.owner);
    let record = w.read(held.id).await;
    assert_eq!(record.task, after.task);
    let prepared = record.task.prepared.expect("it was prepared");
    assert_eq!((prepared.base.clone(), prepared.at), (base.clone(), w.now()));
    assert_eq!((prepared.wip.task, prepared.wip.fence), (held.id, Fence(1)));
    assert_eq!(record.task.scan_base, Some(base));
    w.renew(&held).await.expect("a pusher renews as well");
}

async fn prepare_whose_answer_was_lost_can_be_repeated(w: World) {
    let held = w.running().await;
    let event = held.prepare(w.now());
    let first = w.write(&held, event.clone()).await.expect("a holder may prepare");
    let second = w.write(&held, event).await.expect("the same again is no error");
    assert_eq!(second.task, first.task);
    w.complete(&held).await.expect("the holder completes");
}

async fn prepare_of_another_commit_is_refused_while_pushing(w: World) {
    let held = w.pushing().await;
    let Event::Prepare { holder, mut prepared, result, usage } = held.prepare(w.now()) else {
        panic!("it is a prepare")
    };
    prepared.commit = commit(4242);
    let before = w.snapshot(held.id).await;
    let answer = w.write(&held, Event::Prepare { holder, prepared, result, usage }).await;
    assert_eq!(refusal(answer), Refusal::WrongState(TaskState::Pushing));
    assert_eq!(w.snapshot(held.id).await, before);
}

async fn the_scan_base_is_never_changed(w: World) {
    let held = w.running().await;
    let first = Tip::Absent;
    w.write(&held, held.prepare_on(&first, w.now())).await.expect("a holder may prepare");
    w.fail(&held, FailureClass::Conflict).await.expect("the branch has moved");
    let again = w.claim(held.project()).await;
    let moved = Tip::Commit(commit(9));
    let after = w.write(&again, again.prepare_on(&moved, w.now())).await;
    let task = after.expect("the new holder prepares").task;
    assert_eq!(task.prepared.expect("it was prepared").base, moved);
    assert_eq!(task.scan_base, Some(first.clone()));
    assert_eq!(w.read(held.id).await.task.scan_base, Some(first));
}

async fn a_completed_push_frees_the_slot(w: World) {
    let held = w.pushing().await;
    let waiting = w.enqueue(held.project()).await;
    w.pass(MINUTE / 4);
    let after = w.complete(&held).await.expect("a holder may complete");
    assert_eq!((after.task.state, &after.lease), (TaskState::Succeeded, &None));
    let record = w.read(held.id).await;
    assert_eq!((&record.task, record.lease), (&after.task, None));
    assert_eq!(record.task.finished_at, Some(w.now()));
    let result = record.task.result.expect("it has a result");
    let build = result.as_build().expect("of a build");
    assert_eq!((build.outcome, build.commit_sha.clone()), (Outcome::Delivered, Some(commit(2))));
    let again = refusal(w.complete(&held).await);
    assert_eq!(
        again,
        Refusal::Ended(TaskState::Succeeded),
        "its answer was lost, so the refusal says how it ended"
    );
    w.woke("a completed push", &after.outbox, held.project()).await;
    assert_eq!(w.claim(held.project()).await.id, waiting.id);
}

async fn work_with_nothing_to_push_finishes(w: World) {
    for outcome in [Outcome::NoChange, Outcome::DiffOnly, Outcome::CommittedNotPushed] {
        let held = w.running().await;
        let result = TaskResult::Build(result(outcome));
        let holder = held.holder.clone();
        let usage = rdev_domain::result::Usage { turns: 4, ..Default::default() };
        let finish = Event::Finish { holder, result, usage };
        let after = w.write(&held, finish).await.expect("a holder may finish");
        assert_eq!(after.task.state, TaskState::Succeeded);
        let record = w.read(held.id).await;
        assert_eq!((&record.task, record.lease), (&after.task, None));
        let build = record.task.result.expect("it has a result");
        let build = build.as_build().expect("of a build").clone();
        assert_eq!((build.outcome, build.usage.turns), (outcome, 4));
        w.woke("a finished task", &after.outbox, held.project()).await;
    }
}

async fn a_check_finishes(w: World) {
    let project = w.project().await;
    w.enqueue_task(w.new_check(&project)).await;
    let held = w.claim(&project).await;
    let run = rdev_domain::result::CommandRun {
        command: "true".to_owned(),
        exit_code: Some(0),
        duration_ms: 3,
        output: "fine\n".to_owned(),
    };
    let checked = rdev_domain::result::CheckResult { commit_sha: commit(3), commands: vec![run] };
    let result = TaskResult::Check(checked);
    let holder = held.holder.clone();
    let finish = Event::Finish { holder, result: result.clone(), usage: Default::default() };
    w.write(&held, finish).await.expect("a holder may finish");
    assert_eq!(w.read(held.id).await.task.result, Some(result));
}

async fn a_task_that_pushes_cannot_finish_and_one_that_runs_cannot_complete(w: World) {
    let pushing = w.pushing().await;
    let answer = w.finish(&pushing).await;
    assert_eq!(refusal(answer), Refusal::WrongState(TaskState::Pushing));
    let running = w.running().await;
    let answer = w.complete(&running).await;
    assert_eq!(refusal(answer), Refusal::WrongState(TaskState::Running));
    let answer = w.restart(&running).await;
    assert_eq!(refusal(answer), Refusal::WrongState(TaskState::Running));
    w.complete(&pushing).await.expect("the pusher completes");
    w.finish(&running).await.expect("the runner finishes");
}

async fn a_conflict_sends_the_task_back_to_the_agent(w: World) {
    let held = w.pushing().await;
    let after = w.fail(&held, FailureClass::Conflict).await.expect("the branch has moved");
    assert_eq!((after.task.state, &after.lease), (TaskState::Queued, &None));
    assert_eq!(after.task.wip_floor, held.holder.fence, "that work is not delivered any more");
    assert_eq!(after.task.prepared, None);
    assert_eq!(after.task.available_at, w.now());
    w.woke("a conflict", &after.outbox, held.project()).await;
    let again = w.claim(held.project()).await;
    let task = again.claimed.task;
    assert_eq!((task.state, task.attempt), (TaskState::Running, 2), "an attempt is spent");
    assert_eq!(task.scan_base, Some(Tip::Commit(commit(1))));
    assert_eq!(task.wip_floor, Fence(1));
}

async fn a_conflict_in_the_last_attempt_fails(w: World) {
    let held = w.running_for_the_last_time().await;
    w.prepare(&held).await.expect("a holder may prepare");
    let after = w.fail(&held, FailureClass::Conflict).await.expect("the branch has moved");
    assert_failed(&w, &held, &after.task, FailureClass::Conflict).await;
    w.woke("a failed task", &after.outbox, held.project()).await;
}

async fn a_verify_that_fails_after_a_rebase_is_a_conflict(w: World) {
    let held = w.pushing().await;
    let after = w.fail(&held, FailureClass::VerifyFailed).await.expect("it no longer holds");
    assert_eq!(after.task.state, TaskState::Queued);
    assert_eq!(after.task.failure.map(|f| f.class), Some(FailureClass::Conflict));
    assert_eq!(after.task.wip_floor, held.holder.fence);
}

async fn a_conflict_found_before_prepare_raises_the_wip_floor(w: World) {
    let held = w.running().await;
    let after = w.fail(&held, FailureClass::Conflict).await.expect("the branch has moved");
    assert_eq!((after.task.state, after.task.attempt), (TaskState::Queued, 1));
    assert_eq!(after.task.wip_floor, held.holder.fence);
    assert_eq!(w.claim(held.project()).await.claimed.task.attempt, 2);
}

async fn a_refused_push_fails(w: World) {
    for class in [FailureClass::PushRejected, FailureClass::Auth] {
        let held = w.pushing().await;
        let after = w.fail(&held, class).await.expect("a definite refusal");
        assert_failed(&w, &held, &after.task, class).await;
        assert!(after.task.prepared.is_some(), "its work can be found by a retry");
        w.woke("a failed task", &after.outbox, held.project()).await;
    }
}

async fn a_rewritten_history_fails(w: World) {
    let held = w.pushing().await;
    let after = w.fail(&held, FailureClass::HistoryRewritten).await.expect("its base is gone");
    assert_failed(&w, &held, &after.task, FailureClass::HistoryRewritten).await;
}

async fn a_push_to_an_unreachable_server_is_postponed(w: World) {
    let held = w.pushing().await;
    let waiting = w.enqueue(held.project()).await;
    let after = w.fail(&held, FailureClass::Infra).await.expect("the server is away");
    assert_eq!((after.task.state, &after.lease), (TaskState::Pushing, &None));
    let wait = after.task.available_at.since(w.now());
    assert!(wait >= MINUTE * 2 / 5 && wait <= MINUTE * 3 / 5, "30 s and a fifth: {wait:?}");
    let due = after.outbox.iter().map(|entry| entry.send_at).max();
    assert_eq!(due, Some(after.task.available_at), "a wake-up is sent for it");
    w.woke("a postponed push", &after.outbox, held.project()).await;
    w.pass(after.task.available_at.since(w.now()));
    assert_eq!(w.claim(held.project()).await.id, held.id);
    assert_eq!(w.state(waiting.id).await, TaskState::Queued);
}

async fn a_push_is_given_up_after_ten_tries(w: World) {
    let mut held = w.pushing().await;
    for round in 1..=MAX_PUSH_ATTEMPTS {
        let after = w.fail(&held, FailureClass::Infra).await.expect("the server is away");
        assert_eq!(after.task.state, TaskState::Pushing, "try {round}");
        w.pass(after.task.available_at.since(w.now()));
        held = w.claim(held.project()).await;
        assert_eq!(held.claimed.task.push_attempt, round);
    }
    let after = w.fail(&held, FailureClass::Infra).await.expect("the server is away");
    assert_failed(&w, &held, &after.task, FailureClass::Infra).await;
    assert!(after.task.prepared.is_some(), "its work can be found by a retry");
}

async fn a_push_is_given_up_after_two_hours(w: World) {
    let held = w.pushing().await;
    w.pass(2 * HOUR);
    let after = w.fail(&held, FailureClass::RateLimited).await.expect("the server is away");
    assert_failed(&w, &held, &after.task, FailureClass::Infra).await;
}

async fn a_push_in_doubt_says_so(w: World) {
    let held = w.pushing().await;
    let failure = Failure {
        push_in_doubt: true,
        ..Failure::new(FailureClass::PushRejected, "the answer was cut off")
    };
    w.write(&held, held.fail_with(failure.clone())).await.expect("a holder may fail");
    assert_eq!(w.read(held.id).await.task.failure, Some(failure));
}

async fn a_released_push_is_claimed_at_once(w: World) {
    let held = w.pushing().await;
    let after = w.release(&held).await.expect("a holder may release");
    assert_eq!((after.task.state, &after.lease), (TaskState::Pushing, &None));
    w.woke("a released push", &after.outbox, held.project()).await;
    let again = w.claim_as(held.project(), &Runner::named("w2")).await;
    assert_eq!((again.claimed.task.state, again.holder.fence), (TaskState::Pushing, Fence(2)));
    let other = w.try_claim(held.project(), &Runner::named("w3")).await;
    assert_eq!(other, Claim::Nothing);
}

async fn a_push_whose_work_is_gone_starts_again(w: World) {
    let held = w.pushing().await;
    let record = Record { diff: Some("what was to be pushed".to_owned()), ..Record::default() };
    let after = w.advance(held.id, held.restart(), record, &held.by).await;
    let task = after.expect("a holder may restart").task;
    assert_eq!((task.state, &task.prepared), (TaskState::Queued, &None));
    let again = w.claim(held.project()).await;
    assert_eq!((again.claimed.task.state, again.claimed.task.attempt), (TaskState::Running, 2));
    assert_eq!(again.claimed.task.scan_base, Some(Tip::Commit(commit(1))));

    let last = w.running_for_the_last_time().await;
    w.prepare(&last).await.expect("a holder may prepare");
    let after = w.restart(&last).await.expect("a holder may restart");
    assert_failed(&w, &last, &after.task, FailureClass::Infra).await;
}

/// Asserts that the task failed with this class, and that its slot is free.
async fn assert_failed(w: &World, held: &ClaimedTask, task: &Task, class: FailureClass) {
    assert_eq!(task.state, TaskState::Failed);
    assert_eq!(task.failure.as_ref().map(|failure| failure.class), Some(class));
    assert_eq!((task.finished_at, &task.result), (Some(w.now()), &None));
    let record = w.read(held.id).await;
    assert_eq!((&record.task, record.lease), (task, None));
    w.nothing_to_claim(held.project()).await;
    assert_eq!(w.leases(held.project()).await, 0);
}
