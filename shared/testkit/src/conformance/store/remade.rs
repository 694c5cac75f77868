//! A project that was deleted and made anew under its name: what the earlier one has left is
//! nothing to it. `docs/protocol.md`, "project's nonce".

use rdev_domain::dns::{Domain, DomainSpec, Target, Ttl};
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::page::Page;
use rdev_domain::ports::{Claim, Conflict, PortResult, TaskFilter};
use rdev_domain::project::Project;
use rdev_domain::step;
use rdev_domain::task::{Task, TaskState};
use ulid::Ulid;

use super::cases;
use super::world::{Runner, World, conflict, key_actor};

cases! {
    a_list_of_a_project_has_no_tasks_of_an_earlier_one_of_its_name;
    a_task_of_an_earlier_project_is_not_retried;
    a_task_for_an_earlier_project_is_not_queued;
    a_task_that_an_earlier_project_has_left_is_cancelled_and_blocks_nothing;
    a_push_that_an_earlier_project_has_left_is_not_claimed_and_blocks_nothing;
    a_list_of_deliveries_has_none_of_an_earlier_project;
    a_domain_for_an_earlier_project_is_not_reserved;
    tasks_without_a_nonce_belong_to_the_project_that_is_older_than_they_are;
}

async fn a_list_of_a_project_has_no_tasks_of_an_earlier_one_of_its_name(w: World) {
    let site = w.project().await;
    let earlier = cancelled(&w, &site).await;
    assert_eq!(listed(&w, &site, None).await, [earlier.id]);
    w.remake(&site).await;
    assert_eq!(listed(&w, &site, None).await, []);
    let later = cancelled(&w, &site).await;
    for state in [None, Some(TaskState::Cancelled)] {
        assert_eq!(listed(&w, &site, state).await, [later.id], "{state:?}");
    }
    // By their ids, both are there: nobody is told that a task never was.
    assert_eq!(w.state(earlier.id).await, TaskState::Cancelled);
}

async fn a_task_of_an_earlier_project_is_not_retried(w: World) {
    let site = w.project().await;
    let earlier = cancelled(&w, &site).await;
    w.remake(&site).await;
    let retry = step::retry(&earlier, TaskId(w.ulid()), w.now()).expect("it was cancelled");
    assert_eq!(conflict(enqueue(&w, &retry).await), Conflict::ProjectReplaced);
    // Nor by a task that says it is the later project's.
    let retry = Task { project_nonce: w.nonce(&site), ..retry };
    assert_eq!(conflict(enqueue(&w, &retry).await), Conflict::ProjectReplaced);
    assert_eq!(w.read(earlier.id).await.task.retried_as, None);
    w.nothing_to_claim(&site).await;
}

async fn a_task_for_an_earlier_project_is_not_queued(w: World) {
    let site = w.project().await;
    let late = w.new_task(&site);
    w.remake(&site).await;
    assert_eq!(conflict(enqueue(&w, &late).await), Conflict::ProjectReplaced);
    w.nothing_to_claim(&site).await;
}

async fn a_task_that_an_earlier_project_has_left_is_cancelled_and_blocks_nothing(w: World) {
    let site = w.project().await;
    let left = w.enqueue(&site).await;
    let own = w.enqueue(&site).await;
    as_of_another_project(&w, &left).await;
    let held = w.claim(&site).await;
    assert_eq!(held.id, own.id);
    assert_eq!(w.state(left.id).await, TaskState::Cancelled);
}

async fn a_push_that_an_earlier_project_has_left_is_not_claimed_and_blocks_nothing(w: World) {
    let site = w.project().await;
    w.enqueue(&site).await;
    let left = w.claim(&site).await;
    w.prepare(&left).await.expect("a holder may prepare");
    w.release(&left).await.expect("a holder may release");
    as_of_another_project(&w, &w.read(left.id).await.task).await;
    let claim = w.try_claim(&site, &Runner::named("w1")).await;
    assert_eq!(claim, Claim::Unsuited { agent: None }, "every runner could do it");
    let own = w.enqueue(&site).await;
    assert_eq!(w.claim(&site).await.id, own.id);
    assert_eq!(w.state(left.id).await, TaskState::Pushing);
}

async fn a_list_of_deliveries_has_none_of_an_earlier_project(w: World) {
    let site = w.project().await;
    let earlier = reported(&w, &site).await;
    assert_eq!(deliveries(&w, &site).await, [earlier]);
    w.remake(&site).await;
    assert_eq!(deliveries(&w, &site).await, []);
    let later = reported(&w, &site).await;
    assert_eq!(deliveries(&w, &site).await, [later]);
}

async fn a_domain_for_an_earlier_project_is_not_reserved(w: World) {
    let earlier = w.create(&w.new_project()).await.expect("a project of a new name");
    let domain = domain_of(&earlier, w.ulid(), &w);
    w.remake(&earlier.id).await;
    let refused = w.store.reserve_domain(&domain, &key_actor(), w.now()).await;
    assert_eq!(conflict(refused), Conflict::ProjectReplaced);
    assert_eq!(w.store.domains(&earlier.id).await.expect("an answer"), []);
}

async fn tasks_without_a_nonce_belong_to_the_project_that_is_older_than_they_are(w: World) {
    let site = w.project().await;
    let old = Task { project_nonce: Ulid::nil(), ..w.new_task(&site) };
    let old = w.enqueue_task(old).await;
    assert_eq!(listed(&w, &site, None).await, [old.id]);
    w.cancel(old.id).await.expect("a queued task can be cancelled");
    w.remake(&site).await;
    assert_eq!(listed(&w, &site, None).await, []);
    let old = w.read(old.id).await.task;
    let retry = step::retry(&old, TaskId(w.ulid()), w.now()).expect("it was cancelled");
    assert_eq!(conflict(enqueue(&w, &retry).await), Conflict::ProjectReplaced);
    let new = Task { project_nonce: Ulid::nil(), ..w.new_task(&site) };
    let new = w.enqueue_task(new).await;
    assert_eq!(w.claim(&site).await.id, new.id);
}

async fn enqueue(w: &World, task: &Task) -> PortResult<()> {
    w.store.enqueue(task, &key_actor(), w.now()).await.map(|_| ())
}

/// A task of the project that was cancelled.
async fn cancelled(w: &World, project: &ProjectId) -> Task {
    let task = w.enqueue(project).await;
    w.cancel(task.id).await.expect("a queued task can be cancelled").task
}

/// A task whose end is reported to the project's webhook.
async fn reported(w: &World, project: &ProjectId) -> TaskId {
    let task = w.enqueue_task(Task { notify: true, ..w.new_task(project) }).await;
    w.cancel(task.id).await.expect("a queued task can be cancelled");
    task.id
}

/// Writes the task's record as it would be if another project of the name had made it.
async fn as_of_another_project(w: &World, task: &Task) {
    let other = Task { project_nonce: Ulid::from_parts(1, 1), ..task.clone() };
    let body = serde_json::to_string(&other).expect("a task is JSON");
    w.replace_record(task.id, "build", body).await;
}

async fn listed(w: &World, project: &ProjectId, state: Option<TaskState>) -> Vec<TaskId> {
    let filter = TaskFilter { project: Some(project.clone()), state, builds_only: false };
    let page = Page { limit: 100, before: None };
    let listed = w.store.tasks(&filter, &page).await.expect("a page");
    listed.items.into_iter().map(|record| record.task.id).collect()
}

async fn deliveries(w: &World, project: &ProjectId) -> Vec<TaskId> {
    let page = Page { limit: 100, before: None };
    let listed = w.store.deliveries(project, &page).await.expect("a page");
    listed.items.into_iter().map(|delivery| delivery.task_id).collect()
}

fn domain_of(project: &Project, id: Ulid, w: &World) -> Domain {
    let spec = DomainSpec {
        domain: format!("{}.example.com", project.id).parse().expect("a name"),
        target: Target::A([93, 184, 216, 34].into()),
        proxied: false,
        ttl: Ttl::AUTOMATIC,
    };
    Domain::new(project, spec, id, w.now())
}
