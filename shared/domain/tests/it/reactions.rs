//! What each failure class makes of a task that runs, and of one that pushes.

use std::time::Duration;

use rdev_domain::failure::{Failure, FailureClass, FailureClass::*};
use rdev_domain::git::{OwnRef, RecordedRef, Tip};
use rdev_domain::ids::Fence;
use rdev_domain::result::{Outcome, Usage};
use rdev_domain::step::{
    Event, MAX_PARK, MAX_PARKED, MAX_PARKS, MAX_PUSH_ATTEMPTS, MAX_PUSH_TIME, MIN_PARK, Refusal,
    Slots, Step, step,
};
use rdev_domain::task::{Prepared, TaskState, WipRef};
use rdev_domain::time::Timestamp;

use super::sample::{self, Case, NOW, claimed_again, lost};

/// What becomes of the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// `failed` with this class.
    Fails(FailureClass),
    /// `cancelled`.
    Cancelled,
    /// Queued after a backoff, the attempt spent.
    Backs,
    /// Queued for later, the attempt given back.
    Parks,
    /// Queued at once, the attempt spent, earlier wip refs out of date.
    Again,
    /// Unowned, to be pushed after a backoff.
    Postponed,
}

use Fate::{Again, Backs, Cancelled as IsCancelled, Fails, Parks, Postponed};

/// Each class: from `running`, from `running` in the last attempt, from `pushing`, from
/// `pushing` for too long.
fn table() -> [(FailureClass, Fate, Fate, Fate, Fate); 16] {
    [
        (Auth, Fails(Auth), Fails(Auth), Fails(Auth), Fails(Auth)),
        (Quota, Parks, Parks, Postponed, Fails(Infra)),
        (RateLimited, Backs, Fails(RateLimited), Postponed, Fails(Infra)),
        (Infra, Backs, Fails(Infra), Postponed, Fails(Infra)),
        (AgentFailed, Backs, Fails(AgentFailed), Postponed, Fails(Infra)),
        (AgentStalled, Backs, Fails(AgentStalled), Postponed, Fails(Infra)),
        (VerifyFailed, Fails(VerifyFailed), Fails(VerifyFailed), Again, Again),
        (Conflict, Again, Fails(Conflict), Again, Again),
        (
            PushRejected,
            Fails(PushRejected),
            Fails(PushRejected),
            Fails(PushRejected),
            Fails(PushRejected),
        ),
        (
            HistoryRewritten,
            Fails(HistoryRewritten),
            Fails(HistoryRewritten),
            Fails(HistoryRewritten),
            Fails(HistoryRewritten),
        ),
        (Invalid, Fails(Invalid), Fails(Invalid), Fails(Invalid), Fails(Invalid)),
        (Timeout, Fails(Timeout), Fails(Timeout), Postponed, Fails(Infra)),
        (
            BudgetExceeded,
            Fails(BudgetExceeded),
            Fails(BudgetExceeded),
            Fails(BudgetExceeded),
            Fails(BudgetExceeded),
        ),
        (Cancelled, IsCancelled, IsCancelled, Postponed, Fails(Infra)),
        (WorkerLost, Backs, Fails(WorkerLost), Postponed, Fails(Infra)),
        (Poison, Fails(Poison), Fails(Poison), Fails(Poison), Fails(Poison)),
    ]
}

#[test]
fn every_class_has_the_reactions_of_the_table() {
    assert_eq!(table().map(|(class, ..)| class), FailureClass::ALL);
    for (class, running, last, pushing, too_long) in table() {
        let of = |case: Case, now| (case.clone(), failed(&case, class, now));
        let (before, after) = of(Case::running(), NOW);
        assert_fate(&before, &after, running, NOW, &format!("{class:?} from running"));
        let mut case = Case::running();
        case.task.max_attempts = 1;
        let (before, after) = of(case, NOW);
        assert_fate(&before, &after, last, NOW, &format!("{class:?} in the last attempt"));
        let (before, after) = of(Case::pushing(), NOW);
        assert_fate(&before, &after, pushing, NOW, &format!("{class:?} from pushing"));

        let late = NOW.plus(MAX_PUSH_TIME);
        let (before, after) = of(Case::pushing(), late);
        assert_fate(&before, &after, too_long, late, &format!("{class:?} after two hours"));
        let mut case = Case::pushing();
        case.task.push_attempt = MAX_PUSH_ATTEMPTS;
        let (before, after) = of(case, NOW);
        assert_fate(&before, &after, too_long, NOW, &format!("{class:?} after ten tries"));
    }
}

#[test]
fn a_push_that_conflicts_in_the_last_attempt_fails_as_a_conflict() {
    for class in [Conflict, VerifyFailed] {
        let mut case = Case::pushing();
        case.task.max_attempts = 1;
        let after = failed(&case, class, NOW);
        assert_fate(&case, &after, Fails(Conflict), NOW, class.as_str());
    }
}

#[test]
fn an_agent_may_be_silent_once() {
    let once = failed(&Case::running(), AgentStalled, NOW);
    assert_eq!((once.task.state, once.task.stalls), (TaskState::Queued, 1));
    let mut again = Case::running();
    again.task.stalls = 1;
    let twice = failed(&again, AgentStalled, NOW);
    assert_fate(&again, &twice, Fails(AgentStalled), NOW, "silent again");
}

#[test]
fn a_conflict_forgets_the_work_it_resumed_from() {
    for mut case in [Case::running(), Case::pushing()] {
        case.task.resume_from = Some(WipRef { task: case.task.id, fence: Fence(0) });
        let after = failed(&case, Conflict, NOW);
        assert_eq!(after.task.state, TaskState::Queued);
        assert_eq!(after.task.resume_from, None, "else the next attempt would adopt it again");
    }
}

#[test]
fn a_named_time_is_waited_for_where_the_class_waits() {
    let at = NOW.plus(Duration::from_secs(9 * 3600));
    let with_time = |class| {
        let case = Case::running();
        let failure = Failure { retry_at: Some(at), ..Failure::new(class, "later") };
        let event =
            Event::Fail { holder: case.holder(), failure, usage: None, revoked: false, left: None };
        case.step(event).expect("a holder may fail")
    };
    for class in [Quota, RateLimited] {
        let after = with_time(class);
        assert_eq!(after.task.available_at, at);
        assert_eq!(after.wake_ups, [NOW, at], "one for the slot, one for the task");
    }
    assert_eq!(with_time(Invalid).task.state, TaskState::Failed);
}

fn failed(case: &Case, class: FailureClass, now: Timestamp) -> Step {
    let event = sample::fail(case.holder(), class);
    step(&case.task, case.lease.as_ref(), event, now).expect("a holder may fail")
}

fn assert_fate(before: &Case, after: &Step, fate: Fate, now: Timestamp, what: &str) {
    let task = &after.task;
    let spent = before.task.attempt;
    assert_eq!(after.lease, None, "{what}");
    assert_eq!(after.wake_ups.first(), Some(&now), "{what}: its slot is free");
    let backed_off = |tries: u32| {
        let wait = rdev_domain::failure::backoff(task.id, tries);
        assert_eq!(task.available_at, now.plus(wait), "{what}");
        assert_eq!(after.wake_ups, [now, task.available_at], "{what}");
    };
    match fate {
        Fails(class) => {
            assert_eq!(task.state, TaskState::Failed, "{what}");
            assert_eq!(task.failure.as_ref().map(|failure| failure.class), Some(class), "{what}");
            assert_eq!((task.finished_at, &task.result), (Some(now), &None), "{what}");
            assert_eq!(task.prepared, before.task.prepared, "{what}");
        }
        IsCancelled => {
            assert_eq!(task.state, TaskState::Cancelled, "{what}");
            assert_eq!((task.finished_at, &task.failure), (Some(now), &None), "{what}");
        }
        Backs => {
            assert_eq!((task.state, task.attempt), (TaskState::Queued, spent), "{what}");
            backed_off(spent);
        }
        Parks => {
            assert_eq!((task.state, task.attempt), (TaskState::Queued, spent - 1), "{what}");
            assert!(task.available_at > now, "{what}");
            assert_eq!(after.wake_ups, [now, task.available_at], "{what}");
        }
        Again => {
            assert_eq!((task.state, task.attempt), (TaskState::Queued, spent), "{what}");
            assert_eq!((task.available_at, &task.prepared), (now, &None), "{what}");
            assert_eq!(task.wip_floor, before.task.fence, "{what}");
            assert_eq!(task.failure.as_ref().map(|f| f.class), Some(Conflict), "{what}");
        }
        Postponed => {
            assert_eq!((task.state, task.attempt), (TaskState::Pushing, spent), "{what}");
            assert_eq!(task.prepared, before.task.prepared, "{what}");
            backed_off(1);
        }
    }
}

/// The same task, its holder dead or ended, claimed again.
#[test]
fn a_task_that_was_interrupted_keeps_its_place_in_the_queue() {
    let mut case = Case::running();
    let due = NOW.minus(Duration::from_secs(600));
    case.task.available_at = due;
    let released = case.step(Event::Release { holder: case.holder() }).expect("released");
    for step in [lost(&case), released] {
        assert_eq!((step.task.state, step.task.available_at), (TaskState::Queued, due));
        assert_eq!(step.wake_ups, [NOW]);
    }
    // A clock that is behind does not make it due later.
    case.task.available_at = NOW.plus(Duration::from_secs(600));
    assert_eq!(lost(&case).task.available_at, NOW);
}

#[test]
fn another_commit_has_push_attempts_of_its_own() {
    let case = claimed_again(&lost(&Case::pushing()));
    assert_eq!(case.task.push_attempt, 1);
    let conflict = case.step(sample::fail(case.holder(), Conflict)).expect("it fails");
    let restart = case.step(Event::Restart { holder: case.holder() }).expect("it restarts");
    assert_eq!((conflict.task.push_attempt, restart.task.push_attempt), (0, 0));
}

#[test]
fn a_restart_forgets_what_was_prepared_and_what_was_resumed_from() {
    let mut case = Case::pushing();
    case.task.resume_from = Some(WipRef { task: case.task.id, fence: Fence(0) });
    let after = case.step(Event::Restart { holder: case.holder() }).expect("it restarts").task;
    assert_eq!((after.state, after.resume_from), (TaskState::Queued, None));
    assert_eq!((after.prepared, after.result, after.push_attempt), (None, None, 0));
    assert_eq!(after.scan_base, case.task.scan_base, "a late push is still looked for");
    let failure = after.failure.expect("the reason");
    assert_eq!((failure.class, failure.push_in_doubt), (Infra, false));
    let mut last = Case::pushing();
    last.task.max_attempts = 1;
    last.task.failure = Some(Failure { push_in_doubt: true, ..Failure::new(Infra, "unanswered") });
    let after = last.step(Event::Restart { holder: last.holder() }).expect("it ends").task;
    assert_eq!(after.state, TaskState::Failed);
    assert!(after.failure.expect("the reason").push_in_doubt, "it may still land");
}

#[test]
fn a_record_keeps_the_latest_fifty_attempts() {
    let mut case = Case::running();
    for number in 2..=60_u64 {
        let released = case.step(Event::Release { holder: case.holder() }).expect("released");
        case = claimed_again(&released);
        assert_eq!(case.task.attempts.len() as u64, number.min(50));
    }
    let fences: Vec<_> = case.task.attempts.iter().map(|attempt| attempt.fence.0).collect();
    assert_eq!(fences, (11..=60).collect::<Vec<_>>());
    assert!(case.task.attempts[48].ended_at.is_some() && case.task.attempts[49].ended_at.is_none());
}

#[test]
fn a_quota_parks_until_the_named_time_or_for_a_quarter_of_an_hour() {
    let parked = |retry_at| {
        let case = Case::running();
        let failure = Failure { retry_at, ..Failure::new(Quota, "used up") };
        let event =
            Event::Fail { holder: case.holder(), failure, usage: None, revoked: false, left: None };
        case.step(event).expect("a holder may fail").task.available_at
    };
    let after = |seconds| NOW.plus(Duration::from_secs(seconds));
    assert_eq!(parked(None), after(15 * 60));
    assert_eq!(parked(Some(after(45))), after(45));
    for past in [NOW, NOW.minus(Duration::from_secs(60))] {
        assert_eq!(parked(Some(past)), after(30), "never at once");
    }
}

#[test]
fn a_named_time_never_shortens_a_backoff() {
    let case = Case::running();
    let failure = Failure { retry_at: Some(NOW), ..Failure::new(RateLimited, "slow down") };
    let event =
        Event::Fail { holder: case.holder(), failure, usage: None, revoked: false, left: None };
    let after = case.step(event).expect("a holder may fail").task;
    assert_eq!(after.available_at, NOW.plus(rdev_domain::failure::backoff(after.id, 1)));
}

#[test]
fn what_an_attempt_used_is_what_its_end_says_or_else_its_last_renewal() {
    let spent = |turns| Usage { turns, ..Usage::default() };
    let mut case = Case::running();
    case.task.usage = spent(100);
    case.lease.as_mut().expect("it is held").usage = spent(7);
    for (usage, used) in [(Some(spent(9)), 9), (None, 7)] {
        let failure = Failure::new(Infra, "away");
        let event =
            Event::Fail { holder: case.holder(), failure, usage, revoked: false, left: None };
        let task = case.step(event).expect("a holder may fail").task;
        assert_eq!((task.usage.turns, task.attempts[0].usage.turns), (100 + used, used));
        assert_eq!(task.attempts[0].ended_at, Some(NOW));
    }
    let released = case.step(Event::Release { holder: case.holder() }).expect("released").task;
    assert_eq!((released.usage.turns, lost(&case).task.usage.turns), (107, 107));
    assert_eq!(released.attempt, 0, "the attempt is given back");
}

#[test]
fn a_build_that_succeeds_has_the_usage_of_all_its_attempts_and_no_failure() {
    let mut case = Case::pushing();
    case.task.usage = Usage { turns: 5, ..Usage::default() };
    case.task.failure = Some(Failure::new(Infra, "an earlier try"));
    case.lease.as_mut().expect("it is held").usage.turns = 2;
    let task = case.step(sample::complete(case.holder())).expect("it is done").task;
    let result = task.result.as_ref().and_then(|result| result.as_build()).expect("a build");
    assert_eq!((task.usage.turns, result.usage.turns, &task.failure), (7, 7, &None));
}

#[test]
fn a_prepare_is_repeated_only_with_the_same_commit() {
    let case = Case::pushing();
    let with = |number| {
        let prepared = sample::prepared(&case.task, sample::commit(number), Tip::Absent, NOW);
        let (result, usage) = (sample::result(Outcome::Delivered), Usage::default());
        case.step(Event::Prepare { holder: case.holder(), prepared, result, usage })
    };
    let again = with(1).expect("the first answer was lost");
    assert_eq!(again.task.scan_base, case.task.scan_base, "it is set once");
    assert_eq!(with(2), Err(Refusal::WrongState(TaskState::Pushing)));
}

#[test]
fn a_prepared_ticket_is_verified_and_what_it_had_before_unverified_is_nobodys() {
    let mut case = Case::running();
    let own = OwnRef::Wip(case.task.id, case.task.fence);
    let other = OwnRef::Part(case.task.id, case.task.fence);
    let unverified = |own, number| {
        let recorded = RecordedRef::of(own, sample::commit(number));
        RecordedRef { unverified: true, ..recorded }
    };
    for atomic in [true, false] {
        let lease = case.lease.as_mut().expect("it is held");
        // The second try is the one that is prepared; a rebase made the third of it, once.
        let refs = vec![
            unverified(own, 1),
            unverified(own, 2),
            RecordedRef::of(own, sample::commit(3)),
            unverified(other, 1),
        ];
        lease.own_refs = Some(refs);
        let base = Tip::Commit(sample::commit(9));
        let prepared =
            Prepared { atomic, ..sample::prepared(&case.task, sample::commit(2), base, NOW) };
        let (result, usage) = (sample::result(Outcome::Delivered), Usage::default());
        let event = Event::Prepare { holder: case.holder(), prepared, result, usage };
        let after = case.step(event).expect("it is prepared").task;
        let ticket = |number| {
            let recorded = RecordedRef::of(own, sample::commit(number));
            RecordedRef { may_land: atomic, ..recorded }
        };
        assert_eq!(after.own_refs, [ticket(2), ticket(3), unverified(other, 1)], "{atomic}");
    }
}

/// `case` fails of `class`, whose provider names this time.
fn failed_until(case: &Case, class: FailureClass, retry_at: Option<Timestamp>) -> Step {
    let failure = Failure { retry_at, ..Failure::new(class, "slow down") };
    let event =
        Event::Fail { holder: case.holder(), failure, usage: None, revoked: false, left: None };
    case.step(event).expect("a holder may fail")
}

#[test]
fn a_reset_time_is_taken_between_half_a_minute_and_a_week() {
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    for (named, parked) in [
        (Some(Timestamp::MIN), MIN_PARK),
        (Some(Timestamp::from_millis(0)), MIN_PARK),
        (Some(NOW.minus(second)), MIN_PARK),
        (Some(NOW), MIN_PARK),
        (Some(NOW.plus(MIN_PARK - second)), MIN_PARK),
        (Some(NOW.plus(MIN_PARK + second)), MIN_PARK + second),
        (Some(NOW.plus(90 * minute)), 90 * minute),
        (Some(NOW.plus(MAX_PARK)), MAX_PARK),
        (Some(NOW.plus(MAX_PARK + second)), MAX_PARK),
        (Some(Timestamp::MAX), MAX_PARK),
        (None, 15 * minute),
    ] {
        let after = failed_until(&Case::running(), Quota, named);
        assert_eq!(after.task.available_at.since(NOW), parked, "{named:?}");
        assert_eq!((after.task.state, after.task.parks), (TaskState::Queued, 1), "{named:?}");

        // A retry waits for its backoff at least.
        let after = failed_until(&Case::running(), RateLimited, named).task;
        let backoff = rdev_domain::failure::backoff(after.id, after.attempt);
        let waits = named.map_or(backoff, |at| at.since(NOW).clamp(backoff, MAX_PARK));
        assert_eq!(after.available_at.since(NOW), waits, "{named:?}");
    }
}

#[test]
fn a_task_is_parked_twenty_times_and_two_weeks_in_all_and_then_fails() {
    for (wait, parks) in [(MIN_PARK, MAX_PARKS), (MAX_PARK, 2), (MAX_PARKED / 4, 4)] {
        let mut case = Case::running();
        let mut now = NOW;
        let mut parked = 0;
        let last = loop {
            let failure =
                Failure { retry_at: Some(now.plus(wait)), ..Failure::new(Quota, "used up") };
            let event = Event::Fail {
                holder: case.holder(),
                failure,
                usage: None,
                revoked: false,
                left: None,
            };
            let after = step(&case.task, case.lease.as_ref(), event, now).expect("it fails").task;
            if after.state != TaskState::Queued {
                break after;
            }
            parked += 1;
            assert!(parked <= MAX_PARKS, "it is parked again and again");
            now = after.available_at;
            let slots = Slots { taken: 0, limit: 1 };
            let claimed = step(&after, None, sample::claim(1, slots), now).expect("it is due");
            case = Case { task: claimed.task, lease: claimed.lease };
        };
        assert_eq!(parked, parks, "{wait:?} at a time");
        assert_eq!((last.state, last.parks), (TaskState::Failed, parks));
        assert_eq!(last.parked_ms, (wait * parks).as_millis() as u64);
        assert_eq!(last.failure.map(|failure| failure.class), Some(Quota));
        assert!(now.since(NOW) <= MAX_PARKED);
    }
}
