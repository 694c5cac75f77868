//! Store and queue behind a proxy that makes calls fail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use rdev_aws::{Settings, SqsQueue};
use rdev_domain::ports::{PortError, Queue, QueueStats};
use rdev_domain::wake_up::WakeUp;
use rdev_testkit::servers::proxy::{Fault, On, Proxy, Rule, Service};
use rdev_testkit::tools::needs::NotRun;
use rdev_testkit::tools::trial::Outcome;

use crate::scene::{account, queues, sdk};

rdev_testkit::trials! {
    async a_send_whose_answer_is_lost_is_tried_again_and_the_wake_up_arrives_at_least_once;
    async throttled_calls_and_broken_answers_succeed_when_they_are_tried_again;
    async an_unreachable_queue_is_unavailable_after_a_few_tries;
    async a_call_that_hangs_is_given_up_and_tried_again;
    async a_received_message_whose_answer_is_lost_is_received_again;
    async no_message_is_lost_when_a_fifth_of_all_calls_is_throttled;
    async a_denied_or_missing_queue_is_named_and_not_tried_again;
    fn concurrent_deletes_share_calls_and_all_succeed;
    async an_idle_runner_polls_three_times_a_minute;
    fn a_delete_whose_caller_is_dropped_does_not_affect_others;
}

const SQS: On = On::Service(Service::Sqs);
const SEND: On = On::Operation(Service::Sqs, "SendMessage");
const RECEIVE: On = On::Operation(Service::Sqs, "ReceiveMessage");
const DELETE: On = On::Operation(Service::Sqs, "DeleteMessage");
const SECOND: Duration = Duration::from_secs(1);

/// A queue behind a proxy, with a visibility timeout of one second.
struct Bench {
    proxy: Proxy,
    queue: SqsQueue,
}

impl Bench {
    async fn new() -> Result<Self, NotRun> {
        let account = account()?;
        let proxy = Proxy::start(&account.endpoint, 4);
        let client = Client::new(&sdk(&account.at(proxy.endpoint())).await);
        let queues = queues(&client, 1, 10).await;
        proxy.forget_seen();
        Ok(Self { proxy, queue: SqsQueue::new(client, queues) })
    }

    async fn send(&self, project: &str) -> Result<(), PortError> {
        self.queue.send(&wake_up(project), Duration::ZERO).await
    }

    /// Tries of an operation.
    fn tries(&self, operation: &str) -> usize {
        let seen = self.proxy.seen();
        seen.iter().filter(|seen| seen.call.operation == operation).count()
    }

    /// Receives and deletes until the queue is empty, and returns the messages.
    async fn drain(&self) -> Vec<WakeUp> {
        let begun = Instant::now();
        let mut got = Vec::new();
        loop {
            assert!(begun.elapsed() < Duration::from_secs(600), "the queue becomes empty");
            if let Some(message) = self.queue.receive(SECOND).await.expect("an answer") {
                got.push(message.body.expect("a wake-up"));
                self.queue.delete(&message.receipt).await.expect("deleted");
            } else if self.queue.stats().await.expect("an answer") == QueueStats::default() {
                return got;
            }
        }
    }
}

fn wake_up(project: &str) -> WakeUp {
    WakeUp { project_id: project.parse().expect("a slug"), agent: None }
}

async fn a_send_whose_answer_is_lost_is_tried_again_and_the_wake_up_arrives_at_least_once()
-> Outcome {
    let bench = Bench::new().await?;
    bench.proxy.plan([Rule::next(1, SEND, Fault::LoseAnswer)]);
    bench.send("site").await.expect("sent");
    assert_eq!(bench.tries("SendMessage"), 2);
    let got = bench.drain().await;
    assert_eq!(got, [wake_up("site"), wake_up("site")], "both tries were applied");
    Ok(())
}

async fn throttled_calls_and_broken_answers_succeed_when_they_are_tried_again() -> Outcome {
    let bench = Bench::new().await?;
    for fault in [Fault::Throttle, Fault::Error, Fault::Gone] {
        bench.proxy.forget_seen();
        bench.proxy.plan([Rule::next(2, SEND, fault.clone())]);
        bench.send("site").await.expect("sent");
        assert_eq!(bench.tries("SendMessage"), 3, "{fault:?}");
    }
    assert_eq!(bench.drain().await.len(), 3, "no send was applied twice");
    Ok(())
}

async fn an_unreachable_queue_is_unavailable_after_a_few_tries() -> Outcome {
    let bench = Bench::new().await?;
    for fault in [Fault::Gone, Fault::Throttle, Fault::Error] {
        bench.proxy.forget_seen();
        bench.proxy.plan([Rule::always(SQS, fault.clone())]);
        let error = bench.send("site").await.expect_err("it is away");
        assert!(matches!(error, PortError::Unavailable { .. }), "{fault:?}: {error:?}");
        assert_eq!(bench.tries("SendMessage"), 4, "{fault:?}");
        let error = bench.queue.receive(SECOND).await.expect_err("it is away");
        assert!(error.is_transient(), "{fault:?}: {error:?}");
    }
    bench.proxy.plan([]);
    bench.send("site").await.expect("it is back");
    assert_eq!(bench.drain().await, [wake_up("site")]);
    Ok(())
}

async fn a_call_that_hangs_is_given_up_and_tried_again() -> Outcome {
    let bench = Bench::new().await?;
    bench.proxy.plan([Rule::next(1, SEND, Fault::Hang)]);
    let begun = Instant::now();
    bench.send("site").await.expect("sent");
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    assert_eq!(bench.drain().await, [wake_up("site")]);
    Ok(())
}

async fn a_received_message_whose_answer_is_lost_is_received_again() -> Outcome {
    let bench = Bench::new().await?;
    bench.send("site").await.expect("sent");
    bench.proxy.plan([Rule::next(1, RECEIVE, Fault::LoseAnswer)]);
    let begun = Instant::now();
    let message = loop {
        match bench.queue.receive(5 * SECOND).await {
            Ok(Some(message)) => break message,
            Ok(None) | Err(PortError::Unavailable { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(600), "it is visible again");
    };
    assert_eq!(message.receive_count, 2, "the lost receive counts");
    // The same for a delete: its second try finds no message and succeeds.
    bench.proxy.plan([Rule::next(1, DELETE, Fault::LoseAnswer)]);
    bench.queue.delete(&message.receipt).await.expect("deleted");
    assert_eq!(bench.drain().await, []);
    Ok(())
}

async fn no_message_is_lost_when_a_fifth_of_all_calls_is_throttled() -> Outcome {
    let bench = Bench::new().await?;
    let bench = Arc::new(bench);
    bench.proxy.plan([Rule::share(0.2, SQS, Fault::Throttle)]);
    let mut senders = Vec::new();
    for sender in 0..10 {
        let bench = Arc::clone(&bench);
        senders.push(tokio::spawn(async move {
            for number in 0..3 {
                bench.send(&format!("site-{sender}-{number}")).await.expect("sent");
            }
        }));
    }
    for sender in senders {
        sender.await.expect("no panic");
    }
    let drains = futures_util::future::join_all((0..5).map(|_| bench.drain())).await;
    let mut got: Vec<WakeUp> = drains.into_iter().flatten().collect();
    got.sort_by(|a, b| a.project_id.cmp(&b.project_id));
    got.dedup();
    assert_eq!(got.len(), 30);
    let throttled = bench.proxy.seen().into_iter().filter(|seen| seen.fault.is_some()).count();
    assert!(throttled > 5, "{throttled}");
    Ok(())
}

async fn a_denied_or_missing_queue_is_named_and_not_tried_again() -> Outcome {
    let bench = Bench::new().await?;
    bench.proxy.plan([Rule::always(SEND, Fault::Refuse(403, "AccessDenied"))]);
    let error = bench.send("site").await.expect_err("denied");
    assert!(matches!(&error, PortError::Denied { .. }) && !error.is_transient(), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("sqs:SendMessage") && text.contains("/rdev"), "{text}");
    assert_eq!(bench.tries("SendMessage"), 1);

    let account = account()?;
    let client = Client::new(&sdk(&account).await);
    let url = format!("{}/{}/none", account.endpoint, account.id);
    let queue = SqsQueue::new(client, Settings::new("rdev".to_owned(), url.clone()));
    let error = queue.send(&wake_up("site"), Duration::ZERO).await.expect_err("missing");
    let source = std::error::Error::source(&error).expect("what is missing").to_string();
    assert!(matches!(error, PortError::Broken { .. }), "{error:?}");
    assert_eq!(source, format!("there is no queue {url}"));
    Ok(())
}

fn concurrent_deletes_share_calls_and_all_succeed() -> Outcome {
    on_one_thread(async {
        let bench = Bench::new().await?;
        for number in 0..30 {
            bench.send(&format!("site-{number}")).await.expect("sent");
        }
        let mut receipts = Vec::new();
        while receipts.len() < 30 {
            let message = bench.queue.receive(SECOND).await.expect("an answer").expect("a message");
            let hour = Duration::from_secs(3600);
            bench.queue.set_visibility(&message.receipt, hour).await.expect("kept");
            receipts.push(message.receipt);
        }
        bench.proxy.forget_seen();
        let all = receipts.iter().map(|receipt| bench.queue.delete(receipt));
        for outcome in futures_util::future::join_all(all).await {
            outcome.expect("deleted");
        }
        let calls = bench.proxy.seen().len();
        assert!(calls <= 5, "{calls} calls for 30 messages");
        assert_eq!(bench.queue.stats().await.expect("an answer"), QueueStats::default());
        // Once more: deleting a message that does not exist is not an error.
        let all = receipts.iter().map(|receipt| bench.queue.delete(receipt));
        for outcome in futures_util::future::join_all(all).await {
            outcome.expect("a stale receipt is nothing");
        }
        Ok(())
    })
}

async fn an_idle_runner_polls_three_times_a_minute() -> Outcome {
    let bench = Bench::new().await?;
    let begun = Instant::now();
    assert_eq!(bench.queue.receive(Duration::from_secs(60)).await.expect("an answer"), None);
    assert!(begun.elapsed() > Duration::from_secs(18), "{:?}", begun.elapsed());
    assert_eq!(bench.proxy.seen().len(), 1);
    Ok(())
}

fn a_delete_whose_caller_is_dropped_does_not_affect_others() -> Outcome {
    on_one_thread(async {
        let bench = Bench::new().await?;
        let mut receipts = Vec::new();
        for name in ["a", "b", "c", "d"] {
            bench.send(name).await.expect("sent");
            let message = bench.queue.receive(SECOND).await.expect("an answer").expect("a message");
            let hour = Duration::from_secs(3600);
            bench.queue.set_visibility(&message.receipt, hour).await.expect("kept");
            receipts.push(message.receipt);
        }
        let batch = On::Operation(Service::Sqs, "DeleteMessageBatch");
        bench.proxy.plan([Rule::next(1, batch, Fault::Hang)]);
        let mut alone = bench.queue.delete(&receipts[0]);
        assert!(futures_util::poll!(&mut alone).is_pending(), "it has the first turn");
        let mut together: Vec<_> =
            receipts[1..].iter().map(|one| bench.queue.delete(one)).collect();
        for waiting in &mut together {
            assert!(futures_util::poll!(waiting).is_pending(), "it waits for its turn");
        }
        drop(alone);
        let called = async {
            while bench.tries("DeleteMessageBatch") == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let mut leader = together.remove(0);
        tokio::select! {
            outcome = &mut leader => panic!("{outcome:?} while its call hangs"),
            () = called => {}
        }
        drop(leader);
        for outcome in futures_util::future::join_all(together).await {
            outcome.expect("deleted");
        }
        // The deletes whose callers were dropped may have been done or not.
        let left = bench.queue.stats().await.expect("an answer").in_flight;
        assert!(left <= 2, "{left} are left");
        Ok(())
    })
}

/// Runs a test that polls by hand. With more threads, another one could finish a call during a
/// poll that is to find it pending.
fn on_one_thread(test: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime for a test").block_on(test)
}
