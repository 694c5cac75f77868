//! One bad record stops nothing but itself: neither the sweep, nor a recovery, nor a deletion.

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::ids::TaskId;
use rdev_domain::project::Deletion;
use rdev_domain::spec::{BuildSpec, Work};
use rdev_domain::task::{Task, TaskState};

use super::world::{ClaimedTask, HOUR, MINUTE, Runner, SECOND, World, key_actor};
use super::{Damage, cases};

cases! {
    a_bad_record_stops_no_recovery_by_the_sweep;
    a_bad_record_stops_no_recovery_at_start;
    a_bad_record_stops_no_recovery_by_a_claim;
    a_bad_record_hides_no_expired_lease_from_a_claim;
    a_bad_record_stops_no_deletion;
    a_bad_record_stops_no_promotion;
    a_bad_record_that_was_being_pushed_is_in_doubt;
    a_task_with_the_longest_texts_has_fifty_attempts;
}

/// Every way in which a record is bad.
#[derive(Debug, Clone, Copy)]
enum Bad {
    Body,
    Lease,
    State,
}

impl Bad {
    const ALL: [Self; 3] = [Self::Body, Self::Lease, Self::State];

    async fn make(self, w: &World, id: TaskId) {
        match self {
            Self::Body => w.corrupt(id).await,
            Self::Lease => w.damage(id, Damage::Lease).await,
            Self::State => w.damage(id, Damage::State).await,
        }
    }
}

/// Six projects with a task that runs, whose wake-ups were sent; the first one's record is bad.
async fn six_that_run(w: &World, bad: Bad) -> (ClaimedTask, Vec<ClaimedTask>) {
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(w.running().await);
    }
    w.send_outbox().await;
    let first = held.remove(0);
    bad.make(w, first.id).await;
    (first, held)
}

async fn is_poisoned(w: &World, id: TaskId, bad: Bad) {
    let record = w.read(id).await;
    assert_eq!((record.task.state, record.lease), (TaskState::Failed, None), "{bad:?}");
    assert_eq!(record.task.failure.map(|failure| failure.class), Some(FailureClass::Poison));
}

async fn a_bad_record_stops_no_recovery_by_the_sweep(w: World) {
    for bad in Bad::ALL {
        let (first, others) = six_that_run(&w, bad).await;
        w.let_leases_expire();
        let swept = w.sweep().await;
        assert_eq!(swept.recovered, 6, "{bad:?}");
        is_poisoned(&w, first.id, bad).await;
        for held in others.iter().chain([&first]) {
            let woken = swept.outbox.iter().any(|entry| entry.project_id == *held.project());
            assert!(woken, "{bad:?}: its slot is free");
        }
        for held in &others {
            assert_eq!(w.state(held.id).await, TaskState::Queued, "{bad:?}");
        }
        assert_eq!(w.sweep().await.recovered, 0, "{bad:?}");
        let next = w.enqueue(first.project()).await;
        let mut claimed = Vec::new();
        for _ in 0..=others.len() {
            let held = w.claim(first.project()).await;
            w.finish(&held).await.expect("a holder may finish");
            claimed.push(held.id);
        }
        assert!(claimed.contains(&next.id), "{bad:?}: it holds no slot");
    }
}

async fn a_bad_record_stops_no_recovery_at_start(w: World) {
    if !w.recovers_all {
        return;
    }
    for bad in Bad::ALL {
        let (first, others) = six_that_run(&w, bad).await;
        let outbox = w.store.recover_all(w.now()).await.expect("the others are recovered");
        is_poisoned(&w, first.id, bad).await;
        for held in others {
            assert_eq!(w.state(held.id).await, TaskState::Queued, "{bad:?}");
            assert!(outbox.iter().any(|entry| entry.project_id == *held.project()), "{bad:?}");
        }
    }
}

async fn a_bad_record_stops_no_recovery_by_a_claim(w: World) {
    for bad in Bad::ALL {
        let project = w.project_with_limit(6).await;
        let held = w.hold(&project, 6).await;
        bad.make(&w, held[0].id).await;
        w.let_leases_expire();
        let mut claimed = Vec::new();
        for _ in 0..5 {
            claimed.push(w.claim(&project).await.id);
        }
        claimed.sort();
        let others: Vec<TaskId> = held[1..].iter().map(|held| held.id).collect();
        assert_eq!(claimed, others, "{bad:?}");
        is_poisoned(&w, held[0].id, bad).await;
    }
}

/// The claim ends the bad task, and then nothing is due: the wake-up would be deleted, and the dead
/// holder's task would wait for a sweep.
async fn a_bad_record_hides_no_expired_lease_from_a_claim(w: World) {
    for bad in [Bad::Body, Bad::State] {
        for others in [0, 2] {
            let project = w.project_with_limit(3).await;
            let dead = w.hold(&project, 1).await.remove(0);
            let mut ended = Vec::new();
            for _ in 0..=others {
                ended.push(w.enqueue(&project).await.id);
                bad.make(&w, ended[ended.len() - 1]).await;
            }
            w.let_leases_expire();
            let again = w.claim_as(&project, &Runner::named("w2")).await;
            assert_eq!(again.id, dead.id, "{bad:?}");
            for id in ended {
                is_poisoned(&w, id, bad).await;
            }
            w.finish(&again).await.expect("a holder may finish");
            w.nothing_to_claim(&project).await;
        }
    }
}

async fn a_bad_record_stops_no_deletion(w: World) {
    for bad in [Bad::Body, Bad::State] {
        let project = w.project().await;
        let mut queued = Vec::new();
        for _ in 0..6 {
            queued.push(w.enqueue(&project).await.id);
        }
        bad.make(&w, queued[0]).await;
        let deletion = Deletion::KeepRepository;
        let begun =
            w.store.begin_delete_project(&project, deletion, None, &key_actor(), w.now()).await;
        begun.expect("nothing runs");
        is_poisoned(&w, queued[0], bad).await;
        for &id in &queued[1..] {
            assert_eq!(w.state(id).await, TaskState::Cancelled, "{bad:?}");
        }
        w.store
            .forget_project(&project, None, &key_actor(), w.now())
            .await
            .expect("it is deleting");
    }
}

async fn a_bad_record_stops_no_promotion(w: World) {
    for bad in [Bad::Body, Bad::State] {
        let mut parked = Vec::new();
        for _ in 0..6 {
            let project = w.project().await;
            let task = Task { available_at: w.now().plus(HOUR), ..w.new_task(&project) };
            parked.push(w.enqueue_task(task).await);
        }
        w.send_outbox().await;
        bad.make(&w, parked[0].id).await;
        w.pass(HOUR);
        w.send_outbox().await;
        w.pass(2 * MINUTE + SECOND);
        let woken = w.sweep().await.wake;
        for task in &parked {
            assert!(woken.iter().any(|one| one.project_id == task.project_id), "{bad:?}");
        }
        let mut claimed = Vec::new();
        for _ in 1..parked.len() {
            let held = w.claim(&parked[0].project_id).await;
            w.finish(&held).await.expect("a holder may finish");
            claimed.push(held.id);
        }
        claimed.sort();
        let others: Vec<TaskId> = parked[1..].iter().map(|task| task.id).collect();
        assert_eq!(claimed, others, "{bad:?}");
        w.nothing_to_claim(&parked[0].project_id).await;
        is_poisoned(&w, parked[0].id, bad).await;
    }
}

async fn a_bad_record_that_was_being_pushed_is_in_doubt(w: World) {
    let (pushing, running) = (w.pushing().await, w.running().await);
    for held in [&pushing, &running] {
        w.corrupt(held.id).await;
    }
    w.let_leases_expire();
    w.sweep().await;
    for (held, doubt) in [(&pushing, true), (&running, false)] {
        let failure = w.read(held.id).await.task.failure.expect("it has failed");
        assert_eq!((failure.class, failure.push_in_doubt), (FailureClass::Poison, doubt));
    }
}

async fn a_task_with_the_longest_texts_has_fifty_attempts(w: World) {
    let project = w.project().await;
    // As large as a request may be: each of these characters has two bytes in it and in the record.
    let prompt = "\"".repeat(120 * 1024);
    let work = Work::Build(BuildSpec::of(prompt.as_str()));
    let task = Task { work: work.clone(), max_attempts: 10, ..w.new_task(&project) };
    let task = w.enqueue_task(task).await;
    // Each of these characters has six bytes in the record.
    let failure = Failure::new(FailureClass::Infra, "\u{1}".repeat(4000));
    let fail = async |held: &ClaimedTask| {
        let after = w.write(held, held.fail_with(failure.clone())).await;
        let after = after.expect("it can always be written").task;
        assert_eq!((after.state, &after.work), (TaskState::Pushing, &work));
        w.pass(after.available_at.since(w.now()) + SECOND);
    };
    for _ in 0..9 {
        let held = w.claim(&project).await;
        w.prepare(&held).await.expect("a holder may prepare");
        fail(&held).await;
        for _ in 0..4 {
            fail(&w.claim(&project).await).await;
        }
        let held = w.claim(&project).await;
        let after = w.restart(&held).await.expect("a holder may restart").task;
        assert_eq!(after.state, TaskState::Queued);
        w.pass(after.available_at.since(w.now()) + SECOND);
    }
    let held = w.claim(&project).await;
    w.finish(&held).await.expect("a holder may finish");
    let ended = w.read(task.id).await.task;
    assert_eq!((ended.state, ended.attempts.len()), (TaskState::Succeeded, 50));
    assert_eq!(ended.work, work);
}
