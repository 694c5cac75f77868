//! The store while DynamoDB's indexes are behind their table: what they still show is not done
//! twice, nothing is recovered early, and what they do not show yet is found later.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdev_aws::schema::create_table;
use rdev_domain::audit::Actor;
use rdev_domain::ids::{Fence, ProjectId};
use rdev_domain::lease::{CLOCK_SLACK, LEASE, Progress};
use rdev_domain::page::Page;
use rdev_domain::ports::{Claim, Record, Store, Swept, TaskFilter};
use rdev_domain::project::{ABANDONED_AFTER, ProjectPatch, ProjectState};
use rdev_domain::step::Event;
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;
use rdev_testkit::tools::trial::Outcome;

use super::scale::put_all_into;
use super::{Bench, NOW, TABLE, complete, holder, new_task, prepare};

rdev_testkit::trials! {
    async a_claim_takes_nothing_that_only_a_stale_index_has_and_its_own_project_s_tasks_at_once;
    async a_sweep_wakes_and_promotes_nothing_that_only_a_stale_index_has_and_the_rest_later;
    async a_lease_is_recovered_once_and_never_early_whatever_a_stale_index_shows;
    async lists_and_stats_show_nothing_in_a_state_that_only_a_stale_index_has;
    async a_delivery_that_a_stale_index_shows_is_sent_once;
    async a_stale_index_ends_no_provisioning_that_has_succeeded;
}

const MINUTE: Duration = Duration::from_secs(60);

/// From now on the indexes are as they are now, until [`catch_up`].
async fn fall_behind(bench: &Bench) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("then-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    create_table(&bench.client, &name).await.expect("a table");
    let (mut items, mut after) = (Vec::new(), None);
    loop {
        let scan = bench.client.scan().table_name(TABLE).set_exclusive_start_key(after);
        let page = scan.send().await.expect("a page");
        items.extend(page.items.unwrap_or_default());
        after = page.last_evaluated_key.filter(|key| !key.is_empty());
        if after.is_none() {
            break;
        }
    }
    put_all_into(&bench.client, &name, items).await;
    bench.proxy.answer_indexes_from(Some(&name));
}

fn catch_up(bench: &Bench) {
    bench.proxy.answer_indexes_from(None);
}

async fn queued(bench: &Bench, project: &ProjectId) -> Task {
    let task = new_task(project);
    let by = Actor::maintenance();
    let queued = bench.store.enqueue(&task, &by, NOW).await.expect("a queued task");
    bench.store.delete_outbox(&queued.outbox).await.expect("it goes");
    task
}

async fn claim(bench: &Bench, project: &ProjectId) -> Claim {
    bench.claim(project).await.expect("an answer")
}

async fn sweep(bench: &Bench, now: Timestamp) -> Swept {
    let swept = bench.store.sweep(now).await.expect("a sweep");
    assert!(!swept.more);
    swept
}

async fn state(bench: &Bench, task: &Task) -> (TaskState, Fence) {
    let task = bench.store.task(task.id).await.expect("it is there").task;
    (task.state, task.fence)
}

async fn end(bench: &Bench, task: &Task, event: Event) {
    let by = Actor::maintenance();
    let ended = bench.store.advance(task.id, event, Record::default(), &by, NOW).await;
    let ended = ended.expect("it has not ended");
    bench.store.delete_outbox(&ended.outbox).await.expect("they go");
}

async fn a_claim_takes_nothing_that_only_a_stale_index_has_and_its_own_project_s_tasks_at_once()
-> Outcome {
    let bench = Bench::new().await?;
    let (one, other, idle) = (bench.project().await, bench.project().await, bench.project().await);
    fall_behind(&bench).await;
    let first = queued(&bench, &one).await;
    assert_eq!(claim(&bench, &idle).await, Claim::Nothing, "nobody sees it yet");
    let claimed = bench.claimed(&one).await;
    assert_eq!(claimed.task.id, first.id, "but its own wake-up");
    end(&bench, &claimed.task, Event::Release { holder: holder(&claimed) }).await;
    catch_up(&bench);
    assert_eq!(bench.claimed(&idle).await.task.id, first.id);

    let second = queued(&bench, &one).await;
    let third = queued(&bench, &other).await;
    fall_behind(&bench).await;
    let claimed = bench.claimed(&other).await;
    assert_eq!(claimed.task.id, third.id);
    // The index still has both: one has no slot, the other nothing due.
    assert_eq!(claim(&bench, &idle).await, Claim::Nothing);
    assert_eq!(claim(&bench, &one).await, Claim::SlotsTaken);
    assert_eq!(state(&bench, &second).await, (TaskState::Queued, Fence(0)));
    // What is queued while the index is behind is not lost when that claim finds nothing.
    end(&bench, &claimed.task, Event::Cancel).await;
    end(&bench, &claimed.task, Event::Release { holder: holder(&claimed) }).await;
    let fourth = queued(&bench, &other).await;
    assert_eq!(bench.claimed(&idle).await.task.id, fourth.id);
    catch_up(&bench);
    assert_eq!(claim(&bench, &idle).await, Claim::Nothing);
    Ok(())
}

/// The projects that a sweep wakes.
async fn woken(bench: &Bench, at: Timestamp) -> Vec<ProjectId> {
    sweep(bench, at).await.wake.into_iter().map(|wake_up| wake_up.project_id).collect()
}

async fn a_sweep_wakes_and_promotes_nothing_that_only_a_stale_index_has_and_the_rest_later()
-> Outcome {
    let bench = Bench::new().await?;
    let (one, other) = (bench.project().await, bench.project().await);
    fall_behind(&bench).await;
    queued(&bench, &one).await;
    let at = NOW.plus(3 * MINUTE);
    assert_eq!(woken(&bench, at).await, [], "it is not seen yet");
    catch_up(&bench);
    assert_eq!(woken(&bench, at).await, std::slice::from_ref(&one));

    let parked = Task { available_at: NOW.plus(MINUTE), ..new_task(&other) };
    let by = Actor::maintenance();
    let later = bench.store.enqueue(&parked, &by, NOW).await.expect("a queued task");
    bench.store.delete_outbox(&later.outbox).await.expect("it goes");
    fall_behind(&bench).await;
    let claimed = bench.claimed(&one).await;
    let by_holder = holder(&claimed);
    let renewed = async |now| {
        let (id, none) = (claimed.task.id, Progress::default());
        bench.store.renew(id, &by_holder, none, now).await.expect("it is held");
    };
    renewed(at).await;
    end(&bench, &parked, Event::Cancel).await;
    for _ in 0..2 {
        assert_eq!(woken(&bench, at).await, [], "one is held, and the other was cancelled");
    }
    // A second sweep does not promote again what the index still has as parked.
    let again = Task { available_at: NOW.plus(MINUTE), ..new_task(&other) };
    catch_up(&bench);
    let later = bench.store.enqueue(&again, &by, NOW).await.expect("a queued task");
    bench.store.delete_outbox(&later.outbox).await.expect("it goes");
    fall_behind(&bench).await;
    assert_eq!(woken(&bench, at).await, std::slice::from_ref(&other), "it is due");
    assert_eq!(woken(&bench, at).await, [], "until the index shows it as due");
    catch_up(&bench);
    renewed(at.plus(2 * MINUTE)).await;
    assert_eq!(woken(&bench, at.plus(2 * MINUTE)).await, std::slice::from_ref(&other));
    let stats = bench.store.work_stats(at).await.expect("the stats");
    assert_eq!((stats.due, stats.later, stats.running), (1, 0, 1));
    Ok(())
}

async fn a_lease_is_recovered_once_and_never_early_whatever_a_stale_index_shows() -> Outcome {
    let bench = Bench::new().await?;
    let project = bench.project().await;
    let task = queued(&bench, &project).await;
    let expired = NOW.plus(LEASE + CLOCK_SLACK + Duration::from_secs(1));
    fall_behind(&bench).await;
    let claimed = bench.claimed(&project).await;
    let swept = sweep(&bench, expired).await;
    assert_eq!((swept.recovered, swept.wake), (0, vec![]), "the index has no lease yet");
    catch_up(&bench);
    fall_behind(&bench).await;
    let renewal = bench.store.renew(task.id, &holder(&claimed), Progress::default(), expired).await;
    renewal.expect("it is held");
    let soon = expired.plus(Duration::from_secs(10));
    assert_eq!(sweep(&bench, soon).await.recovered, 0, "it was renewed");
    assert_eq!(bench.store.recover_expired(soon).await.expect("an answer"), []);
    assert_eq!(state(&bench, &task).await, (TaskState::Running, Fence(1)));

    let late = expired.plus(LEASE + CLOCK_SLACK + Duration::from_secs(1));
    assert_eq!(sweep(&bench, late).await.recovered, 1);
    for _ in 0..2 {
        // The index has the lease that is gone.
        let swept = sweep(&bench, late).await;
        assert_eq!((swept.recovered, swept.outbox), (0, vec![]));
        assert_eq!(bench.store.recover_expired(late).await.expect("an answer"), []);
    }
    assert_eq!(state(&bench, &task).await, (TaskState::Queued, Fence(2)));
    catch_up(&bench);
    assert_eq!(sweep(&bench, late).await.recovered, 0);
    Ok(())
}

async fn lists_and_stats_show_nothing_in_a_state_that_only_a_stale_index_has() -> Outcome {
    let bench = Bench::new().await?;
    let project = bench.project().await;
    let old = queued(&bench, &project).await;
    let still = queued(&bench, &project).await;
    fall_behind(&bench).await;
    let claimed = bench.claimed(&project).await;
    assert_eq!(claimed.task.id, old.id);
    let new = queued(&bench, &project).await;
    let list = async |project: Option<ProjectId>, state: Option<TaskState>| {
        let filter = TaskFilter { project, state, builds_only: false };
        let (mut ids, mut page) = (Vec::new(), Page { limit: 1, before: None });
        for _ in 0..9 {
            let listed = bench.store.tasks(&filter, &page).await.expect("a page");
            ids.extend(listed.items.into_iter().map(|record| record.task.id));
            match listed.next {
                Some(next) => page.before = Some(next),
                None => break,
            }
        }
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "one is there twice");
        ids
    };
    let of_project = Some(project.clone());
    let queued_now = Some(TaskState::Queued);
    assert_eq!(list(None, queued_now).await, [still.id], "the new one follows later");
    assert_eq!(list(None, None).await, [still.id, old.id]);
    assert_eq!(list(of_project.clone(), queued_now).await, [new.id, still.id]);
    assert_eq!(list(of_project, None).await, [new.id, still.id, old.id]);
    let stats = bench.store.work_stats(NOW).await.expect("the stats");
    assert_eq!((stats.due, stats.later, stats.running), (2, 0, 0), "the lease follows later");
    catch_up(&bench);
    assert_eq!(list(None, queued_now).await, [new.id, still.id]);
    assert_eq!(list(None, None).await, [new.id, still.id, old.id]);
    let stats = bench.store.work_stats(NOW).await.expect("the stats");
    assert_eq!((stats.due, stats.later, stats.running), (2, 0, 1));
    Ok(())
}

async fn a_delivery_that_a_stale_index_shows_is_sent_once() -> Outcome {
    let bench = Bench::new().await?;
    let project = bench.project().await;
    let by = Actor::maintenance();
    let task = Task { notify: true, ..new_task(&project) };
    bench.store.enqueue(&task, &by, NOW).await.expect("a queued task");
    let claimed = bench.claimed(&project).await;
    fall_behind(&bench).await;
    for event in [prepare(&claimed), complete(&claimed)] {
        bench.store.advance(task.id, event, Record::default(), &by, NOW).await.expect("held");
    }
    assert_eq!(bench.store.due_deliveries(NOW, 10).await.expect("an answer"), []);
    catch_up(&bench);
    fall_behind(&bench).await;
    let due = bench.store.due_deliveries(NOW, 10).await.expect("an answer");
    let begun = due[0].begun(NOW);
    assert!(bench.store.update_delivery(&due[0], &begun).await.expect("an answer"));
    assert!(!bench.store.update_delivery(&due[0], &begun).await.expect("an answer"));
    assert_eq!(bench.store.due_deliveries(NOW, 10).await.expect("an answer"), []);
    let ended = begun.ended(Some(200), None, NOW);
    assert!(bench.store.update_delivery(&begun, &ended).await.expect("an answer"));
    let much_later = NOW.plus(60 * MINUTE);
    assert_eq!(bench.store.due_deliveries(much_later, 10).await.expect("an answer"), []);
    catch_up(&bench);
    assert_eq!(bench.store.due_deliveries(much_later, 10).await.expect("an answer"), []);
    Ok(())
}

async fn a_stale_index_ends_no_provisioning_that_has_succeeded() -> Outcome {
    let bench = Bench::new().await?;
    let project = bench.project().await;
    let by = Actor::maintenance();
    let into = |state| ProjectPatch { state: Some(state), ..ProjectPatch::default() };
    let provisioning = into(ProjectState::Provisioning);
    bench.store.update_project(&project, &provisioning, &by, NOW).await.expect("it is there");
    fall_behind(&bench).await;
    bench
        .store
        .update_project(&project, &into(ProjectState::Ready), &by, NOW)
        .await
        .expect("there");
    sweep(&bench, NOW.plus(ABANDONED_AFTER)).await;
    let after = bench.store.project(&project).await.expect("it is there");
    assert_eq!(after.state, ProjectState::Ready);
    Ok(())
}
