//! Every change leaves one audit event: who, what, on what, when, by which request.

use rdev_domain::audit::{Actor, AuditEvent};
use rdev_domain::failure::FailureClass;
use rdev_domain::key::{ApiKey, Scope};
use rdev_domain::ports::{AuditFilter, DeadLetter, Record};
use rdev_domain::project::{Deletion, Project, ProjectPatch, ProjectState};
use rdev_domain::step::Event;
use rdev_domain::worker::{Worker, WorkerStatus};

use super::cases;
use super::world::{MINUTE, Runner, SECOND, World, key_actor};

cases! {
    every_change_of_a_task_is_recorded;
    a_cancel_names_the_key_and_the_request;
    every_change_of_a_project_is_recorded;
    what_a_deleted_project_leaves_is_recorded;
    changes_of_keys_workers_and_dead_letters_are_recorded;
    what_maintenance_does_is_recorded_as_its_doing;
    what_a_claim_recovers_is_recorded;
    the_audit_log_is_listed_newest_first_in_pages;
}

async fn every_change_of_a_task_is_recorded(w: World) {
    let held = w.running().await;
    w.pass(SECOND);
    w.prepare(&held).await.expect("a holder may prepare");
    w.pass(SECOND);
    w.fail(&held, FailureClass::Infra).await.expect("the server is away");
    w.pass(MINUTE);
    let again = w.claim_as(held.project(), &Runner::named("w2")).await;
    w.complete(&again).await.expect("the holder completes");

    let subject = format!("task/{}", held.id);
    let mut log = w.audit(held.project()).await;
    log.reverse();
    assert!(log.iter().all(|event| event.project_id.as_ref() == Some(held.project())));
    let of_task: Vec<_> = log.iter().filter(|event| event.subject == subject).collect();
    let actions: Vec<_> = of_task.iter().map(|event| event.action.as_str()).collect();
    assert_eq!(
        actions[1..],
        ["task.claimed", "task.prepared", "task.push_postponed", "task.claimed", "task.succeeded"]
    );
    assert!(actions[0].starts_with("task."), "{actions:?}");
    let actors: Vec<_> = of_task.iter().map(|event| event.actor.as_str()).collect();
    let mut expected = vec![key_actor().name()];
    expected.extend(
        ["worker:w1", "worker:w1", "worker:w1", "worker:w2", "worker:w2"].map(String::from),
    );
    assert_eq!(actors, expected);
    assert_eq!(of_task[0].request_id.as_deref(), Some("request-1"));
    assert_eq!(of_task[1].request_id, None);
    assert_eq!(of_task[5].at, w.now());
    assert_eq!(log.len(), 1 + of_task.len(), "and one for the project");
}

async fn a_cancel_names_the_key_and_the_request(w: World) {
    let held = w.running().await;
    w.cancel(held.id).await.expect("a running task can be cancelled");
    newest_is(&w, &format!("task/{}", held.id), "task.cancel_requested").await;
    let queued = w.enqueue(held.project()).await;
    w.cancel(queued.id).await.expect("a queued task can be cancelled");
    newest_is(&w, &format!("task/{}", queued.id), "task.cancelled").await;
}

async fn every_change_of_a_project_is_recorded(w: World) {
    let project = Project { state: ProjectState::Provisioning, ..w.new_project() };
    let subject = format!("project/{}", project.id);
    w.create(&project).await.expect("a new name");
    newest_is(&w, &subject, "project.").await;
    let patch = ProjectPatch { state: Some(ProjectState::Ready), ..ProjectPatch::default() };
    w.store.update_project(&project.id, &patch, &key_actor(), w.now()).await.expect("it is there");
    newest_is(&w, &subject, "project.").await;
    w.store
        .begin_delete_project(&project.id, Deletion::KeepRepository, None, &key_actor(), w.now())
        .await
        .expect("nothing runs");
    newest_is(&w, &subject, "project.").await;
    w.store.forget_project(&project.id, None, &key_actor(), w.now()).await.expect("it is deleting");
    newest_is(&w, &subject, "project.").await;
    let log = w.audit(&project.id).await;
    assert_eq!(log.len(), 4, "{log:?}");
    let mut actions: Vec<_> = log.into_iter().map(|event| event.action).collect();
    actions.sort();
    actions.dedup();
    assert_eq!(actions.len(), 4, "four different things were done: {actions:?}");
}

async fn what_a_deleted_project_leaves_is_recorded(w: World) {
    let left = "the repository \"site\" stays: größe\nand its DNS record";
    for detail in [Some(left), None] {
        let project = w.project().await;
        let (keep, by) = (Deletion::KeepRepository, key_actor());
        w.store.begin_delete_project(&project, keep, None, &by, w.now()).await.expect("none runs");
        w.store.forget_project(&project, detail, &by, w.now()).await.expect("it is deleting");
        let newest = newest_of(&w, &format!("project/{project}")).await;
        assert_eq!(newest.detail.as_deref(), detail);
    }
}

async fn changes_of_keys_workers_and_dead_letters_are_recorded(w: World) {
    let key = ApiKey {
        id: "aaaaaaaaaaa1".parse().expect("a key id"),
        name: "robot".to_owned(),
        scopes: vec![Scope::Admin],
        secret_sha256: "ab".repeat(32),
        created_at: w.now(),
        revoked_at: None,
    };
    w.store.create_key(&key, &key_actor(), w.now()).await.expect("a new id");
    newest_is(&w, "key/aaaaaaaaaaa1", "key.").await;
    w.store.revoke_key(&key.id, &key_actor(), w.now()).await.expect("it is there");
    newest_is(&w, "key/aaaaaaaaaaa1", "key.").await;

    let worker = Worker {
        id: "w1".parse().expect("a worker id"),
        hostname: "w1".to_owned(),
        version: "0.1.0".to_owned(),
        status: WorkerStatus::Idle,
        slots: 1,
        running: Vec::new(),
        agents: Vec::new(),
        started_at: w.now(),
        last_heartbeat_at: w.now(),
    };
    w.store.heartbeat(&worker, w.now()).await.expect("a report is accepted");
    for drain in [true, false] {
        w.store.set_drain(&worker.id, drain, &key_actor(), w.now()).await.expect("it is there");
        newest_is(&w, "worker/w1", "worker.").await;
    }
    let letter = DeadLetter {
        id: w.ulid(),
        at: w.now(),
        body: "garbage".to_owned(),
        reason: "garbage".to_owned(),
        project_id: None,
        receive_count: 10,
    };
    w.store.record_dead_letter(&letter).await.expect("it is recorded");
    w.store.delete_dead_letter(letter.id, &key_actor(), w.now()).await.expect("it goes");
    let log = w.audit_log(None).await;
    assert!(log[0].subject.ends_with(&letter.id.to_string()), "{:?}", log[0]);
    assert_eq!(log[0].actor, key_actor().name());
}

async fn what_maintenance_does_is_recorded_as_its_doing(w: World) {
    let held = w.running().await;
    w.let_leases_expire();
    w.sweep().await;
    let event = newest_of(&w, &format!("task/{}", held.id)).await;
    assert_eq!((event.action.as_str(), event.at), ("task.recovered", w.now()));
    assert_eq!(event.actor, Actor::maintenance().name());

    let stuck = Project { state: ProjectState::Provisioning, ..w.new_project() };
    w.create(&stuck).await.expect("a new name");
    w.pass(3 * MINUTE);
    w.sweep().await;
    let event = newest_of(&w, &format!("project/{}", stuck.id)).await;
    assert_eq!((event.actor, event.at), (Actor::maintenance().name(), w.now()));
}

async fn what_a_claim_recovers_is_recorded(w: World) {
    let held = w.running().await;
    w.let_leases_expire();
    w.claim_as(held.project(), &Runner::named("w2")).await;
    let log = w.audit(held.project()).await;
    let recovered: Vec<_> = log.iter().filter(|e| e.action == "task.recovered").collect();
    assert_eq!(recovered.len(), 1);
    assert_eq!(recovered[0].actor, "worker:w2", "it was this worker that found it dead");
    assert!(log.iter().filter(|event| event.action == "task.claimed").count() == 2);
}

async fn the_audit_log_is_listed_newest_first_in_pages(w: World) {
    let (mine, other) = (w.project().await, w.project().await);
    for project in [&mine, &other, &mine] {
        w.pass(SECOND);
        let task = w.enqueue(project).await;
        let by = key_actor();
        w.advance(task.id, Event::Cancel, Record::default(), &by).await.expect("it is queued");
    }
    let all = w.audit_log(None).await;
    assert_eq!(all.len(), 2 + 3 * 2);
    assert!(all.is_sorted_by(|a, b| a.id > b.id), "newest first, no two alike");
    assert!(all.is_sorted_by(|a, b| a.at >= b.at));
    let of_mine: Vec<_> =
        all.iter().filter(|event| event.project_id.as_ref() == Some(&mine)).cloned().collect();
    assert_eq!(of_mine.len(), 5);
    for limit in [1, 2, 5, 100] {
        let filter = AuditFilter { project: Some(mine.clone()) };
        let mut page = rdev_domain::page::Page { limit, before: None };
        let mut listed = Vec::new();
        loop {
            let part = w.store.audit(&filter, &page).await.expect("a page");
            assert!(part.items.len() <= limit as usize);
            listed.extend(part.items);
            match part.next {
                Some(next) => page.before = Some(next),
                None => break,
            }
        }
        assert_eq!(listed, of_mine, "in pages of {limit}");
    }
}

/// Asserts that the newest audit event is the test key's, now, about `subject`.
async fn newest_is(w: &World, subject: &str, action: &str) {
    let log = w.audit_log(None).await;
    let event = &log[0];
    assert_eq!((event.subject.as_str(), event.at), (subject, w.now()));
    assert!(event.action.starts_with(action), "{event:?}");
    assert_eq!(event.actor, key_actor().name());
    assert_eq!(event.request_id.as_deref(), Some("request-1"));
    w.pass(SECOND);
}

async fn newest_of(w: &World, subject: &str) -> AuditEvent {
    let log = w.audit_log(None).await;
    log.into_iter().find(|event| event.subject == subject).expect("it is recorded")
}
