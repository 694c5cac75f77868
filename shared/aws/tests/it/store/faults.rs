//! The store when calls fail: lost answers, throttling, a missing table.

use std::time::{Duration, Instant};

use rdev_aws::DynamoStore;
use rdev_domain::audit::Actor;
use rdev_domain::lease::Progress;
use rdev_domain::page::Page;
use rdev_domain::ports::{AuditFilter, Conflict, PortError, Record, Store, TaskFilter};
use rdev_domain::request::{Begun, RequestKey};
use rdev_domain::step::Event;
use rdev_domain::task::{Task, TaskState};
use rdev_testkit::servers::proxy::{Fault, On, Rule, Service};
use rdev_testkit::tools::trial::Outcome;

use super::{
    Bench, NOW, TABLE, complete, event, holder, new_domain, new_pipeline, new_task, prepare, ulid,
    webhook,
};
use crate::scene::{account, sdk};

rdev_testkit::trials! {
    async an_operation_whose_answer_is_lost_is_done_once;
    async webhooks_domains_and_pipelines_are_changed_once_if_an_answer_is_lost;
    async builds_succeed_when_a_fifth_of_all_calls_fails;
    async an_unreachable_table_is_unavailable_and_then_works_again;
    async a_denied_or_missing_table_is_named_and_not_tried_again;
    async a_write_too_large_for_one_transaction_is_written_in_several;
}

const TABLES: On = On::Service(Service::DynamoDb);

async fn an_operation_whose_answer_is_lost_is_done_once() -> Outcome {
    let bench = Bench::new().await?;
    let by = Actor::maintenance();
    let writes = ["TransactWriteItems", "UpdateItem", "PutItem", "BatchWriteItem"];
    let lose = |call| Rule::next(1, On::Operation(Service::DynamoDb, call), Fault::LoseAnswer);
    let again = || bench.proxy.plan(writes.map(lose));

    again();
    let project = bench.project().await;
    again();
    let task = new_task(&project);
    let enqueued = bench.store.enqueue(&task, &by, NOW).await.expect("a queued task");
    assert_eq!(enqueued.outbox.len(), 1, "the first try was applied");
    again();
    bench.store.delete_outbox(&enqueued.outbox).await.expect("it goes");
    again();
    let claimed = bench.claimed(&project).await;
    let (id, held) = (claimed.task.id, holder(&claimed));
    again();
    bench.store.renew(id, &held, Progress::default(), NOW).await.expect("it is held");
    again();
    bench
        .store
        .renew(id, &held, Progress { events: &[event(held.fence, 0)], ..Progress::default() }, NOW)
        .await
        .expect("it is held");
    for event in [prepare(&claimed), complete(&claimed)] {
        again();
        bench.store.advance(id, event, Record::default(), &by, NOW).await.expect("it is held");
    }
    let (key, nonce) = (RequestKey("k".repeat(64)), ulid());
    again();
    let begun = bench.store.begin_request(&key, "body", nonce, NOW).await.expect("an answer");
    assert_eq!(
        begun,
        Begun::Go { nonce, resumed: false },
        "it has written the present record itself"
    );
    let later = NOW.plus(Duration::from_secs(61));
    again();
    let begun = bench.store.begin_request(&key, "body", ulid(), later).await.expect("an answer");
    assert_eq!(begun, Begun::Go { nonce, resumed: true });
    bench.proxy.plan([]);

    let task = bench.store.task(id).await.expect("it exists").task;
    assert_eq!((task.state, task.fence.0, task.attempt), (TaskState::Succeeded, 1, 1));
    let page = Page { limit: 100, before: None };
    let filter = AuditFilter { project: Some(project) };
    let log = bench.store.audit(&filter, &page).await.expect("a page").items;
    let actions: Vec<&str> = log.iter().rev().map(|event| event.action.as_str()).collect();
    let once =
        ["project.created", "task.enqueued", "task.claimed", "task.prepared", "task.succeeded"];
    assert_eq!(actions, once);
    Ok(())
}

async fn webhooks_domains_and_pipelines_are_changed_once_if_an_answer_is_lost() -> Outcome {
    let bench = Bench::new().await?;
    let (by, store) = (Actor::maintenance(), &bench.store);
    let project = bench.project().await;
    let task = Task { notify: true, ..new_task(&project) };
    store.enqueue(&task, &by, NOW).await.expect("a queued task");
    let writes = ["TransactWriteItems", "UpdateItem", "PutItem"];
    let lose = |call| Rule::next(1, On::Operation(Service::DynamoDb, call), Fault::LoseAnswer);
    let again = || bench.proxy.plan(writes.map(lose));

    again();
    let cancelled = store.advance(task.id, Event::Cancel, Record::default(), &by, NOW).await;
    cancelled.expect("it is queued");
    let due = store.due_deliveries(NOW, 10).await.expect("an answer");
    assert_eq!(due.len(), 1, "{due:?}");
    again();
    let begun = due[0].begun(NOW);
    let took = store.update_delivery(&due[0], &begun).await.expect("an answer");
    assert!(took, "it has written the present record itself");
    assert!(!store.update_delivery(&due[0], &begun).await.expect("an answer"), "only once");

    let domain = new_domain(&project);
    again();
    let reserved = store.reserve_domain(&domain, &by, NOW).await.expect("nobody else has it");
    assert_eq!(reserved, domain);
    again();
    store.update_domain(&domain, &by, NOW).await.expect("it exists");
    again();
    store.forget_domain(&domain, &by, NOW).await.expect("it goes");
    again();
    let pipeline = new_pipeline(&project);
    store.record_pipeline(&pipeline, NOW).await.expect("it is kept");
    again();
    store.set_webhook(&project, Some(&webhook()), &by, NOW).await.expect("a webhook");
    bench.proxy.plan([]);

    assert_eq!(
        store.pipeline(&project, &pipeline.commit).await.expect("an answer"),
        Some(pipeline)
    );
    assert_eq!(store.webhook(&project).await.expect("an answer"), Some(webhook()));
    assert_eq!(store.domains(&project).await.expect("domains"), []);
    let page = Page { limit: 100, before: None };
    let filter = AuditFilter { project: Some(project) };
    let log = store.audit(&filter, &page).await.expect("a page").items;
    let actions: Vec<&str> = log.iter().rev().map(|event| event.action.as_str()).collect();
    let once = [
        "project.created",
        "task.enqueued",
        "task.cancelled",
        "domain.reserved",
        "domain.updated",
        "domain.removed",
        "project.webhook_set",
    ];
    assert_eq!(actions, once);
    Ok(())
}

async fn builds_succeed_when_a_fifth_of_all_calls_fails() -> Outcome {
    let bench = Bench::new().await?;
    let by = Actor::maintenance();
    let projects = [bench.project().await, bench.project().await, bench.project().await];
    bench.proxy.plan([
        Rule::share(0.1, TABLES, Fault::Throttle),
        Rule::share(0.05, TABLES, Fault::Error),
        Rule::share(0.05, TABLES, Fault::LoseAnswer),
    ]);
    let build = async |project| {
        let task = new_task(project);
        tried(|| bench.store.enqueue(&task, &by, NOW)).await;
        let claimed = loop {
            if let Ok(rdev_domain::ports::Claim::Claimed(claimed)) = bench.claim(project).await {
                break *claimed;
            }
        };
        for event in [prepare(&claimed), complete(&claimed)] {
            loop {
                let (id, event, none) = (claimed.task.id, event.clone(), Record::default());
                match bench.store.advance(id, event, none, &by, NOW).await {
                    Ok(_) => break,
                    // The answers of all its tries were lost.
                    Err(PortError::Refused(_)) => break,
                    Err(error) => assert!(error.is_transient(), "{error:?}"),
                }
            }
        }
    };
    for _ in 0..4 {
        futures_util::future::join_all(projects.iter().map(build)).await;
    }
    bench.proxy.plan([]);
    let page = Page { limit: 100, before: None };
    let tasks = bench.store.tasks(&TaskFilter::default(), &page).await.expect("a page").items;
    assert_eq!(tasks.len(), 12);
    for record in tasks {
        let task = record.task;
        assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 1), "{task:?}");
    }
    let stats = bench.store.work_stats(NOW).await.expect("an answer");
    assert_eq!((stats.due, stats.later, stats.running, stats.pushing), (0, 0, 0, 0));
    Ok(())
}

async fn an_unreachable_table_is_unavailable_and_then_works_again() -> Outcome {
    let bench = Bench::new().await?;
    let by = Actor::maintenance();
    let project = bench.project().await;
    for fault in [Fault::Gone, Fault::Throttle, Fault::Error] {
        bench.proxy.plan([Rule::always(TABLES, fault.clone())]);
        let begun = Instant::now();
        let task = new_task(&project);
        for error in [
            bench.store.enqueue(&task, &by, NOW).await.map(drop),
            bench.claim(&project).await.map(drop),
            bench.store.ping().await,
            bench.store.sweep(NOW).await.map(drop),
        ] {
            let error = error.expect_err("it is away");
            assert!(matches!(error, PortError::Unavailable { .. }), "{fault:?}: {error:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(200), "{:?}", begun.elapsed());
    }
    bench.proxy.plan([]);
    bench.store.ping().await.expect("it is back");
    Ok(())
}

async fn a_denied_or_missing_table_is_named_and_not_tried_again() -> Outcome {
    let bench = Bench::new().await?;
    bench.proxy.plan([Rule::always(TABLES, Fault::Refuse(400, "AccessDeniedException"))]);
    bench.proxy.forget_seen();
    let error = bench.store.ping().await.expect_err("it is denied");
    assert!(matches!(error, PortError::Denied { .. }) && !error.is_transient(), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(TABLE) && text.contains("dynamodb:GetItem"), "{text}");
    assert_eq!(bench.called(), "1 GetItem");

    let account = account()?;
    let client = aws_sdk_dynamodb::Client::new(&sdk(&account).await);
    let store = DynamoStore::new(client, "none".to_owned(), Default::default());
    let error = store.ping().await.expect_err("it is missing");
    let source = std::error::Error::source(&error).expect("what is missing").to_string();
    assert!(matches!(error, PortError::Broken { .. }), "{error:?}");
    assert!(source.contains("table none"), "{source}");
    Ok(())
}

async fn a_write_too_large_for_one_transaction_is_written_in_several() -> Outcome {
    let bench = Bench::new().await?;
    let by = Actor::maintenance();
    let project = bench.project().await;
    bench.store.enqueue(&new_task(&project), &by, NOW).await.expect("a queued task");
    let claimed = bench.claimed(&project).await;
    let (id, fence) = (claimed.task.id, claimed.lease.fence);
    let text = "x".repeat(60_000);
    let large = |n| {
        let data = serde_json::json!({ "text": text, "n": n });
        rdev_domain::event::BuildEvent { data, ..event(fence, n) }
    };
    let mut sent: Vec<_> = (0..80).map(large).collect();
    let renewed = bench
        .store
        .renew(id, &holder(&claimed), Progress { events: &sent, ..Progress::default() }, NOW)
        .await;
    renewed.expect("4.8 MB of events");
    let last: Vec<_> = (80..160).map(large).collect();
    let diff = "+ a line of a large diff\n".repeat(50_000);
    let record = Record { events: last.clone(), diff: Some(diff.clone()), ..Record::default() };
    let release = Event::Release { holder: holder(&claimed) };
    bench.store.advance(id, release, record, &by, NOW).await.expect("it is held");
    sent.extend(last);
    let mut read = Vec::new();
    while read.len() < sent.len() {
        let after = read.last().map_or(0, |event: &rdev_domain::event::BuildEvent| event.seq);
        let page = bench.store.events(id, after, 30).await.expect("events").events;
        assert!(!page.is_empty(), "{} events can be read", read.len());
        read.extend(page);
    }
    assert!(read == sent, "each once and in order");
    assert!(bench.store.diff(id).await.expect("a diff").is_some_and(|read| read == diff));
    Ok(())
}

/// Repeats calls that fail transiently.
async fn tried<T, F>(call: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, PortError>>,
{
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(PortError::Conflict(Conflict::Contended) | PortError::Unavailable { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}
