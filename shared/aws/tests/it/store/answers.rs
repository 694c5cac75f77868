//! The store with answers that the emulator does not give: other times, and conflicts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aws_sdk_dynamodb::Client;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use rdev_aws::DynamoStore;
use rdev_domain::audit::Actor;
use rdev_domain::ids::{Fence, Owner, TaskId, WorkerId};
use rdev_domain::lease::{Holder, LEASE, Progress};
use rdev_domain::ports::{Capabilities, Conflict, PortError, Record, Store};
use rdev_domain::step::Event;
use rdev_domain::time::Timestamp;
use rdev_testkit::servers::emulator::Account;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{NOW, TABLE, ulid};
use crate::scene::sdk;

rdev_testkit::trials! {
    async a_machine_whose_clock_is_too_wrong_claims_and_recovers_nothing;
    async leases_use_the_time_of_the_store;
    async a_transaction_that_always_conflicts_is_an_error_after_some_tries;
}

/// The answer to each call, by its number: a status and a body.
type Answer = fn(usize) -> (u16, String);

/// A store whose DynamoDB gives these answers, with a clock that is ahead, and the number of calls.
async fn store(answer: Answer, ahead: i64) -> (DynamoStore, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("its number"));
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            respond(stream, answer(counted.fetch_add(1, Ordering::SeqCst)), ahead).await;
        }
    });
    let client = Client::new(&sdk(&Account::new(endpoint)).await);
    (DynamoStore::new(client, TABLE.to_owned(), Default::default()), calls)
}

async fn respond(mut stream: TcpStream, (status, body): (u16, String), ahead: i64) {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    while !is_whole(&request) {
        let read = stream.read(&mut buffer).await.expect("a request");
        request.extend_from_slice(&buffer[..read]);
    }
    let now = Timestamp::from(SystemTime::now()).as_millis();
    let date = DateTime::from_secs((now + ahead).div_euclid(1000));
    let date = date.fmt(Format::HttpDate).expect("a date");
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status} Answer\r\nDate: {date}\r\nContent-Type: application/x-amz-json-1.0\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await.expect("the client waits for it");
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    body.len() >= length.unwrap_or(0)
}

fn runner() -> (Owner, Capabilities) {
    let worker_id: WorkerId = "w1".parse().expect("a worker id");
    let owner = Owner::new(&worker_id, "first");
    (owner, Capabilities { worker_id, agents: Vec::new() })
}

async fn a_machine_whose_clock_is_too_wrong_claims_and_recovers_nothing() {
    for ahead in [-300_000, 300_000] {
        let (store, calls) = store(|_| (200, "{}".to_owned()), ahead).await;
        store.ping().await.expect("an answer, with its time");
        let (owner, can) = runner();
        let project = "site".parse().expect("a slug");
        let claim = store.claim_next(&project, &owner, &can, NOW).await.expect_err("no claim");
        assert!(matches!(claim, PortError::Unavailable { .. }), "{claim:?}");
        let recover = Event::Recover { seen: Fence(1), heartbeat: 0, proved_dead: false };
        let by = Actor::maintenance();
        let recover = store.advance(TaskId(ulid()), recover, Record::default(), &by, NOW).await;
        let recover = recover.expect_err("no recovery");
        assert!(matches!(recover, PortError::Unavailable { .. }), "{recover:?}");
        assert_eq!(calls.load(Ordering::SeqCst), 1, "no other call was made");
    }
}

async fn leases_use_the_time_of_the_store() {
    let (store, _) = store(|_| (200, "{}".to_owned()), 30_000).await;
    store.ping().await.expect("an answer, with its time");
    let holder = Holder { fence: Fence(1), owner: runner().0 };
    let renewal =
        store.renew(TaskId(ulid()), &holder, Progress::default(), NOW).await.expect("an answer");
    let ahead = renewal.until.since(NOW.plus(LEASE));
    assert!(ahead > Duration::from_secs(28) && ahead < Duration::from_secs(32), "{ahead:?}");
}

fn cancelled(reason: &str) -> (u16, String) {
    let kind = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException";
    let reasons = format!(r#"[{{"Code":"None"}},{{"Code":"{reason}"}}]"#);
    let body =
        format!(r#"{{"__type":"{kind}","Message":"cancelled","CancellationReasons":{reasons}}}"#);
    (400, body)
}

async fn a_transaction_that_always_conflicts_is_an_error_after_some_tries() {
    let task = super::new_task(&"site-1".parse().expect("a slug"));
    let by = Actor::maintenance();
    let twice: [Answer; 3] = [
        |n| if n < 2 { cancelled("TransactionConflict") } else { (200, "{}".to_owned()) },
        |n| if n < 2 { cancelled("ThrottlingError") } else { (200, "{}".to_owned()) },
        |n| {
            let kind = "com.amazonaws.dynamodb.v20120810#TransactionInProgressException";
            let body = format!(r#"{{"__type":"{kind}","Message":"still at it"}}"#);
            if n < 2 { (400, body) } else { (200, "{}".to_owned()) }
        },
    ];
    for answer in twice {
        let (store, calls) = store(answer, 0).await;
        store.enqueue(&task, &by, NOW).await.expect("the third try goes through");
        assert_eq!(calls.load(Ordering::SeqCst), 3);
    }
    let (contended, calls) = store(|_| cancelled("TransactionConflict"), 0).await;
    let error = contended.enqueue(&task, &by, NOW).await.expect_err("it never goes through");
    assert!(matches!(error, PortError::Conflict(Conflict::Contended)), "{error:?}");
    assert!(calls.load(Ordering::SeqCst) < 20, "tried for a while");
    let (busy, _) = store(|_| cancelled("ThrottlingError"), 0).await;
    let error = busy.enqueue(&task, &by, NOW).await.expect_err("it never goes through");
    assert!(matches!(error, PortError::Unavailable { .. }), "{error:?}");
    let (broken, calls) = store(|_| cancelled("ValidationError"), 0).await;
    let error = broken.enqueue(&task, &by, NOW).await.expect_err("it is not valid");
    assert!(matches!(error, PortError::Broken { .. }), "{error:?}");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}
