//! Step 1: a task is accepted once, into a project that is ready.

use rdev_domain::git::Tip;
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::lease::Holder;
use rdev_domain::ports::Conflict;
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::pull_request::PullRequestOptions;
use rdev_domain::spec::{AgentName, BuildSpec, Work};
use rdev_domain::task::{Task, TaskState, WipRef};

use super::cases;
use super::world::{MINUTE, World, commit, conflict, key_actor, main, not_found, race};

cases! {
    an_enqueued_task_reads_back_as_it_was_given;
    a_task_enqueued_twice_is_there_once_and_wakes_once;
    twenty_that_enqueue_one_task_leave_one;
    a_task_whose_id_another_one_has_is_refused;
    a_project_that_is_not_ready_accepts_no_task;
    an_unknown_project_accepts_no_task;
    an_unknown_task_is_not_found;
}

async fn an_enqueued_task_reads_back_as_it_was_given(w: World) {
    let project = w.project().await;
    let full = BuildSpec {
        agent: AgentName::Codex,
        model: Some("some-model".to_owned()),
        branch: Some("feature/ä".parse().expect("a branch")),
        pull_request: Some(true),
        pull_request_options: Box::new(PullRequestOptions {
            labels: Some(vec!["made by rdev".parse().expect("a label")]),
            draft: Some(true),
            reviewers: Some(vec!["acme/team".parse().expect("a reviewer")]),
        }),
        verify: vec!["make test".to_owned(), "echo 'ü' | cat".to_owned()],
        timeout_s: 7200,
        stall_timeout_s: 7,
        max_turns: Some(12),
        max_cost_usd: Some(0.37),
        git_url: Some("https://git.example.com/other.git".parse().expect("a clone URL")),
        continue_from: Some(TaskId(w.ulid())),
        commit_message: Some("Make it blue\n\nbecause".to_owned()),
        ..BuildSpec::of("Tabs\there, \"quotes\", back\\slashes, 日本語 and 🦀\nin lines")
    };
    let lineage = TaskId(w.ulid());
    let build = Task {
        work: Work::Build(full),
        priority: 9.try_into().expect("a priority"),
        max_attempts: 10,
        lineage,
        retry_of: None,
        available_at: w.now().plus(MINUTE),
        scan_base: Some(Tip::Commit(commit(7))),
        resume_from: Some(WipRef { task: lineage, fence: Fence(3) }),
        ..w.new_task(&project)
    };
    for task in [build, w.new_task(&project), w.new_check(&project)] {
        let enqueued = w.store.enqueue(&task, &key_actor(), w.now()).await.expect("it is accepted");
        assert_eq!(enqueued.task, task);
        let record = w.read(task.id).await;
        assert_eq!((record.task, record.lease), (task, None));
    }
}

async fn a_task_enqueued_twice_is_there_once_and_wakes_once(w: World) {
    let project = w.project().await;
    let task = w.new_task(&project);
    let first = w.store.enqueue(&task, &key_actor(), w.now()).await.expect("it is accepted");
    let held = w.claim(&project).await;
    let audited = w.audit(&project).await;

    w.pass(MINUTE / 2);
    let again = w.store.enqueue(&task, &key_actor(), w.now()).await.expect("the same again");
    assert_eq!(again.outbox, [], "it is there already and needs no wake-up");
    assert_eq!(again.task, w.read(task.id).await.task, "the answer is the task as it is now");
    assert_eq!(again.task.state, TaskState::Running);
    assert_eq!(w.audit(&project).await, audited, "nothing changed, so nothing is recorded");

    w.finish(&held).await.expect("its holder finishes");
    w.nothing_to_claim(&project).await;
    assert_eq!(first.outbox.len(), 1);
    assert_eq!(w.all_tasks(&project).await.len(), 1);
}

async fn twenty_that_enqueue_one_task_leave_one(w: World) {
    let project = w.project().await;
    let task = w.new_task(&project);
    let answers = race(20, |_| {
        let (w, task) = (w.clone(), task.clone());
        async move { w.store.enqueue(&task, &key_actor(), w.now()).await }
    })
    .await;
    let mut outbox = 0;
    for answer in answers {
        let enqueued = answer.expect("an equal task is answered with the one that is there");
        assert_eq!(enqueued.task, task);
        outbox += enqueued.outbox.len();
    }
    assert_eq!(outbox, 1, "one of them wrote it");
    assert_eq!(w.all_tasks(&project).await.len(), 1);
    w.claim(&project).await;
}

async fn a_task_whose_id_another_one_has_is_refused(w: World) {
    let (mine, other) = (w.project().await, w.project().await);
    let task = w.enqueue(&mine).await;
    let before = w.snapshot(task.id).await;

    let in_another_project = Task { id: task.id, lineage: task.id, ..w.new_task(&other) };
    let answer = w.store.enqueue(&in_another_project, &key_actor(), w.now()).await;
    assert_eq!(conflict(answer), Conflict::IdTaken);
    let of_another_lineage = Task { lineage: TaskId(w.ulid()), ..task.clone() };
    let answer = w.store.enqueue(&of_another_lineage, &key_actor(), w.now()).await;
    assert_eq!(conflict(answer), Conflict::IdTaken);

    assert_eq!(w.snapshot(task.id).await, before);
    let Holder { fence, .. } = w.claim(&mine).await.holder;
    assert_eq!(fence, Fence(1));
    w.nothing_to_claim(&other).await;
}

async fn a_project_that_is_not_ready_accepts_no_task(w: World) {
    for state in
        [ProjectState::Provisioning, ProjectState::ProvisioningFailed, ProjectState::Deleting]
    {
        let project = Project { state, default_branch: main(), ..w.new_project() };
        w.create(&project).await.expect("a new project");
        let task = w.new_task(&project.id);
        let answer = w.store.enqueue(&task, &key_actor(), w.now()).await;
        assert_eq!(conflict(answer), Conflict::ProjectNotReady, "{state:?}");
        not_found(w.store.task(task.id).await);
        w.nothing_to_claim(&project.id).await;
    }
}

async fn an_unknown_project_accepts_no_task(w: World) {
    let nowhere = "nowhere".parse().expect("a slug");
    let task = w.new_task(&nowhere);
    not_found(w.store.enqueue(&task, &key_actor(), w.now()).await);
    not_found(w.store.task(task.id).await);
}

async fn an_unknown_task_is_not_found(w: World) {
    let project = w.project().await;
    let id = TaskId(w.ulid());
    not_found(w.store.task(id).await);
    not_found(w.cancel(id).await);
    not_found(w.store.events(id, 0, 10).await);
    not_found(w.store.diff(id).await);
    assert!(w.audit(&project).await.iter().all(|event| !event.subject.contains(&id.to_string())));
}
