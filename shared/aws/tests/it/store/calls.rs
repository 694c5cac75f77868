//! How many calls each operation makes. Calls cost money and time; `docs/aws.md` adds them up.

use std::time::Duration;

use rdev_domain::audit::Actor;
use rdev_domain::key::{ApiKey, Scope};
use rdev_domain::lease::{CLOCK_SLACK, LEASE, Progress};
use rdev_domain::page::Page;
use rdev_domain::ports::{AuditFilter, Claim, Record, Store, TaskFilter};
use rdev_domain::request::{RequestKey, StoredAnswer};
use rdev_domain::result::Usage;
use rdev_domain::spec::{AgentName, BuildSpec, Work};
use rdev_domain::step::Event;
use rdev_domain::task::{Task, TaskState};
use rdev_domain::worker::{Worker, WorkerStatus};

use super::{
    Bench, NOW, complete, event, holder, new_domain, new_pipeline, new_task, prepare, ulid, webhook,
};
use rdev_testkit::tools::trial::Outcome;

rdev_testkit::trials! {
    async a_build_makes_few_calls;
    async a_holder_reads_its_task_once_after_another_process_has_changed_it;
    async other_operations_make_few_calls;
    async webhooks_domains_and_pipelines_make_few_calls;
    async a_long_queue_is_read_only_as_far_as_necessary;
}

async fn a_build_makes_few_calls() -> Outcome {
    let bench = Bench::new().await?;
    let by = Actor::maintenance();
    let store = &bench.store;
    let project = bench.project().await;
    assert_eq!(bench.called(), "1 TransactWriteItems", "create");

    // A webhook delivery at its end costs no extra call.
    let task = Task { notify: true, ..new_task(&project) };
    let enqueued = store.enqueue(&task, &by, NOW).await.expect("a queued task");
    assert_eq!(bench.called(), "1 TransactWriteItems", "enqueue");
    store.delete_outbox(&enqueued.outbox).await.expect("it goes");
    assert_eq!(bench.called(), "1 BatchWriteItem", "delete outbox entries");

    let claimed = bench.claimed(&project).await;
    assert_eq!(bench.called(), "1 GetItem, 1 Query, 1 TransactWriteItems", "claim");
    let (id, held) = (claimed.task.id, holder(&claimed));
    store.renew(id, &held, Progress::default(), NOW).await.expect("it is held");
    assert_eq!(bench.called(), "1 UpdateItem", "renew");
    let events = [event(held.fence, 0)];
    store
        .renew(
            id,
            &held,
            Progress { events: &events, usage: Some(Usage::default()), own_refs: None },
            NOW,
        )
        .await
        .expect("it is held");
    assert_eq!(bench.called(), "1 TransactWriteItems", "renew with events");
    let record = Record {
        events: vec![event(held.fence, 1)],
        diff: Some("a diff".to_owned()),
        ..Record::default()
    };
    store.advance(id, prepare(&claimed), record, &by, NOW).await.expect("it is held");
    assert_eq!(bench.called(), "1 TransactWriteItems", "prepare");
    let record = Record {
        events: vec![event(held.fence, 2)],
        diff: Some("another".to_owned()),
        ..Record::default()
    };
    let done = store.advance(id, complete(&claimed), record, &by, NOW).await.expect("it is held");
    assert_eq!(bench.called(), "1 TransactWriteItems", "complete");
    assert_eq!(done.task.state, TaskState::Succeeded);
    let due = store.due_deliveries(NOW, 10).await.expect("an answer");
    assert_eq!(due.iter().map(|delivery| delivery.task_id).collect::<Vec<_>>(), [id]);
    assert_eq!(bench.called(), "1 BatchGetItem, 2 Query", "due deliveries");
    let begun = due[0].begun(NOW);
    assert!(store.update_delivery(&due[0], &begun).await.expect("an answer"));
    assert_eq!(bench.called(), "1 GetItem, 1 UpdateItem", "update a delivery");
    assert!(!store.update_delivery(&due[0], &begun).await.expect("an answer"));
    assert_eq!(bench.called(), "1 GetItem", "a delivery that another has taken");
    let page = Page { limit: 50, before: None };
    assert_eq!(store.deliveries(&project, &page).await.expect("a page").items, [begun]);
    assert_eq!(bench.called(), "1 GetItem, 1 Query", "a project's deliveries");
    assert_eq!(store.due_deliveries(NOW, 10).await.expect("an answer"), []);
    assert_eq!(bench.called(), "2 Query", "no due deliveries");
    assert_eq!(store.events(id, 0, 10).await.expect("events").events.len(), 3);
    assert_eq!(bench.called(), "1 GetItem, 1 Query", "events");
    assert_eq!(store.diff(id).await.expect("a diff").as_deref(), Some("another"));
    assert_eq!(bench.called(), "1 BatchGetItem, 1 GetItem", "diff");
    store.task(id).await.expect("it exists");
    assert_eq!(bench.called(), "1 BatchGetItem", "a task whose project is known");
    Ok(())
}

async fn a_holder_reads_its_task_once_after_another_process_has_changed_it() -> Outcome {
    let bench = Bench::new().await?;
    let by = Actor::maintenance();
    let project = bench.project().await;
    bench.store.enqueue(&new_task(&project), &by, NOW).await.expect("a queued task");
    let claimed = bench.claimed(&project).await;
    let (id, held) = (claimed.task.id, holder(&claimed));
    let api = rdev_aws::DynamoStore::new(bench.client.clone(), "rdev".into(), Default::default());
    api.advance(id, Event::Cancel, Record::default(), &by, NOW).await.expect("it is running");

    bench.called();
    let events = [event(held.fence, 0)];
    let renewal = bench
        .store
        .renew(id, &held, Progress { events: &events, ..Progress::default() }, NOW)
        .await
        .expect("it is held");
    assert!(renewal.cancel_requested, "a renewal with events returns it too");
    assert_eq!(bench.called(), "2 TransactWriteItems");
    let events = [event(held.fence, 1)];
    bench
        .store
        .renew(id, &held, Progress { events: &events, ..Progress::default() }, NOW)
        .await
        .expect("it is held");
    assert_eq!(bench.called(), "1 TransactWriteItems", "it is cached now");
    let release = Event::Release { holder: held };
    let released = bench.store.advance(id, release, Record::default(), &by, NOW).await;
    assert_eq!(released.expect("it is held").task.state, TaskState::Cancelled);
    assert_eq!(bench.called(), "1 BatchGetItem, 2 TransactWriteItems");
    assert_eq!(api.events(id, 0, 10).await.expect("events").events.len(), 2);
    Ok(())
}

async fn other_operations_make_few_calls() -> Outcome {
    let bench = Bench::new().await?;
    let (by, store) = (Actor::maintenance(), &bench.store);
    let project = bench.project().await;
    bench.called();
    assert_eq!(bench.claim(&project).await.expect("an answer"), Claim::Nothing);
    assert_eq!(bench.called(), "2 Query", "a wake-up too many");
    for _ in 0..2 {
        store.enqueue(&new_task(&project), &by, NOW).await.expect("a queued task");
    }
    bench.claimed(&project).await;
    bench.called();
    assert_eq!(bench.claim(&project).await.expect("an answer"), Claim::SlotsTaken);
    assert_eq!(bench.called(), "1 BatchGetItem, 2 Query", "no slot");

    let key = RequestKey("a".repeat(64));
    store.begin_request(&key, "body", ulid(), NOW).await.expect("an answer");
    assert_eq!(bench.called(), "1 PutItem", "begin a request");
    let answer = StoredAnswer {
        status: 202,
        location: None,
        content_type: "application/json".to_owned(),
        body: "{}".to_owned(),
    };
    store.finish_request(&key, &answer, NOW).await.expect("it is kept");
    assert_eq!(bench.called(), "1 UpdateItem", "finish a request");
    let api_key = ApiKey {
        id: "aaaaaaaaaaaa".parse().expect("a key id"),
        name: "ci".to_owned(),
        scopes: vec![Scope::Admin],
        secret_sha256: String::new(),
        created_at: NOW,
        revoked_at: None,
    };
    store.create_key(&api_key, &by, NOW).await.expect("a new id");
    bench.called();
    store.key(&api_key.id).await.expect("it exists");
    assert_eq!(bench.called(), "1 GetItem", "a key");
    store.project(&project).await.expect("it exists");
    assert_eq!(bench.called(), "1 GetItem", "a project");
    let worker = Worker {
        id: "w1".parse().expect("a worker id"),
        hostname: "w1".to_owned(),
        version: "0.1.0".to_owned(),
        status: WorkerStatus::Idle,
        slots: 1,
        running: Vec::new(),
        agents: Vec::new(),
        started_at: NOW,
        last_heartbeat_at: NOW,
    };
    store.heartbeat(&worker, NOW).await.expect("a report is taken");
    assert_eq!(bench.called(), "1 UpdateItem", "a heartbeat");
    store.ping().await.expect("it answers");
    assert_eq!(bench.called(), "1 GetItem", "a ping");

    let page = Page { limit: 50, before: None };
    let of_project = TaskFilter { project: Some(project.clone()), ..TaskFilter::default() };
    store.tasks(&of_project, &page).await.expect("a page");
    assert_eq!(
        bench.called(),
        "1 BatchGetItem, 1 GetItem, 1 Query",
        "a project's tasks, one of them held"
    );
    store.tasks(&TaskFilter::default(), &page).await.expect("a page");
    assert_eq!(bench.called(), "2 BatchGetItem, 4 Query", "all tasks, one of them held");
    let filter = AuditFilter { project: Some(project) };
    store.audit(&filter, &page).await.expect("a page");
    assert_eq!(bench.called(), "1 Query", "a project's audit log");
    store.audit(&AuditFilter::default(), &page).await.expect("a page");
    assert_eq!(bench.called(), "1 BatchGetItem, 4 Query", "the audit log");
    store.work_stats(NOW).await.expect("an answer");
    assert_eq!(bench.called(), "1 BatchGetItem, 13 Query", "the stats");
    store.sweep(NOW).await.expect("an answer");
    assert_eq!(bench.called(), "4 BatchGetItem, 1 GetItem, 15 Query", "a sweep that finds nothing");
    Ok(())
}

async fn webhooks_domains_and_pipelines_make_few_calls() -> Outcome {
    let bench = Bench::new().await?;
    let (by, store) = (Actor::maintenance(), &bench.store);
    let project = bench.project().await;
    bench.called();
    store.set_webhook(&project, Some(&webhook()), &by, NOW).await.expect("a webhook");
    assert_eq!(bench.called(), "1 GetItem, 1 TransactWriteItems", "set a webhook");
    assert_eq!(store.webhook(&project).await.expect("an answer"), Some(webhook()));
    assert_eq!(bench.called(), "1 GetItem", "a webhook");

    let domain = new_domain(&project);
    store.reserve_domain(&domain, &by, NOW).await.expect("a free name");
    assert_eq!(bench.called(), "1 TransactWriteItems", "reserve a domain");
    store.update_domain(&domain, &by, NOW).await.expect("it exists");
    assert_eq!(bench.called(), "1 TransactWriteItems", "update a domain");
    store.domain(&domain.spec.domain).await.expect("it exists");
    assert_eq!(bench.called(), "1 GetItem", "a domain");
    assert_eq!(store.domains(&project).await.expect("domains").len(), 1);
    assert_eq!(bench.called(), "1 BatchGetItem, 1 GetItem, 1 Query", "a project's domains");
    store.forget_domain(&domain, &by, NOW).await.expect("it goes");
    assert_eq!(bench.called(), "1 TransactWriteItems", "forget a domain");
    assert_eq!(store.domains(&project).await.expect("domains"), []);
    assert_eq!(bench.called(), "1 Query", "no domains");

    let pipeline = new_pipeline(&project);
    store.record_pipeline(&pipeline, NOW).await.expect("it is kept");
    assert_eq!(bench.called(), "1 PutItem", "record a pipeline");
    let read = store.pipeline(&project, &pipeline.commit).await.expect("an answer");
    assert_eq!(read, Some(pipeline));
    assert_eq!(bench.called(), "1 GetItem", "a pipeline");
    Ok(())
}

async fn a_long_queue_is_read_only_as_far_as_necessary() -> Outcome {
    let bench = Bench::new().await?;
    let by = Actor::maintenance();
    let project = bench.project().await;
    let of = |agent, priority: u8| {
        let work = Work::Build(BuildSpec { agent, ..BuildSpec::of("make it blue") });
        let priority = priority.try_into().expect("a priority");
        Task { work, priority, ..new_task(&project) }
    };
    let tasks = (0..130).map(|_| of(AgentName::Codex, 5)).collect::<Vec<_>>();
    let enqueue = |task: &Task| {
        let (store, by, task) = (&bench.store, &by, task.clone());
        async move { store.enqueue(&task, by, NOW).await.expect("a queued task") }
    };
    for tasks in tasks.chunks(10) {
        futures_util::future::join_all(tasks.iter().map(enqueue)).await;
    }
    // A more urgent task that has become due, and that the sweep has not promoted yet.
    let parked =
        Task { available_at: NOW.minus(Duration::from_secs(1)), ..of(AgentName::Codex, 9) };
    let early = NOW.minus(Duration::from_secs(60));
    bench.store.enqueue(&parked, &by, early).await.expect("a queued task");
    let last = of(AgentName::Command, 0);
    enqueue(&last).await;

    bench.called();
    let due = bench.store.due_agents(&project, NOW).await.expect("an answer");
    assert_eq!((due.agents, due.more), (vec![Some(AgentName::Codex)], true), "not all is read");
    assert_eq!(bench.called(), "1 Query");
    let worker_id: rdev_domain::ids::WorkerId = "w1".parse().expect("a worker id");
    let owner = rdev_domain::ids::Owner::new(&worker_id, "first");
    let mut can = rdev_domain::ports::Capabilities { worker_id, agents: Vec::new() };
    let unsuited = bench.store.claim_next(&project, &owner, &can, NOW).await;
    let agent = Some(AgentName::Codex);
    assert_eq!(unsuited.expect("an answer"), Claim::Unsuited { agent });
    assert_eq!(bench.called(), "3 Query", "the last one for other projects that wait");
    can.agents = vec![AgentName::Command];
    let found = bench.store.claim_next(&project, &owner, &can, NOW).await.expect("an answer");
    let Claim::Claimed(claimed) = found else { panic!("it is there, not {found:?}") };
    assert_eq!(claimed.task.id, last.id);
    let release = Event::Release { holder: holder(&claimed) };
    bench.store.advance(last.id, release, Record::default(), &by, NOW).await.expect("it is held");
    assert_eq!(bench.claimed(&project).await.task.id, parked.id, "the most urgent one");
    // The claim also finds an expired lease.
    let later = NOW.plus(LEASE + CLOCK_SLACK + Duration::from_secs(1));
    can.agents = AgentName::ALL.to_vec();
    bench.called();
    let found = bench.store.claim_next(&project, &owner, &can, later).await.expect("an answer");
    let Claim::Claimed(claimed) = found else { panic!("it is there, not {found:?}") };
    assert_eq!((claimed.task.id, claimed.task.fence.0), (parked.id, 3));
    let called = bench.called();
    assert!(called.contains("2 TransactWriteItems"), "{called}");
    Ok(())
}
