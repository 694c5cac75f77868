//! The refs that a failed task has left in its repository.

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{LeftRef, OwnRef};
use rdev_domain::ids::TaskId;
use rdev_domain::step::{Event, Step, retry};
use rdev_domain::task::TaskState;
use ulid::Ulid;

use super::sample::{self, Case, NOW, claimed_again};

fn part(case: &Case) -> LeftRef {
    let own = OwnRef::Part(case.task.id, case.task.fence);
    LeftRef { own, commit: sample::commit(5), branch: true }
}

fn fails(case: &Case, class: FailureClass, left: Option<Vec<LeftRef>>) -> Step {
    let failure = Failure::new(class, "as the test wants it");
    let holder = case.holder();
    let event = Event::Fail { holder, failure, usage: None, revoked: false, left };
    case.step(event).expect("it fails")
}

#[test]
fn what_a_failed_attempt_has_left_is_recorded_until_a_later_one_has_seen_the_repository() {
    let mut first = Case::running();
    first.task.max_attempts = 3;
    let left = vec![part(&first)];
    let waits = fails(&first, FailureClass::Infra, Some(left.clone()));
    assert_eq!((waits.task.state, &waits.task.left_refs), (TaskState::Queued, &left));
    let second = claimed_again(&waits);
    // It has not come as far as the repository.
    let unseen = fails(&second, FailureClass::Auth, None);
    assert_eq!((unseen.task.state, unseen.task.left_refs), (TaskState::Failed, left));
    let seen = fails(&second, FailureClass::Auth, Some(vec![]));
    assert_eq!((seen.task.state, seen.task.left_refs), (TaskState::Failed, vec![]));
}

#[test]
fn a_task_that_ends_well_has_left_nothing_and_a_retry_begins_with_nothing() {
    let mut first = Case::running();
    first.task.max_attempts = 3;
    let left = Some(vec![part(&first)]);
    let second = claimed_again(&fails(&first, FailureClass::Infra, left.clone()));
    let finished = second.step(sample::finish(second.holder())).expect("it succeeds");
    assert_eq!(finished.task.left_refs, []);
    let cancelled = fails(&second, FailureClass::Cancelled, left.clone());
    assert_eq!((cancelled.task.state, cancelled.task.left_refs), (TaskState::Cancelled, vec![]));
    let failed = fails(&second, FailureClass::Auth, left).task;
    let new = retry(&failed, TaskId(Ulid::from_parts(2, 2)), NOW).expect("it can be retried");
    assert_eq!(new.left_refs, []);
}

#[test]
fn a_left_ref_reads_back_what_it_writes_and_older_records_name_none() {
    let left = part(&Case::running());
    let text = serde_json::to_string(&left).expect("JSON");
    assert_eq!(serde_json::from_str::<LeftRef>(&text).expect("it reads back"), left);
    assert_eq!(left.name(), format!("refs/heads/{}", left.own.path()));
    let mut record = serde_json::to_value(&Case::running().task).expect("JSON");
    assert_eq!(record.get("left_refs"), None);
    record["left_refs"] = serde_json::json!([left]);
    let read: rdev_domain::task::Task = serde_json::from_value(record).expect("a task");
    assert_eq!(read.left_refs, [left]);
}
