//! Attempts that run no agent, because an earlier one has finished the work.

use rdev_domain::failure::FailureClass;
use rdev_domain::git::{OwnRef, RecordedRef};
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::step::{Event, MAX_PUSH_ATTEMPTS, MAX_UNVERIFIED_TRIES};
use rdev_domain::task::{Task, TaskState};
use ulid::Ulid;

use super::sample::{self, Case, claimed_again, lost};

/// A second attempt, which has recorded that it takes over the first one's finished work.
fn adopting() -> Case {
    let mut first = Case::running();
    first.task.max_attempts = 3;
    adopts(claimed_again(&lost(&first)))
}

fn adopts(mut case: Case) -> Case {
    let own = OwnRef::Wip(case.task.id, case.task.fence);
    let adopted_by = Some(case.task.fence);
    let ticket = RecordedRef { adopted_by, ..RecordedRef::of(own, sample::commit(1)) };
    case.lease.as_mut().expect("it is held").own_refs = Some(vec![ticket]);
    case
}

fn spent(task: &Task) -> (u32, u32) {
    (task.attempt, task.push_attempt)
}

#[test]
fn an_attempt_that_finds_the_work_finished_spends_a_push_attempt_however_it_ends() {
    let case = adopting();
    assert_eq!(spent(&case.task), (2, 0), "nobody knows when it is claimed");
    let prepared = case.step(sample::prepare(case.holder(), &case.task, sample::NOW));
    let prepared = prepared.expect("it is prepared");
    assert_eq!(spent(&prepared.task), (1, 1));
    let again = Case { task: prepared.task, lease: prepared.lease };
    let completed = again.step(sample::complete(again.holder())).expect("it is completed");
    assert_eq!(spent(&completed.task), (1, 1), "it counts once");

    let finished = case.step(sample::finish(case.holder())).expect("the branch has it already");
    assert_eq!(spent(&finished.task), (1, 1));
    let failed = case.step(sample::fail(case.holder(), FailureClass::Infra)).expect("it fails");
    assert_eq!((spent(&failed.task), failed.task.state), ((1, 1), TaskState::Queued));
    let died = lost(&case);
    assert_eq!((spent(&died.task), died.task.state), ((1, 1), TaskState::Queued));
    let parked = case.step(sample::fail(case.holder(), FailureClass::Quota)).expect("it is parked");
    assert_eq!(spent(&parked.task), (1, 1));
    let released = case.step(Event::Release { holder: case.holder() }).expect("it is released");
    assert_eq!(spent(&released.task), (1, 0), "a release spends nothing");
}

#[test]
fn workers_that_die_while_they_push_finished_work_do_not_spend_its_attempts() {
    let mut case = adopting();
    let mut deaths = 0;
    let last = loop {
        let step = lost(&case);
        deaths += 1;
        if step.task.state.is_terminal() {
            break step.task;
        }
        assert_eq!((step.task.state, step.task.attempt), (TaskState::Queued, 1));
        case = adopts(claimed_again(&step));
    };
    assert_eq!((last.state, deaths), (TaskState::Failed, MAX_PUSH_ATTEMPTS));
}

#[test]
fn work_that_kills_whoever_verifies_it_is_done_anew_after_three_deaths() {
    let mut case = adopting();
    let unverified = |case: &mut Case| {
        let lease = case.lease.as_mut().expect("it is held");
        lease.own_refs.iter_mut().flatten().for_each(|recorded| recorded.unverified = true);
    };
    for deaths in 1..=MAX_UNVERIFIED_TRIES {
        unverified(&mut case);
        let step = lost(&case);
        assert_eq!(spent(&step.task), (1, deaths));
        assert_eq!(step.task.own_refs.is_empty(), deaths == MAX_UNVERIFIED_TRIES);
        case = adopts(claimed_again(&step));
    }
    let verified = lost(&case).task;
    assert_eq!(verified.own_refs.len(), 1, "what was verified stays");
}

#[test]
fn finished_work_that_conflicts_is_done_again_with_the_attempts_that_are_left() {
    let mut case = adopting();
    case.task.max_attempts = 2;
    let fence = case.task.fence;
    let step = case.step(sample::fail(case.holder(), FailureClass::Conflict)).expect("it fails");
    assert_eq!((step.task.state, step.task.wip_floor), (TaskState::Queued, fence));
    assert_eq!(spent(&step.task), (1, 0), "what it is pushed for from now on is new work");
    let again = claimed_again(&step);
    assert_eq!(again.task.attempt, 2);
    assert_eq!(lost(&again).task.state, TaskState::Failed, "the agent ran in the last attempt");
}

#[test]
fn what_another_attempt_or_another_task_has_adopted_spends_no_push_attempt() {
    for foreign in [false, true] {
        let mut case = adopting();
        let lease = case.lease.as_mut().expect("it is held");
        let refs = lease.own_refs.as_mut().expect("it has recorded one");
        if foreign {
            let id = TaskId(Ulid::from_parts(1, 1));
            refs[0].own = OwnRef::Wip(id, case.task.fence);
        } else {
            refs[0].adopted_by = Some(Fence(case.task.fence.0 - 1));
        }
        assert_eq!(spent(&lost(&case).task), (2, 0), "{foreign}");
    }
}
