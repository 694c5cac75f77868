//! What a retry of a task inherits, and which tasks are retried.

use rdev_domain::failure::{Failure, FailureClass, FailureClass::*, Unfinished};
use rdev_domain::git::{OwnRef, RecordedRef, Tip};
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::step::{Refusal, record_retry, retry};
use rdev_domain::task::{Task, TaskState, WipRef};
use ulid::Ulid;

use super::sample::{self, Case, NOW, claimed_again, lost};

#[test]
fn a_retry_inherits_what_the_class_says_and_what_the_request_said() {
    let id = TaskId(Ulid::from_parts(1_900_000_000_000, 7));
    let first = TaskId(Ulid::from_parts(1_700_000_000_000, 1));
    let resumed = Some(WipRef { task: first, fence: Fence(3) });
    for class in FailureClass::ALL {
        for case in [Case::running(), Case::pushing()] {
            let mut old = case.task.clone();
            old.state = TaskState::Failed;
            old.failure = Some(Failure::new(class, "as the test wants it"));
            // Nothing that is inherited is at its default.
            old.priority = 7.try_into().expect("a priority");
            old.max_attempts = 9;
            old.notify = true;
            (old.lineage, old.retry_of, old.resume_from) = (first, Some(first), resumed);
            old.scan_base = Some(Tip::Commit(sample::commit(4)));
            let prepared = old.prepared.as_ref().map(|prepared| prepared.wip);
            let resume_from = match class {
                Poison => {
                    let refused = retry(&old, id, NOW);
                    assert_eq!(refused, Err(Refusal::NotRetryable(TaskState::Failed)));
                    continue;
                }
                Conflict | VerifyFailed | HistoryRewritten => None,
                Invalid => prepared,
                PushRejected | Auth | Infra => prepared.or(resumed),
                Quota | RateLimited | AgentFailed | AgentStalled | Timeout | BudgetExceeded
                | Cancelled | WorkerLost => resumed,
            };
            let mut expected = Task::new(id, old.project_id.clone(), old.work.clone(), NOW);
            (expected.priority, expected.max_attempts) = (old.priority, 9);
            (expected.notify, expected.retry_of) = (true, Some(old.id));
            if class != HistoryRewritten {
                (expected.lineage, expected.scan_base) = (first, old.scan_base.clone());
            }
            expected.resume_from = resume_from;
            // A version that recorded no refs had one ticket, if it had prepared.
            if let Some(prepared) = &old.prepared {
                let WipRef { task, fence } = prepared.wip;
                let ticket = RecordedRef::of(OwnRef::Wip(task, fence), prepared.commit.clone());
                expected.own_refs = vec![ticket];
            }
            assert_eq!(retry(&old, id, NOW), Ok(expected.clone()), "{class:?}");
            // Of what is recorded every ref is inherited, and nothing else.
            let recorded = RecordedRef::of(OwnRef::Kept(first), sample::commit(6));
            old.own_refs = vec![RecordedRef { may_land: true, ..recorded }];
            expected.own_refs.clone_from(&old.own_refs);
            assert_eq!(retry(&old, id, NOW), Ok(expected), "{class:?}");
        }
    }
}

#[test]
fn a_retry_of_a_cancelled_task_resumes_where_that_one_did() {
    let mut old = Case::cancelled().task;
    let resumed = Some(WipRef { task: old.id, fence: Fence(3) });
    old.resume_from = resumed;
    let new = retry(&old, TaskId(Ulid::from_parts(1_900_000_000_000, 7)), NOW).expect("a retry");
    assert_eq!((new.resume_from, new.lineage), (resumed, old.lineage));
}

#[test]
fn the_table_says_whose_finished_work_a_retry_may_deliver_and_what_is_kept() {
    for class in FailureClass::ALL {
        let rules = class.rules();
        let wrong = [Conflict, VerifyFailed, Invalid, HistoryRewritten, Poison].contains(&class);
        assert_eq!(rules.retry.adopts_finished_work(), !wrong, "{class:?}");
        let kept = [BudgetExceeded, Timeout].contains(&class);
        assert_eq!(rules.unfinished == Unfinished::Kept, kept, "{class:?}");
        assert_eq!(rules.names_a_time, [Quota, RateLimited].contains(&class), "{class:?}");
    }
}

#[test]
fn only_what_failed_or_was_cancelled_is_retried() {
    let id = TaskId(Ulid::from_parts(1_900_000_000_000, 7));
    for state in TaskState::ALL {
        let mut task = sample::task(1, NOW);
        task.state = state;
        let may = matches!(state, TaskState::Failed | TaskState::Cancelled);
        assert_eq!(retry(&task, id, NOW).is_ok(), may, "{state:?}");
    }
}

#[test]
fn a_retry_of_a_push_in_doubt_inherits_it_and_one_with_a_lineage_of_its_own_does_not() {
    for (class, atomic, inherits) in
        [(Auth, false, true), (Auth, true, false), (HistoryRewritten, false, false)]
    {
        let mut case = Case::pushing();
        case.task.prepared.as_mut().expect("it is prepared").atomic = atomic;
        let case = claimed_again(&lost(&case));
        let failed = case.step(sample::fail(case.holder(), class)).expect("it fails").task;
        assert!(failed.failure.as_ref().expect("a failure").push_in_doubt, "{class:?}");
        let new = retry(&failed, TaskId(Ulid::from_parts(2, 2)), NOW).expect("it is retried");
        assert_eq!(new.in_doubt, inherits, "{class:?}");
    }
}

#[test]
fn a_retry_is_recorded_once_and_only_on_a_task_that_failed_or_was_cancelled() {
    let (first, second) = (TaskId(Ulid(1)), TaskId(Ulid(2)));
    for state in TaskState::ALL {
        let old = Task { state, ..Case::running().task };
        let recorded = record_retry(&old, first, NOW);
        if !matches!(state, TaskState::Failed | TaskState::Cancelled) {
            assert_eq!(recorded, Err(Refusal::NotRetryable(state)));
            continue;
        }
        let recorded = recorded.expect("it has none yet");
        let expected = Task { retried_as: Some(first), updated_at: NOW, ..old };
        assert_eq!(recorded, expected);
        assert_eq!(record_retry(&recorded, first, NOW), Ok(recorded.clone()), "the same again");
        assert_eq!(record_retry(&recorded, second, NOW), Err(Refusal::RetriedAlready(first)));
    }
}
