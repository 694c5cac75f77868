//! Step 1's queue: what is due goes by rank, priority and age; what is due later waits.

use std::time::Duration;

use rdev_domain::failure::FailureClass;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::Claim;
use rdev_domain::spec::AgentName;
use rdev_domain::task::{Task, TaskState};

use super::cases;
use super::world::{HOUR, MINUTE, Runner, SECOND, World};

cases! {
    the_higher_priority_goes_first_and_then_the_older;
    an_hour_of_waiting_counts_as_one_step_of_priority;
    an_unowned_push_goes_before_everything;
    a_postponed_push_is_not_claimed_before_its_time;
    a_parked_task_never_stands_before_a_due_one;
    a_task_that_becomes_due_is_queued_by_its_priority;
    a_runner_gets_the_first_task_that_it_can_do;
    a_runner_that_can_do_no_due_task_learns_which_agent_the_first_needs;
    a_push_needs_no_agent;
}

async fn the_higher_priority_goes_first_and_then_the_older(w: World) {
    let project = w.project().await;
    let mut expected = Vec::new();
    for priority in [0, 5, 9, 5, 0, 9, 3] {
        w.pass(SECOND);
        expected.push((9 - priority, w.enqueue_with_priority(&project, priority).await.id));
    }
    expected.sort_unstable();
    for (_, id) in expected {
        let held = w.claim(&project).await;
        assert_eq!(held.id, id);
        w.finish(&held).await.expect("a holder may finish");
    }
    w.nothing_to_claim(&project).await;
}

async fn an_hour_of_waiting_counts_as_one_step_of_priority(w: World) {
    let project = w.project().await;
    let patient = w.enqueue_with_priority(&project, 3).await;
    let parked = parked(&w, &project, 4, HOUR + SECOND).await;
    w.pass(HOUR);
    // One step more than the patient one, and an hour and a second behind it.
    w.pass(SECOND);
    let urgent = w.enqueue_with_priority(&project, 4).await;
    let most_urgent = w.enqueue_with_priority(&project, 5).await;
    for expected in [most_urgent, patient, parked, urgent] {
        let held = w.claim(&project).await;
        assert_eq!(held.id, expected.id);
        w.finish(&held).await.expect("a holder may finish");
    }
}

async fn an_unowned_push_goes_before_everything(w: World) {
    let project = w.project().await;
    let low = w.enqueue_with_priority(&project, 0).await;
    let pushing = w.claim(&project).await;
    assert_eq!(pushing.id, low.id);
    w.prepare(&pushing).await.expect("a holder may prepare");
    w.enqueue_with_priority(&project, 9).await;
    let urgent = 9.try_into().expect("a priority");
    w.enqueue_task(Task { priority: urgent, ..w.new_check(&project) }).await;
    w.release(&pushing).await.expect("a holder may release");
    assert_eq!(w.claim(&project).await.id, low.id);
}

async fn a_postponed_push_is_not_claimed_before_its_time(w: World) {
    let project = w.project().await;
    let pushing = w.hold(&project, 1).await.remove(0);
    w.prepare(&pushing).await.expect("a holder may prepare");
    let other = w.enqueue_with_priority(&project, 0).await;
    let after = w.fail(&pushing, FailureClass::Infra).await.expect("the server is away");
    assert!(after.task.available_at > w.now());
    let held = w.claim(&project).await;
    assert_eq!(held.id, other.id);
    w.finish(&held).await.expect("a holder may finish");
    w.nothing_to_claim(&project).await;
    w.pass(after.task.available_at.since(w.now()));
    assert_eq!(w.claim(&project).await.id, pushing.id);
}

async fn a_parked_task_never_stands_before_a_due_one(w: World) {
    let project = w.project().await;
    for minutes in 1..=40 {
        parked(&w, &project, 9, minutes * MINUTE).await;
    }
    let due = w.enqueue_with_priority(&project, 0).await;
    let held = w.claim(&project).await;
    assert_eq!(held.id, due.id);
    w.finish(&held).await.expect("a holder may finish");
    w.nothing_to_claim(&project).await;
}

async fn a_task_that_becomes_due_is_queued_by_its_priority(w: World) {
    let project = w.project().await;
    let far = parked(&w, &project, 9, HOUR).await;
    let later = parked(&w, &project, 1, MINUTE).await;
    let urgent = parked(&w, &project, 9, 2 * MINUTE).await;
    let normal = w.enqueue(&project).await;
    let next = async || {
        let held = w.claim(&project).await;
        w.finish(&held).await.expect("a holder may finish");
        held.id
    };

    w.pass(MINUTE - Duration::from_millis(1));
    assert_eq!(next().await, normal.id);
    w.nothing_to_claim(&project).await;
    w.pass(MINUTE + Duration::from_millis(1));
    assert_eq!(next().await, urgent.id, "both are due, and it is more urgent");
    assert_eq!(next().await, later.id);
    w.nothing_to_claim(&project).await;
    assert_eq!(w.state(far.id).await, TaskState::Queued);
}

async fn a_runner_gets_the_first_task_that_it_can_do(w: World) {
    let project = w.project_with_limit(9).await;
    let codex = w.enqueue_task(w.build_by(&project, AgentName::Codex)).await;
    let opencode = w.enqueue_task(w.build_by(&project, AgentName::Opencode)).await;
    let check = w.enqueue_task(w.new_check(&project)).await;

    let bare = Runner::named("bare").with_agents(&[]);
    assert_eq!(w.claim_as(&project, &bare).await.id, check.id, "a check needs no agent");
    let some = Runner::named("some").with_agents(&[AgentName::Command, AgentName::Opencode]);
    assert_eq!(w.claim_as(&project, &some).await.id, opencode.id);
    assert_eq!(w.claim_as(&project, &Runner::named("all")).await.id, codex.id);
}

async fn a_runner_that_can_do_no_due_task_learns_which_agent_the_first_needs(w: World) {
    let project = w.project_with_limit(9).await;
    let task = w.enqueue_task(w.build_by(&project, AgentName::Codex)).await;
    let runner = Runner::named("w1").with_agents(&[AgentName::ClaudeCode]);
    let before = w.snapshot(task.id).await;
    let codex = Claim::Unsuited { agent: Some(AgentName::Codex) };
    assert_eq!(w.try_claim(&project, &runner).await, codex);
    assert_eq!(w.snapshot(task.id).await, before);

    w.pass(SECOND);
    let second = w.build_by(&project, AgentName::Opencode);
    w.enqueue_task(second).await;
    assert_eq!(w.try_claim(&project, &runner).await, codex);
    let urgent = w.build_by(&project, AgentName::Opencode);
    let priority = 9.try_into().expect("a priority");
    w.enqueue_task(Task { priority, ..urgent }).await;
    let opencode = Claim::Unsuited { agent: Some(AgentName::Opencode) };
    assert_eq!(w.try_claim(&project, &runner).await, opencode, "it is first now");
}

async fn a_push_needs_no_agent(w: World) {
    let project = w.project().await;
    w.enqueue_task(w.build_by(&project, AgentName::Codex)).await;
    let pushing = w.claim(&project).await;
    w.prepare(&pushing).await.expect("a holder may prepare");
    w.release(&pushing).await.expect("a holder may release");
    let bare = Runner::named("bare").with_agents(&[]);
    assert_eq!(w.claim_as(&project, &bare).await.id, pushing.id);
}

/// A task of this priority that is due after `wait`.
async fn parked(w: &World, project: &ProjectId, priority: u8, wait: Duration) -> Task {
    let priority = priority.try_into().expect("a priority");
    let available_at = w.now().plus(wait);
    w.enqueue_task(Task { priority, available_at, ..w.new_task(project) }).await
}
