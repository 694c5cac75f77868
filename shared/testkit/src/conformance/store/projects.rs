//! The life of a project.

use rdev_domain::failure::FailureClass;
use rdev_domain::ids::TaskId;
use rdev_domain::pipeline::CiId;
use rdev_domain::ports::{Conflict, PortResult};
use rdev_domain::project::{Deletion, Messages, Project, ProjectPatch, ProjectState, Pushed};
use rdev_domain::provision::{Provisioning, StepName};
use rdev_domain::pull_request::{Deliver, PullRequestOptions};
use rdev_domain::task::{Task, TaskState};

use super::cases;
use super::race::settled;
use super::world::{
    ClaimedTask, MINUTE, SECOND, World, commit, conflict, key_actor, main, not_found, race,
};

cases! {
    a_project_reads_back_as_it_was_created;
    a_second_project_of_a_name_is_refused;
    a_repeated_creation_returns_what_is_there;
    a_change_changes_what_it_names;
    every_message_is_counted_also_of_several_at_once;
    a_change_that_expects_another_stage_is_refused;
    of_changes_at_once_that_expect_one_stage_one_is_made;
    a_deletion_that_expects_another_stage_is_refused;
    an_unknown_project_is_not_found;
    a_project_with_running_tasks_is_not_deleted;
    a_deleted_project_cancels_its_queue_and_accepts_no_task;
    a_project_is_forgotten_only_when_it_is_being_deleted;
    a_forgotten_name_can_be_used_again;
    enqueues_racing_a_deletion_leave_nothing_queued;
    claims_racing_a_deletion_leave_nothing_running;
}

async fn a_project_reads_back_as_it_was_created(w: World) {
    let full = w.new_project();
    let bare = Project {
        description: "ü\n\"quoted\"".to_owned(),
        template: None,
        git_url: None,
        default_branch: "release/1.0".parse().expect("a branch"),
        build_limit: 100,
        deliver: Deliver::PullRequest,
        pull_request_options: options("a"),
        state: ProjectState::Provisioning,
        ..w.new_project()
    };
    for project in [full, bare] {
        assert_eq!(w.create(&project).await.expect("a new name"), project);
        assert_eq!(w.store.project(&project.id).await.expect("it is there"), project);
    }
}

async fn a_second_project_of_a_name_is_refused(w: World) {
    let project = w.new_project();
    w.create(&project).await.expect("a new name");
    let second = Project { id: project.id.clone(), ..w.new_project() };
    assert_eq!(conflict(w.create(&second).await), Conflict::ProjectExists);
    assert_eq!(w.store.project(&project.id).await.expect("it is there"), project);

    let contested = w.new_project();
    let answers = race(10, |_| {
        let w = w.clone();
        let project = Project { nonce: w.ulid(), ..contested.clone() };
        async move { w.create(&project).await.map_err(|_| ()) }
    })
    .await;
    assert_eq!(answers.into_iter().filter(Result::is_ok).count(), 1);
}

async fn a_repeated_creation_returns_what_is_there(w: World) {
    let project = Project { state: ProjectState::Provisioning, ..w.new_project() };
    w.create(&project).await.expect("a new name");
    let patch = ProjectPatch { state: Some(ProjectState::Ready), ..ProjectPatch::default() };
    let ready = change(&w, &project, &patch).await;
    let audited = w.audit(&project.id).await;
    w.pass(MINUTE);
    let again = Project { created_at: w.now(), updated_at: w.now(), ..project.clone() };
    assert_eq!(w.create(&again).await.expect("the same request, repeated"), ready);
    assert_eq!(w.audit(&project.id).await, audited);
}

async fn a_change_changes_what_it_names(w: World) {
    let project = w.new_project();
    w.create(&project).await.expect("a new name");
    w.pass(MINUTE);
    let patch = ProjectPatch { description: Some("other".to_owned()), ..ProjectPatch::default() };
    let changed = change(&w, &project, &patch).await;
    let expected =
        Project { description: "other".to_owned(), updated_at: w.now(), ..project.clone() };
    assert_eq!(changed, expected);

    let patch = ProjectPatch {
        expected: None,
        description: None,
        default_branch: Some("trunk".parse().expect("a branch")),
        build_limit: Some(7),
        deliver: Some(Deliver::PullRequest),
        pull_request_options: options("b"),
        git_url: Some("https://git.example.com/moved.git".parse().expect("a clone URL")),
        state: Some(ProjectState::ProvisioningFailed),
        provisioning: Some(Provisioning::of(&[StepName::Ci], None, w.now())),
        forge_id: Some(3),
        ci_id: Some(CiId(4)),
        pushed: Some(Pushed { branch: main(), commit: commit(7), at: w.now() }),
        message_at: Some(w.now()),
    };
    let changed = change(&w, &project, &patch).await;
    let expected = Project {
        default_branch: "trunk".parse().expect("a branch"),
        build_limit: 7,
        deliver: Deliver::PullRequest,
        pull_request_options: options("b"),
        git_url: patch.git_url.clone(),
        state: ProjectState::ProvisioningFailed,
        provisioning: Provisioning::of(&[StepName::Ci], None, w.now()),
        forge_id: Some(3),
        ci_id: Some(CiId(4)),
        pushed: patch.pushed.clone(),
        messages: Some(Messages { count: 1, last_at: w.now() }),
        ..expected
    };
    assert_eq!(changed, expected);
    assert_eq!(w.store.project(&project.id).await.expect("it is there"), expected);

    // Of the options, too, what is not named stays.
    let mut patch = ProjectPatch::default();
    patch.pull_request_options.reviewers = Some(vec![]);
    let changed = change(&w, &project, &patch).await;
    let rest = PullRequestOptions { reviewers: Some(vec![]), ..options("b") };
    assert_eq!(changed.pull_request_options, rest);
}

fn options(label: &str) -> PullRequestOptions {
    PullRequestOptions {
        labels: Some(vec![label.parse().expect("a label")]),
        draft: Some(true),
        reviewers: Some(vec!["ann".parse().expect("a reviewer")]),
    }
}

async fn every_message_is_counted_also_of_several_at_once(w: World) {
    let project = w.project().await;
    let told = race(6, |_| {
        let (w, project) = (w.clone(), project.clone());
        async move {
            let patch = ProjectPatch { message_at: Some(w.now()), ..ProjectPatch::default() };
            let (by, now) = (key_actor(), w.now());
            settled(|| w.store.update_project(&project, &patch, &by, now)).await
        }
    });
    for answer in told.await {
        answer.expect("it is there");
    }
    let read = async || w.store.project(&project).await.expect("it is there").messages;
    let first = w.now();
    assert_eq!(read().await, Some(Messages { count: 6, last_at: first }));
    w.pass(MINUTE);
    // Another change counts nothing.
    let patch = ProjectPatch { build_limit: Some(2), ..ProjectPatch::default() };
    w.store.update_project(&project, &patch, &key_actor(), w.now()).await.expect("it is there");
    assert_eq!(read().await, Some(Messages { count: 6, last_at: first }));
}

/// A project that is provisioned and has one step.
fn provisioning(w: &World) -> Project {
    let provisioning = Provisioning::of(&[StepName::Repository], None, w.now());
    Project { state: ProjectState::Provisioning, provisioning, ..w.new_project() }
}

/// Records that its step was done, if it still is as `seen`.
fn step_done(seen: &Project, w: &World) -> ProjectPatch {
    ProjectPatch {
        expected: Some(seen.stage()),
        state: Some(ProjectState::Ready),
        provisioning: Some(seen.provisioning.with(StepName::Repository, None, w.now())),
        forge_id: Some(7),
        ..ProjectPatch::default()
    }
}

async fn a_change_that_expects_another_stage_is_refused(w: World) {
    let seen = provisioning(&w);
    w.create(&seen).await.expect("a new name");
    let described =
        ProjectPatch { description: Some("other".to_owned()), ..ProjectPatch::default() };
    change(&w, &seen, &described).await;
    let failed = ProjectPatch {
        expected: Some(seen.stage()),
        provisioning: Some(seen.provisioning.with(StepName::Repository, Some("away"), w.now())),
        ..ProjectPatch::default()
    };
    let failed = change(&w, &seen, &failed).await;
    let refused = async |patch: &ProjectPatch| {
        let before = w.store.project(&seen.id).await.expect("it is there");
        let audited = w.audit(&seen.id).await;
        let answer = w.store.update_project(&seen.id, patch, &key_actor(), w.now()).await;
        assert_eq!(conflict(answer), Conflict::ProjectChanged);
        assert_eq!(w.store.project(&seen.id).await.expect("it is there"), before);
        assert_eq!(w.audit(&seen.id).await, audited);
    };
    refused(&step_done(&seen, &w)).await; // other steps
    let state = Some(ProjectState::ProvisioningFailed);
    change(&w, &seen, &ProjectPatch { state, ..ProjectPatch::default() }).await;
    refused(&step_done(&failed, &w)).await; // another state
    let newest = w.store.project(&seen.id).await.expect("it is there");
    let ready = change(&w, &seen, &step_done(&newest, &w)).await;
    assert_eq!((ready.state, ready.forge_id), (ProjectState::Ready, Some(7)));

    delete(&w, &seen, None).await.expect("nothing runs");
    let patch = step_done(&ready, &w);
    let answer = w.store.update_project(&seen.id, &patch, &key_actor(), w.now()).await;
    assert_eq!(conflict(answer), Conflict::ProjectNotReady);
    w.store.forget_project(&seen.id, None, &key_actor(), w.now()).await.expect("it is deleting");
    let again = Project {
        id: seen.id.clone(),
        state: seen.state,
        provisioning: seen.provisioning.clone(),
        ..w.new_project()
    };
    w.create(&again).await.expect("the name is free");
    refused(&step_done(&seen, &w)).await; // another project of the name
}

async fn of_changes_at_once_that_expect_one_stage_one_is_made(w: World) {
    let seen = provisioning(&w);
    w.create(&seen).await.expect("a new name");
    let answers = race(8, |_| {
        let (w, seen) = (w.clone(), seen.clone());
        async move {
            let patch = step_done(&seen, &w);
            w.store.update_project(&seen.id, &patch, &key_actor(), w.now()).await.map(drop)
        }
    })
    .await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (1, 7));
    for answer in refused {
        assert_eq!(conflict(answer), Conflict::ProjectChanged);
    }
}

async fn a_deletion_that_expects_another_stage_is_refused(w: World) {
    let seen = provisioning(&w);
    w.create(&seen).await.expect("a new name");
    let ready = change(&w, &seen, &step_done(&seen, &w)).await;
    let task = w.enqueue(&seen.id).await;
    assert_eq!(conflict(delete(&w, &seen, Some(&seen)).await), Conflict::ProjectChanged);
    assert_eq!(w.store.project(&seen.id).await.expect("it is there"), ready);
    assert_eq!(w.state(task.id).await, TaskState::Queued);
    let deleting = delete(&w, &seen, Some(&ready)).await.expect("nothing runs");
    assert_eq!(deleting.state, ProjectState::Deleting);
    assert_eq!(w.state(task.id).await, TaskState::Cancelled);
}

/// Begins to delete a project, if it still is as `seen`.
async fn delete(w: &World, project: &Project, seen: Option<&Project>) -> PortResult<Project> {
    let (id, deletion) = (&project.id, Deletion::KeepRepository);
    let stage = seen.map(Project::stage);
    w.store.begin_delete_project(id, deletion, stage.as_ref(), &key_actor(), w.now()).await
}

async fn an_unknown_project_is_not_found(w: World) {
    let nowhere = "nowhere".parse().expect("a slug");
    let by = key_actor();
    not_found(w.store.project(&nowhere).await);
    let patch = ProjectPatch { build_limit: Some(2), ..ProjectPatch::default() };
    not_found(w.store.update_project(&nowhere, &patch, &by, w.now()).await);
    not_found(
        w.store.begin_delete_project(&nowhere, Deletion::KeepRepository, None, &by, w.now()).await,
    );
    not_found(w.store.forget_project(&nowhere, None, &by, w.now()).await);
}

async fn a_project_with_running_tasks_is_not_deleted(w: World) {
    let held = w.running().await;
    let queued = w.enqueue(held.project()).await;
    refuses_deletion(&w, &held, queued.id).await;
    w.prepare(&held).await.expect("a holder may prepare");
    refuses_deletion(&w, &held, queued.id).await;
    w.release(&held).await.expect("a holder may release");
    refuses_deletion(&w, &held, queued.id).await; // it has no holder, but it may be half pushed
    let again = w.claim(held.project()).await;
    w.complete(&again).await.expect("the holder completes");
    let deleting = w
        .store
        .begin_delete_project(held.project(), Deletion::KeepRepository, None, &key_actor(), w.now())
        .await;
    assert_eq!(deleting.expect("nothing runs").state, ProjectState::Deleting);
}

async fn refuses_deletion(w: &World, held: &ClaimedTask, queued: TaskId) {
    let before = (w.snapshot(held.id).await, w.snapshot(queued).await);
    let answer = w
        .store
        .begin_delete_project(held.project(), Deletion::KeepRepository, None, &key_actor(), w.now())
        .await;
    assert_eq!(conflict(answer), Conflict::TasksRunning);
    assert_eq!((w.snapshot(held.id).await, w.snapshot(queued).await), before);
    let project = w.store.project(held.project()).await.expect("it is there");
    assert_eq!(project.state, ProjectState::Ready);
}

async fn a_deleted_project_cancels_its_queue_and_accepts_no_task(w: World) {
    let project = w.project().await;
    let parked = w.hold(&project, 1).await.remove(0);
    w.fail(&parked, FailureClass::Quota).await.expect("a holder may fail");
    let mut queued = vec![parked.id];
    for _ in 0..30 {
        queued.push(w.enqueue(&project).await.id);
    }
    w.pass(SECOND);
    for _ in 0..2 {
        let deleting = w
            .store
            .begin_delete_project(&project, Deletion::KeepRepository, None, &key_actor(), w.now())
            .await;
        assert_eq!(deleting.expect("nothing runs").state, ProjectState::Deleting);
    }
    for id in queued {
        let record = w.read(id).await;
        assert_eq!((record.task.state, record.lease), (TaskState::Cancelled, None));
        assert_eq!(record.task.finished_at, Some(w.now()));
        let audited = w.audit(&project).await;
        assert_eq!(
            audited
                .iter()
                .filter(|e| e.subject == format!("task/{id}") && e.action == "task.cancelled")
                .count(),
            1
        );
    }
    w.nothing_to_claim(&project).await;
    let task = w.new_task(&project);
    let answer = w.store.enqueue(&task, &key_actor(), w.now()).await;
    assert_eq!(conflict(answer), Conflict::ProjectNotReady);
    let patch = ProjectPatch { state: Some(ProjectState::Ready), ..ProjectPatch::default() };
    let answer = w.store.update_project(&project, &patch, &key_actor(), w.now()).await;
    assert_eq!(conflict(answer), Conflict::ProjectNotReady, "nothing leaves `deleting`");
}

async fn a_project_is_forgotten_only_when_it_is_being_deleted(w: World) {
    let held = w.running().await;
    w.finish(&held).await.expect("a holder may finish");
    let project = held.project();
    let answer = w.store.forget_project(project, None, &key_actor(), w.now()).await;
    assert_eq!(conflict(answer), Conflict::ProjectNotReady);
    w.store
        .begin_delete_project(project, Deletion::KeepRepository, None, &key_actor(), w.now())
        .await
        .expect("nothing runs");
    w.store
        .forget_project(project, None, &key_actor(), w.now())
        .await
        .expect("it is being deleted");
    not_found(w.store.project(project).await);
    not_found(w.store.forget_project(project, None, &key_actor(), w.now()).await);
    w.nothing_to_claim(project).await;
    assert_eq!(w.state(held.id).await, TaskState::Succeeded, "its tasks stay until they expire");
    w.sweep().await;
}

async fn a_forgotten_name_can_be_used_again(w: World) {
    let project = w.new_project();
    w.create(&project).await.expect("a new name");
    w.enqueue(&project.id).await;
    w.store
        .begin_delete_project(&project.id, Deletion::KeepRepository, None, &key_actor(), w.now())
        .await
        .expect("nothing runs");
    w.store.forget_project(&project.id, None, &key_actor(), w.now()).await.expect("it is deleting");
    w.pass(MINUTE);
    let second = Project { id: project.id.clone(), ..w.new_project() };
    assert_eq!(w.create(&second).await.expect("the name is free"), second);
    w.nothing_to_claim(&second.id).await;
    let task = w.enqueue(&second.id).await;
    assert_eq!(w.claim(&second.id).await.id, task.id, "no slot of the first one is used");
}

async fn enqueues_racing_a_deletion_leave_nothing_queued(w: World) {
    for _ in 0..5 {
        let project = w.project().await;
        let accepted = race(20, |number| {
            let (w, project) = (w.clone(), project.clone());
            async move {
                if number == 10 {
                    let deleting = w
                        .store
                        .begin_delete_project(
                            &project,
                            Deletion::KeepRepository,
                            None,
                            &key_actor(),
                            w.now(),
                        )
                        .await;
                    deleting.expect("nothing runs");
                    return None;
                }
                let task: Task = w.new_task(&project);
                match w.store.enqueue(&task, &key_actor(), w.now()).await {
                    Ok(enqueued) => Some(enqueued.task.id),
                    answer => {
                        assert_eq!(conflict(answer), Conflict::ProjectNotReady);
                        None
                    }
                }
            }
        })
        .await;
        let accepted: Vec<_> = accepted.into_iter().flatten().collect();
        let tasks = w.all_tasks(&project).await;
        assert_eq!(tasks.len(), accepted.len(), "what was refused is not there");
        assert!(tasks.iter().all(|record| record.task.state == TaskState::Cancelled));
        w.nothing_to_claim(&project).await;
    }
}

async fn claims_racing_a_deletion_leave_nothing_running(w: World) {
    for round in 0..10 {
        let project = w.project().await;
        let task = w.enqueue(&project).await;
        let (one, other) = (w.clone(), w.clone());
        let (target, deleted) = (project.clone(), project.clone());
        let (claim, deleting) = super::world::race_two(
            async move { one.try_claim(&target, &super::world::Runner::named("w1")).await },
            async move {
                other
                    .store
                    .begin_delete_project(
                        &deleted,
                        Deletion::KeepRepository,
                        None,
                        &key_actor(),
                        other.now(),
                    )
                    .await
            },
        )
        .await;
        let record = w.read(task.id).await;
        match deleting {
            Ok(_) => {
                assert!(!matches!(claim, rdev_domain::ports::Claim::Claimed(_)), "round {round}");
                assert_eq!((record.task.state, record.lease), (TaskState::Cancelled, None));
            }
            Err(refused) => {
                let refused = conflict::<()>(Err(refused));
                assert_eq!(refused, Conflict::TasksRunning, "round {round}");
                assert_eq!(record.task.state, TaskState::Running);
                let project = w.store.project(&project).await.expect("it is there");
                assert_eq!(project.state, ProjectState::Ready);
            }
        }
    }
}

async fn change(w: &World, project: &Project, patch: &ProjectPatch) -> Project {
    let changed = w.store.update_project(&project.id, patch, &key_actor(), w.now()).await;
    changed.expect("a project that is not being deleted can be changed").0
}
