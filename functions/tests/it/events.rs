//! Events: pages, waiting for more, and streams.

use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::{Stream, StreamExt};
use http::{Method, Request};
use rdev_domain::event::{BuildEvent, EventKind, seq};
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::lease::{Holder, Progress};
use rdev_domain::ports::Record;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use crate::builds::failed;
use crate::support::{Fixture, now, request};

/// How long the next part of a stream may take. Only what hangs takes so long.
const NEWS: Duration = Duration::from_secs(300);

/// A build that runs, whose events a test writes.
struct Running {
    fixture: Fixture,
    task: TaskId,
    holder: Holder,
    path: String,
}

impl Running {
    async fn new(finite: bool) -> Self {
        let fixture = Fixture::with(|context| context.settings.sse_finite = finite).await;
        let project: ProjectId = fixture.project("site").await;
        let task = fixture.build(&project).await;
        let (_, holder) = fixture.claim(&project).await;
        let path = format!("/projects/site/builds/{task}/events");
        Self { fixture, task, holder, path }
    }

    fn event(&self, n: u64) -> BuildEvent {
        BuildEvent {
            seq: seq(self.holder.fence, n),
            at: now(),
            kind: EventKind::AgentText,
            data: json!({ "text": format!("line\n{n}") }),
        }
    }

    async fn write(&self, numbers: impl IntoIterator<Item = u64>) {
        let events: Vec<_> = numbers.into_iter().map(|n| self.event(n)).collect();
        let renewed = self
            .fixture
            .store()
            .renew(
                self.task,
                &self.holder,
                Progress { events: &events, ..Progress::default() },
                now(),
            )
            .await;
        renewed.expect("the lease is held");
    }

    async fn end(&self) {
        self.fixture.advance(self.task, failed(self.holder.clone()), Record::default()).await;
    }

    async fn page(&self, query: &str) -> Value {
        let reply = self.fixture.get(&format!("{}{query}", self.path)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    fn stream_request(&self, last: Option<u64>) -> Request<Body> {
        let mut request = request(Method::GET, &self.path, Some(&self.fixture.admin), None);
        let headers = request.headers_mut();
        headers.insert("accept", "text/event-stream".parse().expect("a value"));
        if let Some(last) = last {
            headers.insert("last-event-id", last.to_string().parse().expect("a value"));
        }
        request
    }

    async fn open(&self, last: Option<u64>) -> Events {
        let app = self.fixture.app.clone();
        let response = app.oneshot(self.stream_request(last)).await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let body = response.into_body().into_data_stream().map(|part| part.expect("a part"));
        Events { body: Box::pin(body), text: String::new() }
    }

    fn seq(&self, n: u64) -> u64 {
        seq(self.holder.fence, n)
    }
}

/// Reads server-sent events as a browser does.
struct Events {
    body: std::pin::Pin<Box<dyn Stream<Item = Bytes> + Send>>,
    text: String,
}

#[derive(Debug, PartialEq)]
struct ReceivedEvent {
    id: Option<u64>,
    name: String,
    data: Value,
}

impl Events {
    /// The next event; `None` when the stream has ended.
    async fn next(&mut self) -> Option<ReceivedEvent> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    let prefix = format!("{name}: ");
                    block.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
                };
                if let Some(data) = field("data") {
                    return Some(ReceivedEvent {
                        id: field("id").map(|id| id.parse().expect("a number")),
                        name: field("event").expect("a name"),
                        data: serde_json::from_str(&data).expect("JSON"),
                    });
                }
            }
            let part = tokio::time::timeout(NEWS, self.body.next());
            let part = part.await.expect("news in time")?;
            self.text.push_str(std::str::from_utf8(&part).expect("UTF-8"));
        }
    }

    async fn ids(&mut self, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        while ids.len() < count {
            let seen = self.next().await.expect("an event");
            assert_eq!(seen.name, "agent.text");
            ids.push(seen.id.expect("an id"));
        }
        ids
    }
}

#[tokio::test]
async fn pages_follow_one_another_until_the_task_is_done() {
    let running = Running::new(false).await;
    assert_eq!(
        running.page("").await,
        json!({ "items": [], "next_after": 0, "state": "running", "done": false })
    );
    running.write(0..5).await;
    let first = running.page("?limit=3").await;
    assert_eq!(first["items"].as_array().expect("items").len(), 3);
    assert_eq!(first["items"][0]["seq"], running.seq(0));
    assert_eq!(first["items"][0]["kind"], "agent.text");
    assert_eq!(first["items"][0]["data"]["text"], "line\n0");
    assert_eq!(first["next_after"], running.seq(2));
    running.end().await;
    let rest = running.page(&format!("?after={}&limit=2", running.seq(2))).await;
    assert_eq!(rest["items"].as_array().expect("items").len(), 2);
    assert_eq!((&rest["state"], &rest["done"]), (&json!("failed"), &json!(false)));
    let end = running.page(&format!("?after={}", running.seq(4))).await;
    assert_eq!((&end["items"], &end["done"]), (&json!([]), &json!(true)));
    assert_eq!(end["next_after"], running.seq(4));
    assert_eq!(running.page("").await["done"], true);
}

#[tokio::test]
async fn a_page_that_waits_answers_as_soon_as_there_is_an_event() {
    let running = Running::new(false).await;
    let began = tokio::time::Instant::now();
    let (page, ()) = tokio::join!(running.page("?wait=20"), async {
        // The request is polled first, finds nothing and waits.
        tokio::task::yield_now().await;
        running.write([0]).await;
    });
    assert_eq!(page["next_after"], running.seq(0));
    assert!(began.elapsed() < Duration::from_secs(18), "{:?}", began.elapsed());
    let after = format!("?wait=20&after={}", running.seq(0));
    let (page, ()) = tokio::join!(running.page(&after), running.end());
    assert_eq!((&page["items"], &page["done"]), (&json!([]), &json!(true)));
    assert!(began.elapsed() < Duration::from_secs(18), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_page_without_events_is_answered_when_its_wait_ends() {
    let running = Running::new(false).await;
    let began = tokio::time::Instant::now();
    let page = running.page("?wait=1").await;
    assert_eq!(page["items"], json!([]));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(18), "{took:?}");
}

#[tokio::test]
async fn a_stream_sends_each_event_at_once_and_ends_with_the_task() {
    let running = Running::new(false).await;
    running.write(0..2).await;
    let mut events = running.open(None).await;
    let first = events.next().await.expect("an event");
    assert_eq!((first.id, first.name.as_str()), (Some(running.seq(0)), "agent.text"));
    assert_eq!(first.data["data"]["text"], "line\n0");
    assert_eq!(events.ids(1).await, [running.seq(1)]);
    running.write(2..4).await;
    assert_eq!(events.ids(2).await, [running.seq(2), running.seq(3)]);
    running.write([4]).await;
    running.end().await;
    assert_eq!(events.ids(1).await, [running.seq(4)]);
    let last = events.next().await.expect("the last event");
    assert_eq!((last.id, last.name.as_str()), (None, "state"));
    assert_eq!(last.data["data"], json!({ "state": "failed", "done": true }));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_stream_resumes_after_the_last_event_id() {
    let running = Running::new(false).await;
    running.write(0..1200).await;
    let mut events = running.open(None).await;
    let seen = events.ids(700).await;
    drop(events);
    running.end().await;
    let mut events = running.open(seen.last().copied()).await;
    let rest = events.ids(500).await;
    let all: Vec<_> = seen.into_iter().chain(rest).collect();
    let written: Vec<_> = (0..1200).map(|n| running.seq(n)).collect();
    assert_eq!(all, written, "none is lost and none comes twice");
    assert_eq!(events.next().await.expect("the end").name, "state");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn where_answers_cannot_stream_each_is_one_batch() {
    let running = Running::new(true).await;
    running.write(0..2).await;
    let reply = running.fixture.send(running.stream_request(None)).await;
    let text = String::from_utf8(reply.body).expect("UTF-8");
    assert!(text.starts_with("retry: 2000\n\n"), "{text}");
    assert_eq!(text.matches("event: agent.text").count(), 2, "{text}");
    assert!(!text.contains("event: state"), "{text}");
    running.write([2]).await;
    running.end().await;
    let mut events = running.open(Some(running.seq(1))).await;
    assert_eq!(events.ids(1).await, [running.seq(2)]);
    assert_eq!(events.next().await.expect("the end").data["data"]["done"], true);
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_batch_without_events_waits_until_there_is_one() {
    let running = Running::new(true).await;
    let (mut events, ()) = tokio::join!(running.open(None), async {
        // The request is polled first, finds nothing and waits.
        tokio::task::yield_now().await;
        running.write([0]).await;
    });
    assert_eq!(events.ids(1).await, [running.seq(0)]);
    assert_eq!(events.next().await, None, "the batch ends with what is there");
    let (mut events, ()) = tokio::join!(running.open(Some(running.seq(0))), async {
        tokio::task::yield_now().await;
        running.end().await;
    });
    assert_eq!(events.next().await.expect("the end").data["data"]["done"], true);
    assert_eq!(events.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_stays_empty_is_answered_after_twenty_seconds() {
    let running = Running::new(true).await;
    let began = tokio::time::Instant::now();
    let mut events = running.open(None).await;
    let took = began.elapsed();
    assert!((20..21).contains(&took.as_secs()), "{took:?}");
    assert_eq!(events.next().await, None, "the client comes back");
}

#[tokio::test]
async fn a_stream_over_a_real_connection_is_not_held_back() {
    let running = Running::new(false).await;
    running.write([0]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let app = running.fixture.app.clone();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let mut connection = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let (path, key) = (&running.path, &running.fixture.admin);
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
         accept: text/event-stream\r\nconnection: close\r\n\r\n"
    );
    connection.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    let mut read_until = async |mark: &str| {
        let mut buffer = [0; 4096];
        while !text.contains(mark) {
            let read = tokio::time::timeout(NEWS, connection.read(&mut buffer));
            let read = read.await.expect("news in time").expect("a connection");
            assert!(read > 0, "closed too early: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    };
    read_until(&format!("id: {}", running.seq(0))).await;
    running.write([1]).await;
    read_until(&format!("id: {}", running.seq(1))).await;
    running.end().await;
    read_until("\"done\":true").await;
    read_until("\r\n0\r\n").await;
    server.abort();
}
