//! Commit statuses: the final word on a build's commit is due from the transaction that makes it
//! true until the forge has taken it, and one sender at a time tells it.

use rdev_domain::commit_status::{LONGEST_TRY, Shown, ShownStatus};
use rdev_domain::failure::FailureClass;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{Advanced, CommitState, PortError, PortResult, Record};
use rdev_domain::record::{Format, VERSION};
use rdev_domain::result::{Outcome, TaskResult, Usage};
use rdev_domain::step::{self, Event, MAX_PUSH_ATTEMPTS};
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;

use super::cases;
use super::world::{
    ClaimedTask, DAY, HOUR, SECOND, World, commit, key_actor, race, race_two, result,
};

cases! {
    the_commit_of_a_delivered_build_has_its_success_due;
    a_commit_that_was_landed_by_an_earlier_attempt_has_its_success_due;
    the_commit_of_a_push_that_ends_without_landing_has_its_failure_due;
    the_failure_of_an_earlier_commit_gives_way_to_the_next_push;
    a_push_that_goes_on_says_nothing_new;
    a_status_whose_holder_died_is_due_at_once;
    where_the_forge_shows_none_nothing_is_recorded;
    what_was_never_pushed_has_no_status;
    statuses_are_due_by_their_time_the_longest_due_first;
    due_statuses_are_limited_to_the_requested_number;
    only_one_sender_gets_a_try;
    a_status_that_has_changed_is_not_overwritten;
    a_retry_and_a_status_that_are_written_at_once_are_both_kept;
    a_holder_and_a_status_that_are_written_at_once_are_both_kept;
    the_status_of_a_task_of_a_newer_format_is_left_to_the_newer_program;
    the_status_of_a_task_that_cannot_be_read_is_not_due;
    a_status_is_a_part_of_no_delivery;
}

async fn the_commit_of_a_delivered_build_has_its_success_due(w: World) {
    let held = w.running().await;
    let prepared = shown(tell(&w, &held, held.prepare(w.now())).await);
    let commit_of_push = commit(1000 + held.holder.fence.0);
    assert_eq!((prepared.state, &prepared.commit), (CommitState::Pending, &commit_of_push));
    assert_eq!((prepared.shown, prepared.next_at), (Shown::Pending, None));
    assert_eq!(due(&w, w.now().plus(DAY), 100).await, [], "it is not final");

    w.pass(SECOND);
    let done = shown(tell(&w, &held, held.complete()).await);
    let expected = ShownStatus {
        commit: commit(2),
        state: CommitState::Success,
        description: "delivered".to_owned(),
        shown: Shown::Pending,
        // The holder sends it at once.
        tries: 1,
        next_at: Some(w.now().plus(LONGEST_TRY)),
        error: None,
        since: w.now(),
        updated_at: w.now(),
    };
    assert_eq!(done, expected);
    assert_eq!(w.read(held.id).await.task.commit_status, Some(expected.clone()));
    let record = &w.all_tasks(held.project()).await[0];
    assert_eq!(record.task.commit_status, Some(expected));
    assert_eq!(due(&w, w.now(), 100).await, [], "its holder is at it");
    w.pass(LONGEST_TRY);
    let all = due(&w, w.now(), 100).await;
    assert_eq!(all, [w.read(held.id).await.task]);

    let begun = all[0].commit_status.as_ref().expect("a status").begun(w.now());
    let begun = replace(&w, &all[0], &begun).await;
    let taken = begun.commit_status.as_ref().expect("a status").ended(&Ok(()), w.now());
    let taken = replace(&w, &begun, &taken).await;
    assert_eq!(w.read(held.id).await.task, taken);
    assert_eq!(due(&w, w.now().plus(DAY), 100).await, []);
}

async fn a_commit_that_was_landed_by_an_earlier_attempt_has_its_success_due(w: World) {
    let held = w.running().await;
    let result = TaskResult::Build(result(Outcome::Delivered));
    let holder = held.holder.clone();
    let finish = Event::Finish { holder, result, usage: Usage::default() };
    let done = shown(tell(&w, &held, finish).await);
    assert_eq!((done.state, done.commit, done.tries), (CommitState::Success, commit(2), 1));
}

async fn the_commit_of_a_push_that_ends_without_landing_has_its_failure_due(w: World) {
    for (class, state) in [
        (FailureClass::PushRejected, TaskState::Failed),
        (FailureClass::Conflict, TaskState::Queued),
    ] {
        let held = pushing(&w).await;
        w.pass(SECOND);
        let ended = tell(&w, &held, held.fail(class)).await.expect("a holder may fail");
        assert_eq!(ended.task.state, state);
        let status = ended.task.commit_status.clone().expect("a status");
        assert_eq!((status.state, status.tries), (CommitState::Failure, 1));
        assert_eq!(status.commit, commit(1000 + held.holder.fence.0), "that was pending");
        assert_eq!(status.description, class.as_str());
        assert_eq!(due(&w, w.now().plus(LONGEST_TRY), 1).await, [ended.task]);
        let taken = status.ended(&Ok(()), w.now());
        replace(&w, &w.read(held.id).await.task, &taken).await;
    }
    // The same change came to the branch from somebody else.
    let held = pushing(&w).await;
    let (holder, result) = (held.holder.clone(), result(Outcome::NoChange));
    let done = shown(tell(&w, &held, Event::Complete { holder, result }).await);
    let commit = commit(1000 + held.holder.fence.0);
    assert_eq!((done.state, done.commit), (CommitState::Success, commit));
}

async fn the_failure_of_an_earlier_commit_gives_way_to_the_next_push(w: World) {
    let held = pushing(&w).await;
    let failed = shown(tell(&w, &held, held.fail(FailureClass::Conflict)).await);
    let again = w.claim(held.project()).await;
    assert_eq!(again.claimed.task.commit_status, Some(failed.clone()));
    assert_eq!(w.read(held.id).await.task.commit_status, Some(failed), "a claim says nothing");
    let pending = shown(tell(&w, &again, again.prepare(w.now())).await);
    assert_eq!(pending.commit, commit(1000 + again.holder.fence.0));
    assert_eq!((pending.state, pending.next_at), (CommitState::Pending, None));
    assert_eq!(due(&w, w.now().plus(DAY), 100).await, []);
}

async fn a_push_that_goes_on_says_nothing_new(w: World) {
    let held = w.running().await;
    let pending = shown(tell(&w, &held, held.prepare(w.now())).await);
    let other = w.clone();
    let same = async |what: &str, held: &ClaimedTask| {
        let there = other.read(held.id).await.task;
        assert_eq!(there.commit_status.as_ref(), Some(&pending), "{what}");
    };
    w.pass(SECOND);
    tell(&w, &held, held.prepare(w.now())).await.expect("its first answer was lost");
    same("prepared again", &held).await;
    tell(&w, &held, held.release()).await.expect("a holder may release");
    same("released", &held).await;
    let held = w.claim(held.project()).await;
    same("claimed", &held).await;
    tell(&w, &held, held.fail(FailureClass::Infra)).await.expect("a holder may fail");
    same("postponed", &held).await;
    w.pass(HOUR);
    let held = w.claim(held.project()).await;
    w.let_leases_expire();
    w.recover(held.id).await.expect("its holder is dead");
    same("recovered", &held).await;
}

async fn a_status_whose_holder_died_is_due_at_once(w: World) {
    let mut held = pushing(&w).await;
    let commit = commit(1000 + held.holder.fence.0);
    for _ in 0..MAX_PUSH_ATTEMPTS {
        w.let_leases_expire();
        w.recover(held.id).await.expect("its holder is dead");
        held = w.claim(held.project()).await;
    }
    w.let_leases_expire();
    let ended = w.recover(held.id).await.expect("its holder is dead").task;
    assert_eq!(ended.state, TaskState::Failed);
    let status = ended.commit_status.clone().expect("a status");
    assert_eq!((status.state, &status.commit), (CommitState::Failure, &commit));
    assert_eq!((status.tries, status.next_at), (0, Some(w.now())), "nobody sends it yet");
    assert_eq!(due(&w, w.now(), 100).await, [ended]);
}

async fn where_the_forge_shows_none_nothing_is_recorded(w: World) {
    let held = w.pushing().await;
    assert_eq!(w.read(held.id).await.task.commit_status, None);
    w.complete(&held).await.expect("the holder completes");
    assert_eq!(w.read(held.id).await.task.commit_status, None);
    let held = w.pushing().await;
    w.fail(&held, FailureClass::PushRejected).await.expect("a holder may fail");
    assert_eq!(w.read(held.id).await.task.commit_status, None);
    assert_eq!(due(&w, w.now().plus(DAY), 100).await, []);
}

async fn what_was_never_pushed_has_no_status(w: World) {
    let held = w.running().await;
    let done = tell(&w, &held, held.finish()).await.expect("a holder may finish");
    assert_eq!(done.task.commit_status, None);
    for class in [FailureClass::Invalid, FailureClass::Infra, FailureClass::Cancelled] {
        let held = w.running().await;
        let failed = tell(&w, &held, held.fail(class)).await.expect("a holder may fail");
        assert_eq!(failed.task.commit_status, None, "{class:?}");
    }
}

async fn statuses_are_due_by_their_time_the_longest_due_first(w: World) {
    let mut tasks = Vec::new();
    for _ in 0..4 {
        w.pass(SECOND);
        tasks.push(delivered(&w).await);
    }
    let at = |task: &Task| task.commit_status.as_ref().and_then(|status| status.next_at);
    let (first, second) = (at(&tasks[0]).expect("due"), at(&tasks[1]).expect("due"));
    assert_eq!(due(&w, first.minus(SECOND), 100).await, [], "none is due yet");
    assert_eq!(due(&w, second, 100).await, tasks[..2]);
    w.pass(LONGEST_TRY);
    assert_eq!(due(&w, w.now(), 100).await, tasks);

    // The first is tried, and is due again after the others.
    let status = |task: &Task| task.commit_status.clone().expect("a status");
    let begun = replace(&w, &tasks[0], &status(&tasks[0]).begun(w.now())).await;
    assert_eq!(due(&w, w.now(), 100).await, tasks[1..]);
    let busy = Err(PortError::unavailable("the forge", "500"));
    let failed = replace(&w, &begun, &status(&begun).ended(&busy, w.now())).await;
    let next_at = at(&failed).expect("it is tried again");
    let last = [&tasks[1..], std::slice::from_ref(&failed)].concat();
    assert_eq!(due(&w, next_at, 100).await, last);

    // What has ended is never due.
    let gone = Err(PortError::not_found("repository"));
    replace(&w, &tasks[1], &status(&tasks[1]).ended(&Ok(()), w.now())).await;
    replace(&w, &tasks[2], &status(&tasks[2]).ended(&gone, w.now())).await;
    assert_eq!(due(&w, w.now().plus(DAY), 100).await, [tasks[3].clone(), failed]);
}

async fn due_statuses_are_limited_to_the_requested_number(w: World) {
    let mut tasks = Vec::new();
    for _ in 0..5 {
        w.pass(SECOND);
        tasks.push(delivered(&w).await);
    }
    w.pass(LONGEST_TRY);
    for limit in [1, 2, 5, 100] {
        let first = &tasks[..tasks.len().min(limit as usize)];
        assert_eq!(due(&w, w.now(), limit).await, first, "of {limit}");
    }
}

async fn only_one_sender_gets_a_try(w: World) {
    for round in 0..10 {
        let task = delivered(&w).await;
        // They do it in the same millisecond, in the same words.
        let begun = task.commit_status.as_ref().expect("a status").begun(w.now());
        let took = race(6, |_| {
            let (w, task, begun) = (w.clone(), task.clone(), begun.clone());
            async move { update(&w, &task, &begun).await }
        });
        let took: Vec<Task> = took.await.into_iter().flatten().collect();
        assert_eq!(took.len(), 1, "round {round}");
        assert_eq!(w.read(task.id).await.task, took[0]);
        assert_eq!(took[0].commit_status, Some(begun));
    }
}

async fn a_status_that_has_changed_is_not_overwritten(w: World) {
    let task = delivered(&w).await;
    let status = task.commit_status.clone().expect("a status");
    let begun = replace(&w, &task, &status.begun(w.now())).await;
    w.pass(SECOND);
    let other = ShownStatus { tries: 7, ..status.clone() };
    let other = Task { commit_status: Some(other), ..task.clone() };
    let none = Task { commit_status: None, ..task.clone() };
    for stale in [task.clone(), other, none] {
        let dropped = status.dropped("nobody asks any more", w.now());
        assert_eq!(update(&w, &stale, &dropped).await, None, "it is not as {stale:?}");
        assert_eq!(w.read(task.id).await.task, begun);
    }
    let unknown = w.new_task(&task.project_id);
    assert_eq!(update(&w, &unknown, &status).await, None, "there is no such task");
}

async fn a_retry_and_a_status_that_are_written_at_once_are_both_kept(w: World) {
    for round in 0..10 {
        let held = pushing(&w).await;
        let failed = tell(&w, &held, held.fail(FailureClass::PushRejected)).await;
        let failed = failed.expect("a holder may fail").task;
        let retry = step::retry(&failed, rdev_domain::ids::TaskId(w.ulid()), w.now());
        let retry = retry.expect("it may be retried");
        let taken = failed.commit_status.as_ref().expect("a status").ended(&Ok(()), w.now());
        let (one, new, other, old, word) =
            (w.clone(), retry.clone(), w.clone(), failed.clone(), taken.clone());
        let (queued, updated) = race_two(
            async move { one.store.enqueue(&new, &key_actor(), one.now()).await },
            async move { update(&other, &old, &word).await },
        )
        .await;
        queued.expect("it is queued");
        assert!(updated.is_some(), "round {round}: the status was still the same");
        let there = w.read(failed.id).await.task;
        assert_eq!(there.retried_as, Some(retry.id), "round {round}");
        assert_eq!(there.commit_status, Some(taken), "round {round}");
        assert_eq!(w.read(retry.id).await.task.commit_status, None, "it has said nothing");
    }
}

async fn a_holder_and_a_status_that_are_written_at_once_are_both_kept(w: World) {
    for round in 0..10 {
        let held = pushing(&w).await;
        tell(&w, &held, held.fail(FailureClass::Conflict)).await.expect("a holder may fail");
        let again = w.claim(held.project()).await;
        let task = w.read(held.id).await.task;
        let taken = task.commit_status.as_ref().expect("a status").ended(&Ok(()), w.now());
        let (one, ending, other, word) = (w.clone(), again.clone(), w.clone(), taken.clone());
        let (ended, updated) =
            race_two(async move { tell(&one, &ending, ending.finish()).await }, async move {
                update(&other, &task, &word).await
            })
            .await;
        ended.expect("a holder may finish");
        assert!(updated.is_some(), "round {round}: the status was still the same");
        let there = w.read(held.id).await.task;
        let found = (there.state, there.commit_status);
        assert_eq!(found, (TaskState::Succeeded, Some(taken)), "round {round}");
    }
}

async fn the_status_of_a_task_of_a_newer_format_is_left_to_the_newer_program(w: World) {
    let newer = w.of_format(Format::of(VERSION + 1));
    let task = delivered(&newer).await;
    w.pass(LONGEST_TRY);
    assert_eq!(due(&w, w.now(), 100).await, []);
    let begun = task.commit_status.as_ref().expect("a status").begun(w.now());
    assert_eq!(update(&w, &task, &begun).await, None);
    assert_eq!(
        due(&newer, w.now(), 100).await,
        std::slice::from_ref(&task),
        "and is still due there"
    );
    replace(&newer, &task, &begun).await;
}

async fn the_status_of_a_task_that_cannot_be_read_is_not_due(w: World) {
    let (broken, task) = (delivered(&w).await, delivered(&w).await);
    w.corrupt(broken.id).await;
    w.pass(LONGEST_TRY);
    // Who meets the broken one first may find nothing beside it.
    let first = due(&w, w.now(), 1).await;
    assert!(first.is_empty() || first == std::slice::from_ref(&task), "{first:?}");
    let next = due(&w, w.now(), 1).await;
    assert_eq!(next, std::slice::from_ref(&task), "nothing stands before it for long");
    let begun = broken.commit_status.as_ref().expect("a status").begun(w.now());
    assert_eq!(update(&w, &broken, &begun).await, None);
}

async fn a_status_is_a_part_of_no_delivery(w: World) {
    let task = delivered(&w).await;
    let page = rdev_domain::page::Page { limit: 100, before: None };
    let listed = w.store.deliveries(&task.project_id, &page).await.expect("a page");
    assert_eq!(listed.items, []);
    let later = w.now().plus(DAY);
    assert_eq!(w.store.due_deliveries(later, 100).await.expect("an answer"), []);
}

/// What a holder reports whose forge shows statuses.
async fn tell(w: &World, held: &ClaimedTask, event: Event) -> PortResult<Advanced> {
    let record = Record { shows_status: true, ..Record::default() };
    w.advance(held.id, event, record, &held.by).await
}

fn shown(advanced: PortResult<Advanced>) -> ShownStatus {
    advanced.expect("a holder may report").task.commit_status.expect("a status")
}

/// A new project whose only task pushes, to a forge that shows statuses.
async fn pushing(w: &World) -> ClaimedTask {
    let held = w.running().await;
    tell(w, &held, held.prepare(w.now())).await.expect("a holder may prepare");
    held
}

/// A build of a project of its own, delivered just now.
async fn delivered(w: &World) -> Task {
    let project: ProjectId = w.project().await;
    w.enqueue(&project).await;
    let held = w.claim(&project).await;
    tell(w, &held, held.prepare(w.now())).await.expect("a holder may prepare");
    tell(w, &held, held.complete()).await.expect("a holder may complete").task
}

async fn due(w: &World, now: Timestamp, limit: u32) -> Vec<Task> {
    w.store.due_statuses(now, limit).await.expect("an answer")
}

async fn update(w: &World, before: &Task, after: &ShownStatus) -> Option<Task> {
    for _ in 0..50 {
        match w.store.update_status(before, after).await {
            Err(PortError::Conflict(rdev_domain::ports::Conflict::Contended)) => {}
            answer => return answer.expect("an answer"),
        }
    }
    panic!("it is contended for ever")
}

async fn replace(w: &World, before: &Task, after: &ShownStatus) -> Task {
    update(w, before, after).await.unwrap_or_else(|| panic!("it is as {before:?}"))
}
