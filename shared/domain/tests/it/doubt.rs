//! Pushes that may land or may have landed although nobody knows.

use rdev_domain::failure::{Failure, FailureClass, FailureClass::*};
use rdev_domain::git::{OwnRef, RecordedRef, Tip};
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::result::{Outcome, TaskResult, Usage};
use rdev_domain::step::{Event, MAX_PUSH_ATTEMPTS, Step, ends_push, retry};
use rdev_domain::task::{Prepared, TaskState};
use ulid::Ulid;

use super::sample::{self, Case, NOW, claimed_again, lost};

#[test]
fn a_push_that_kills_its_runner_is_given_up_and_stays_in_doubt() {
    let mut case = Case::pushing();
    let mut claims = 0;
    let last = loop {
        let step = lost(&case);
        if step.task.state != TaskState::Pushing {
            break step;
        }
        case = claimed_again(&step);
        claims += 1;
        assert!(claims <= MAX_PUSH_ATTEMPTS, "it is pushed again and again");
    };
    assert_eq!((claims, last.task.state), (MAX_PUSH_ATTEMPTS, TaskState::Failed));
    let failure = last.task.failure.expect("a failure");
    assert_eq!((failure.class, failure.push_in_doubt), (Infra, true));
}

#[test]
fn a_push_cut_off_by_a_crash_or_a_drain_stays_in_doubt_when_a_later_claim_is_refused() {
    let released =
        |case: &Case| case.step(Event::Release { holder: case.holder() }).expect("it is released");
    for cut_off in [lost(&Case::pushing()), released(&Case::pushing())] {
        let case = claimed_again(&cut_off);
        let event = sample::fail(case.holder(), Auth);
        let failure = case.step(event).expect("it fails").task.failure.expect("a failure");
        assert_eq!((failure.class, failure.push_in_doubt), (Auth, true));
    }
}

/// What may happen to a task that starts over, until it ends.
type Ending = fn(&Case) -> Step;

#[test]
fn a_doubt_that_no_ticket_settles_stays_until_the_lineage_succeeds() {
    let starts_over: [fn(&Case) -> Event; 2] = [
        |case| Event::Restart { holder: case.holder() },
        |case| sample::fail(case.holder(), Conflict),
    ];
    let cancelled: Ending = |case| {
        let claimed = case.step(Event::Cancel).expect("it is asked to end");
        let case = Case { task: claimed.task, lease: claimed.lease };
        case.step(Event::Release { holder: case.holder() }).expect("it ends")
    };
    let ends: [Ending; 4] = [
        |case| case.step(sample::fail(case.holder(), Invalid)).expect("it fails"),
        // Three crashes in a row: the last one ends it.
        |case| {
            let mut step = lost(case);
            while !step.task.state.is_terminal() {
                step = lost(&claimed_again(&step));
            }
            step
        },
        cancelled,
        // It is prepared again, now where a ticket proves something, and that ticket is revoked.
        |case| {
            let prepared = sample::prepared(&case.task, sample::commit(8), Tip::Absent, NOW);
            let (holder, result) = (case.holder(), sample::result(Outcome::Delivered));
            let event = Event::Prepare { holder, prepared, result, usage: Usage::default() };
            let step = case.step(event).expect("it is prepared");
            let case = Case { task: step.task, lease: step.lease };
            let failure = Failure::new(PushRejected, "a hook");
            let holder = case.holder();
            let event = Event::Fail { holder, failure, usage: None, revoked: true, left: None };
            case.step(event).expect("it fails")
        },
    ];
    for (atomic, unanswered) in [(false, true), (false, false), (true, true)] {
        for start_over in starts_over {
            for (number, end) in ends.iter().enumerate() {
                let mut case = Case::pushing();
                case.task.prepared.as_mut().expect("it is prepared").atomic = atomic;
                if unanswered {
                    case = claimed_again(&lost(&case));
                }
                let over = case.step(start_over(&case)).expect("it starts over");
                assert_eq!(over.task.state, TaskState::Queued);
                let what = format!("{atomic} {unanswered} {number}");
                // Where a ticket holds it back, the record of the ticket tells.
                assert_eq!(over.task.in_doubt, unanswered && !atomic, "{what}");
                let ended = end(&claimed_again(&over)).task;
                assert!(ended.state.is_terminal(), "{what}");
                let doubt = ended.failure.as_ref().is_some_and(|failure| failure.push_in_doubt);
                assert_eq!(doubt, unanswered && !atomic, "{what}");
                let id = TaskId(Ulid::from_parts(2, 2));
                let retried = retry(&ended, id, NOW).expect("it may be retried");
                assert_eq!(retried.in_doubt, doubt, "{what}");
            }
            let case = claimed_again(&lost(&Case::pushing()));
            let over = case.step(start_over(&case)).expect("it starts over");
            let case = claimed_again(&over);
            let result = TaskResult::Build(sample::result(Outcome::Delivered));
            let event = Event::Finish { holder: case.holder(), result, usage: Usage::default() };
            let found = case.step(event).expect("the late push was found").task;
            assert_eq!((found.state, found.in_doubt), (TaskState::Succeeded, false));
        }
    }
}

#[test]
fn a_push_that_may_land_is_in_doubt_once_it_is_prepared_where_no_ticket_holds_it_back() {
    for (atomic, may_land) in [(false, true), (false, false), (true, true)] {
        let mut case = Case::running();
        let late = RecordedRef::of(OwnRef::Wip(case.task.id, Fence(0)), sample::commit(6));
        case.task.own_refs = vec![RecordedRef { may_land, ..late }];
        let prepared = sample::prepared(&case.task, sample::commit(5), Tip::Absent, NOW);
        let event = Event::Prepare {
            holder: case.holder(),
            prepared: Prepared { atomic, ..prepared },
            result: sample::result(Outcome::Delivered),
            usage: Usage::default(),
        };
        let after = case.step(event).expect("it is prepared").task;
        assert_eq!(after.in_doubt, may_land && !atomic, "{atomic} {may_land}");
    }
}

#[test]
fn a_failure_ends_a_push_exactly_when_the_next_state_is_not_pushing() {
    for class in FailureClass::ALL {
        for push_attempt in [0, 9, 10, 11] {
            let mut case = Case::pushing();
            case.task.push_attempt = push_attempt;
            let failure = Failure::new(class, "as the test wants it");
            let holder = case.holder();
            let event = Event::Fail { holder, failure, usage: None, revoked: false, left: None };
            let after = case.step(event).expect("a holder may fail").task;
            let ended = after.state != TaskState::Pushing;
            assert_eq!(ends_push(&case.task, class, NOW), ended, "{class:?} {push_attempt}");
        }
    }
}

#[test]
fn a_revoked_ticket_takes_the_doubt_and_every_other_ref_away() {
    let doubtful = |class| Failure { push_in_doubt: true, ..Failure::new(class, "x") };
    let fence = Fence(1);
    for class in [Conflict, PushRejected, Infra] {
        for revoked in [false, true] {
            let mut case = Case::pushing();
            case.task.push_attempt = 10;
            let ticket = RecordedRef::of(OwnRef::Wip(case.task.id, fence), sample::commit(5));
            let moved = RecordedRef::of(OwnRef::Revoked(case.task.id, fence), sample::commit(5));
            case.task.own_refs = vec![ticket, moved.clone()];
            let holder = case.holder();
            let event =
                Event::Fail { holder, failure: doubtful(class), usage: None, revoked, left: None };
            let after = case.step(event).expect("a holder may fail").task;
            assert_eq!(after.failure.expect("a failure").push_in_doubt, !revoked, "{class:?}");
            let left = if revoked { vec![moved] } else { case.task.own_refs.clone() };
            assert_eq!(after.own_refs, left, "{class:?}");
        }
    }
}

#[test]
fn a_task_that_ends_while_an_earlier_push_of_it_may_land_says_so() {
    let ends: [fn(&Case) -> Event; 3] = [
        |case| {
            let failure = Failure::new(Invalid, "as the test wants it");
            Event::Fail { holder: case.holder(), failure, usage: None, revoked: false, left: None }
        },
        |_| Event::Cancel,
        |case| {
            let lease = case.lease.as_ref().expect("it is held");
            Event::Recover { seen: lease.fence, heartbeat: lease.heartbeat, proved_dead: true }
        },
    ];
    for end in ends {
        for may_land in [false, true] {
            let mut case = Case::running();
            let ticket = RecordedRef::of(OwnRef::Wip(case.task.id, Fence(1)), sample::commit(5));
            case.task.own_refs = vec![RecordedRef { may_land, ..ticket }];
            case.task.attempt = case.task.max_attempts;
            if end(&case) == Event::Cancel {
                (case.task.state, case.lease) = (TaskState::Queued, None);
            }
            let after = case.step(end(&case)).expect("it ends").task;
            assert!(after.state.is_terminal(), "{:?}", after.state);
            let doubt = after.failure.is_some_and(|failure| failure.push_in_doubt);
            assert_eq!(doubt, may_land, "{:?}", after.state);
        }
    }
}

#[test]
fn an_atomic_preparation_leaves_its_own_ticket_alone_and_another_one_proves_nothing() {
    for atomic in [false, true] {
        let mut case = Case::running();
        let (id, fence) = (case.task.id, case.task.fence);
        let mine = RecordedRef::of(OwnRef::Wip(id, fence), sample::commit(5));
        let late = RecordedRef {
            may_land: true,
            ..RecordedRef::of(OwnRef::Wip(id, Fence(0)), sample::commit(6))
        };
        let kept = RecordedRef::of(OwnRef::Kept(id), sample::commit(7));
        case.task.own_refs = vec![late.clone(), mine.clone(), kept.clone()];
        let prepared = sample::prepared(&case.task, sample::commit(5), Tip::Absent, NOW);
        let event = Event::Prepare {
            holder: case.holder(),
            prepared: Prepared { atomic, ..prepared },
            result: sample::result(Outcome::Delivered),
            usage: Usage::default(),
        };
        let after = case.step(event).expect("it may push").task.own_refs;
        let expected = if atomic {
            vec![RecordedRef { may_land: true, ..mine }, kept]
        } else {
            vec![RecordedRef { may_land: false, ..late }, mine, kept]
        };
        assert_eq!(after, expected);
    }
}
