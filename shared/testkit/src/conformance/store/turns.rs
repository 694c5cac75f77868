//! Step 3's fairness: a wake-up is leave to claim for the project whose turn it is.

use std::time::Duration;

use rdev_domain::failure::FailureClass;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::Claim;
use rdev_domain::project::Deletion;
use rdev_domain::record::{Format, VERSION};
use rdev_domain::spec::AgentName;
use rdev_domain::task::{Task, TaskState};

use super::cases;
use super::world::{ClaimedTask, HOUR, MINUTE, Runner, SECOND, World, key_actor};

cases! {
    one_project_s_forty_builds_delay_another_s_first_one_by_one;
    projects_that_wait_take_turns;
    the_project_with_the_fewest_held_tasks_goes_first;
    a_project_without_a_free_slot_is_passed_over;
    a_wake_up_of_a_project_with_nothing_to_do_claims_for_another;
    a_project_whose_tasks_need_another_agent_is_passed_over;
    a_project_that_is_being_deleted_has_no_turn;
    a_task_that_has_become_due_gives_its_project_a_turn;
    a_released_and_a_recovered_task_give_their_project_a_turn;
    a_raised_limit_gives_a_turn;
    an_expired_lease_of_any_project_is_recovered_on_request;
    what_is_due_is_seen_and_what_is_held_or_due_later_is_not;
    a_project_that_waits_is_found_without_a_wake_up;
    each_agent_that_something_due_needs_is_known_once;
}

async fn one_project_s_forty_builds_delay_another_s_first_one_by_one(w: World) {
    let (flooding, other) = (w.project().await, w.project().await);
    for _ in 0..40 {
        w.enqueue(&flooding).await;
    }
    w.pass(SECOND);
    let waiting = w.enqueue(&other).await;
    let first = claim(&w, &flooding).await;
    assert_eq!(first.claimed.project.id, flooding);
    w.pass(MINUTE);
    w.finish(&first).await.expect("a holder may finish");
    // The wake-up is one of the flooding project's, of which there are 39.
    assert_eq!(claim(&w, &flooding).await.id, waiting.id);
}

async fn projects_that_wait_take_turns(w: World) {
    let projects = [w.project().await, w.project().await, w.project().await];
    for project in &projects {
        for _ in 0..3 {
            w.enqueue(project).await;
        }
    }
    let mut served = Vec::new();
    for _ in 0..9 {
        let held = claim(&w, &projects[0]).await;
        w.pass(SECOND);
        w.finish(&held).await.expect("a holder may finish");
        served.push(held.claimed.project.id);
    }
    for round in served.chunks(3) {
        let mut round = round.to_vec();
        round.sort();
        let mut all = projects.to_vec();
        all.sort();
        assert_eq!(round, all, "{served:?}");
    }
    assert_eq!(w.try_claim(&projects[0], &Runner::named("w1")).await, Claim::Nothing);
}

async fn the_project_with_the_fewest_held_tasks_goes_first(w: World) {
    let wide = w.project_with_limit(3).await;
    for _ in 0..3 {
        w.enqueue(&wide).await;
    }
    let held = claim(&w, &wide).await;
    assert_eq!(held.claimed.project.id, wide);
    let narrow = w.project().await;
    let waiting = w.enqueue(&narrow).await;
    assert_eq!(claim(&w, &wide).await.id, waiting.id);
    assert_eq!(claim(&w, &narrow).await.claimed.project.id, wide);
}

async fn a_project_without_a_free_slot_is_passed_over(w: World) {
    let (full, other) = (w.project().await, w.project().await);
    w.hold(&full, 1).await;
    w.enqueue(&full).await;
    assert_eq!(w.try_claim(&full, &Runner::named("w1")).await, Claim::SlotsTaken);
    let waiting = w.enqueue(&other).await;
    assert_eq!(claim(&w, &full).await.id, waiting.id);
    assert_eq!(w.try_claim(&full, &Runner::named("w1")).await, Claim::SlotsTaken);
}

async fn a_wake_up_of_a_project_with_nothing_to_do_claims_for_another(w: World) {
    let (idle, other) = (w.project().await, w.project().await);
    let waiting = w.enqueue(&other).await;
    assert_eq!(claim(&w, &idle).await.id, waiting.id);
    assert_eq!(w.try_claim(&idle, &Runner::named("w1")).await, Claim::Nothing);
}

async fn a_project_whose_tasks_need_another_agent_is_passed_over(w: World) {
    let (special, other) = (w.project().await, w.project().await);
    let special_one = w.enqueue_task(w.build_by(&special, AgentName::Codex)).await;
    w.pass(SECOND);
    let check = w.enqueue_task(w.new_check(&other)).await;
    let bare = Runner::named("bare").with_agents(&[AgentName::Command]);
    assert_eq!(w.claim_as(&special, &bare).await.id, check.id);
    let codex = Some(AgentName::Codex);
    assert_eq!(w.try_claim(&special, &bare).await, Claim::Unsuited { agent: codex });
    let able = Runner::named("able").with_agents(&[AgentName::Codex]);
    assert_eq!(w.claim_as(&other, &able).await.id, special_one.id);
}

async fn a_project_that_is_being_deleted_has_no_turn(w: World) {
    let (leaving, idle) = (w.project().await, w.project().await);
    w.enqueue(&leaving).await;
    let keep = Deletion::KeepRepository;
    let by = key_actor();
    let deleted = w.store.begin_delete_project(&leaving, keep, None, &by, w.now()).await;
    deleted.expect("nothing runs");
    assert_eq!(w.try_claim(&idle, &Runner::named("w1")).await, Claim::Nothing);
    assert_eq!(w.try_claim(&leaving, &Runner::named("w1")).await, Claim::Nothing);
}

async fn a_task_that_has_become_due_gives_its_project_a_turn(w: World) {
    let (later, idle) = (w.project().await, w.project().await);
    let available_at = w.now().plus(MINUTE);
    let parked = w.enqueue_task(Task { available_at, ..w.new_task(&later) }).await;
    assert_eq!(w.try_claim(&idle, &Runner::named("w1")).await, Claim::Nothing);
    w.pass(MINUTE + Duration::from_millis(1));
    // Its own wake-up, which is sent for this time, finds it at once; others after the sweep.
    w.sweep().await;
    assert_eq!(claim(&w, &idle).await.id, parked.id);
}

async fn a_released_and_a_recovered_task_give_their_project_a_turn(w: World) {
    let idle = w.project().await;
    for recovered in [false, true] {
        let project = w.project().await;
        w.enqueue(&project).await;
        let held = w.claim(&project).await;
        if recovered {
            w.let_leases_expire();
            w.recover(held.id).await.expect("the lease has expired");
        } else {
            w.release(&held).await.expect("a holder may release");
        }
        w.pass(HOUR);
        w.sweep().await;
        let again = claim(&w, &idle).await;
        assert_eq!(again.id, held.id);
        w.fail(&again, FailureClass::Invalid).await.expect("a holder may fail");
    }
}

async fn a_raised_limit_gives_a_turn(w: World) {
    let (full, idle) = (w.project().await, w.project().await);
    w.hold(&full, 1).await;
    let second = w.enqueue(&full).await;
    assert_eq!(w.try_claim(&idle, &Runner::named("w1")).await, Claim::Nothing);
    w.set_limit(&full, 2).await;
    assert_eq!(claim(&w, &idle).await.id, second.id);
}

async fn an_expired_lease_of_any_project_is_recovered_on_request(w: World) {
    let (one, other) = (w.running().await, w.running().await);
    assert_eq!(w.store.recover_expired(w.now()).await.expect("an answer"), []);
    w.let_leases_expire();
    w.renew(&other).await.expect("its holder lives");
    let outbox = w.store.recover_expired(w.now()).await.expect("an answer");
    let woken: Vec<&ProjectId> = outbox.iter().map(|entry| &entry.project_id).collect();
    assert_eq!(woken, [&one.claimed.project.id]);
    assert_eq!(w.state(one.id).await, TaskState::Queued);
    assert_eq!(w.state(other.id).await, TaskState::Running);
}

async fn what_is_due_is_seen_and_what_is_held_or_due_later_is_not(w: World) {
    let project = w.project().await;
    let due = async || w.store.due_agents(&project, w.now()).await.expect("an answer");
    let has_due = async || !due().await.agents.is_empty();
    assert!(!has_due().await);
    w.enqueue(&project).await;
    assert!(has_due().await);
    w.claim(&project).await;
    assert!(!has_due().await);
    let available_at = w.now().plus(MINUTE);
    w.enqueue_task(Task { available_at, ..w.new_task(&project) }).await;
    assert!(!has_due().await);
    w.pass(MINUTE + Duration::from_millis(1));
    assert!(has_due().await);
}

async fn a_project_that_waits_is_found_without_a_wake_up(w: World) {
    let waits = async || w.store.waiting_project(w.now()).await.expect("an answer");
    let (site, other) = (w.project().await, w.project().await);
    assert_eq!(waits().await, None);
    w.enqueue(&site).await;
    assert_eq!(waits().await, Some(site.clone()));
    let held = w.claim(&site).await;
    w.enqueue(&site).await;
    assert_eq!(waits().await, None, "its slot is taken");
    // Whoever can do it: a newer program, too.
    let newer = w.of_format(Format::of(VERSION + 1));
    newer.enqueue_task(w.new_check(&other)).await;
    assert_eq!(waits().await, Some(other.clone()));
    newer.claim(&other).await;
    assert_eq!(waits().await, None);
    w.finish(&held).await.expect("a holder may finish");
    assert_eq!(waits().await, Some(site.clone()));
    w.remake(&site).await;
    assert_eq!(waits().await, None, "it was deleted");
}

async fn each_agent_that_something_due_needs_is_known_once(w: World) {
    let project = w.project_with_limit(9).await;
    let of = |agent| w.build_by(&project, agent);
    let due = async || {
        let due = w.store.due_agents(&project, w.now()).await.expect("an answer");
        assert!(!due.more, "the queue is short");
        due.agents
    };
    let (codex, command) = (Some(AgentName::Codex), Some(AgentName::Command));
    w.enqueue_task(of(AgentName::Codex)).await;
    w.enqueue_task(of(AgentName::Codex)).await;
    assert_eq!(due().await, [codex]);
    w.enqueue_task(w.new_check(&project)).await;
    w.enqueue_task(of(AgentName::Command)).await;
    let available_at = w.now().plus(MINUTE);
    w.enqueue_task(Task { available_at, ..of(AgentName::Opencode) }).await;
    assert_eq!(due().await, [None, codex, command]);
    w.pass(MINUTE + Duration::from_millis(1));
    assert_eq!(due().await, [None, Some(AgentName::Opencode), codex, command]);

    // A push needs no agent, whoever made the commit.
    let able = Runner::named("able").with_agents(&[AgentName::Opencode]);
    let check = w.claim_as(&project, &able).await;
    assert_eq!(check.claimed.task.work.agent(), None);
    let held = w.claim_as(&project, &able).await;
    assert_eq!(due().await, [codex, command]);
    w.prepare(&held).await.expect("a holder may prepare");
    w.release(&held).await.expect("a holder may release");
    assert_eq!(due().await, [None, codex, command]);
}

/// What a runner gets that offers every agent, by a wake-up of this project.
async fn claim(w: &World, hint: &ProjectId) -> ClaimedTask {
    w.claim_as(hint, &Runner::named("w1")).await
}
