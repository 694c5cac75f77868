//! The proxy before a server that counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use tokio::net::TcpListener;

use super::*;

const TABLE: &str = "DynamoDB_20120810.PutItem";
const QUEUE: &str = "AmazonSQS.SendMessage";
const PUT: On = On::Operation(Service::DynamoDb, "PutItem");

struct Bench {
    proxy: Proxy,
    done: Arc<AtomicUsize>,
    client: onward::Client,
}

impl Bench {
    async fn new(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let upstream = format!("http://{}", listener.local_addr().expect("its number"));
        let done = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&done);
        let app = Router::new().fallback(move |body: Bytes| async move {
            count.fetch_add(1, Ordering::SeqCst);
            body
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { proxy: Proxy::start(&upstream, seed), done, client: onward::client() }
    }

    /// The answer's status and body, if there is one in time.
    async fn call(&self, target: &str) -> Option<(StatusCode, Bytes)> {
        let request = Request::post(self.proxy.endpoint())
            .header("x-amz-target", target)
            .header("authorization", "AWS4-HMAC-SHA256 Credential=123456789012/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0")
            .header("user-agent", "aws-sdk-rust/1.0 os/linux app/runner")
            .body(Full::from("sent"))
            .expect("a request");
        let ask = async {
            let answer = self.client.request(request).await.ok()?;
            let status = answer.status();
            Some((status, answer.into_body().collect().await.ok()?.to_bytes()))
        };
        tokio::time::timeout(Duration::from_millis(500), ask).await.ok().flatten()
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn calls_go_through_and_are_counted_with_who_made_them() {
    let bench = Bench::new(1).await;
    for target in [TABLE, QUEUE, TABLE] {
        let (status, body) = bench.call(target).await.expect("an answer");
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"sent"[..]));
    }
    let seen = bench.proxy.seen();
    assert_eq!(seen[1].call.to_string(), "SQS SendMessage");
    assert_eq!(seen[1].key.as_deref(), Some("123456789012"));
    assert_eq!((seen[1].app.as_deref(), seen[1].status), (Some("runner"), Some(200)));
    assert_eq!(bench.proxy.counts().into_values().collect::<Vec<_>>(), [2, 1]);
    bench.proxy.forget_seen();
    assert_eq!(bench.proxy.seen(), []);
}

#[tokio::test]
async fn each_fault_does_what_it_says_and_only_where_it_is_asked_for() {
    let bench = Bench::new(1).await;
    let error = |status, code: &str| Some((status, code.to_owned()));
    let cases = [
        (Fault::Throttle, error(400, "ThrottlingException"), 0),
        (Fault::Refuse(403, "AccessDeniedException"), error(403, "AccessDeniedException"), 0),
        (Fault::Error, error(500, "InternalFailure"), 0),
        (Fault::Hang, None, 0),
        (Fault::Gone, None, 0),
        (Fault::LoseAnswer, None, 1),
        (Fault::HoldAnswer, None, 1),
    ];
    for (fault, expected, done) in cases {
        let before = bench.done();
        bench.proxy.plan([Rule::next(1, PUT, fault.clone())]);
        assert!(bench.call(QUEUE).await.is_some(), "{fault:?} is for the other service");
        let answer = bench.call(TABLE).await;
        match (answer, expected) {
            (None, None) => {}
            (Some((status, body)), Some((expected, code))) => {
                assert_eq!(status.as_u16(), expected, "{fault:?}");
                assert!(String::from_utf8_lossy(&body).contains(&code), "{fault:?}: {body:?}");
            }
            (answer, _) => panic!("{fault:?}: {answer:?}"),
        }
        assert_eq!(bench.done() - before, 1 + done, "{fault:?}");
        assert!(bench.call(TABLE).await.is_some(), "{fault:?} was for one call");
    }
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let bench = Bench::new(seed).await;
        bench.proxy.plan([Rule::share(0.2, On::Service(Service::DynamoDb), Fault::Throttle)]);
        for _ in 0..200 {
            bench.call(TABLE).await.expect("an answer");
        }
        let faults = bench.proxy.seen().into_iter().map(|seen| seen.fault.is_some());
        runs.push(faults.collect::<Vec<_>>());
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
    let hit = runs[0].iter().filter(|hit| **hit).count();
    assert!((20..=60).contains(&hit), "{hit} of 200");
}
