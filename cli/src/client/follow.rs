//! Following a build: reads its events until it has ended, over any number of connections.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::Value;

use super::sse::Frames;
use super::{ApiError, Client};

/// How long the server may be unreachable before following ends with an error.
const PATIENCE: Duration = Duration::from_secs(120);

/// The pause before the next connection, unless the server requests another one.
const PAUSE: Duration = Duration::from_millis(500);

/// One event of a build.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Event {
    /// Its kind, as `agent.text`.
    pub(crate) kind: String,
    /// Its content.
    pub(crate) data: Value,
}

/// The record of a build that has ended.
#[derive(Debug, Clone)]
pub(crate) struct End(pub(crate) Value);

/// Passes every event of a build (and its JSON) to `on_event`, until the build has ended and all
/// its events are read.
///
/// # Errors
/// When the server refuses, or is unreachable for two minutes.
pub(crate) async fn follow(
    client: &Client,
    project: &str,
    task: &str,
    mut on_event: impl FnMut(&Event, &Value) -> std::io::Result<()>,
) -> anyhow::Result<End> {
    let build = format!("projects/{project}/builds/{task}");
    let path = format!("{build}/events");
    let mut after: Option<String> = None;
    let mut away_since: Option<Instant> = None;
    let mut pause = PAUSE;
    loop {
        let mut received = false;
        let batch = read_batch(client, &path, &mut after, &mut pause, |event, json| {
            received = true;
            on_event(event, json)
        });
        let outcome = match batch.await {
            Ok(Batch::Last) => client.get(&build, &[]).await.map(Some),
            Ok(Batch::MoreToCome) => Ok(None),
            Err(error) => Err(error),
        };
        if received {
            away_since = None;
        }
        match outcome {
            Ok(Some(record)) => return Ok(End(record)),
            Ok(None) => away_since = None,
            Err(error) => be_patient(error, &mut away_since)?,
        }
        tokio::time::sleep(pause).await;
    }
}

/// How a connection ended.
enum Batch {
    /// The build has ended, and all its events were sent.
    Last,
    /// The server closed the stream, as it does from time to time.
    MoreToCome,
}

async fn read_batch(
    client: &Client,
    path: &str,
    after: &mut Option<String>,
    pause: &mut Duration,
    mut on_event: impl FnMut(&Event, &Value) -> std::io::Result<()>,
) -> anyhow::Result<Batch> {
    let mut body = client.stream(path, after.as_deref()).await?.bytes_stream();
    let mut frames = Frames::default();
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|error| client.cut_off(error))?;
        let not_rdev = || ApiError::NotRdev { url: client.url().to_owned() };
        for frame in frames.push(&bytes).ok_or_else(not_rdev)? {
            let json: Value = serde_json::from_str(&frame.data).map_err(|_| not_rdev())?;
            let event = Event::deserialize(&json).map_err(|_| not_rdev())?;
            if event.data["done"] == true {
                return Ok(Batch::Last);
            }
            on_event(&event, &json)?;
            if frame.id.is_some() {
                *after = frame.id;
            }
        }
        *pause = frames.retry.unwrap_or(*pause);
    }
    Ok(Batch::MoreToCome)
}

/// Ignores a transient error, unless the server has been unreachable for too long.
fn be_patient(error: anyhow::Error, away_since: &mut Option<Instant>) -> anyhow::Result<()> {
    let transient = error.downcast_ref::<ApiError>().is_some_and(ApiError::is_transient);
    let since = *away_since.get_or_insert_with(Instant::now);
    if transient && since.elapsed() < PATIENCE { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::body::{Body, Bytes};
    use axum::extract::State;
    use axum::http::{HeaderMap, StatusCode};
    use axum::response::{IntoResponse, Response};
    use axum::routing::get;
    use futures_util::stream;
    use rdev_domain::secret::Secret;

    use super::*;

    /// The `Last-Event-ID` of each connection there was.
    type Connections = Arc<Mutex<Vec<Option<String>>>>;

    /// What the `n`th connection gets, and whether it is cut off after it.
    const SCRIPT: [(&str, bool); 4] = [
        (
            "retry: 10\n\nid: 1\ndata: {\"kind\":\"log\",\"data\":{\"text\":\"a\"}}\n\nid: 2\nda",
            true,
        ),
        ("id: 2\ndata: {\"kind\":\"log\",\"data\":{\"text\":\"b\"}}\n\n", false),
        ("", true),
        (
            "id: 3\ndata: {\"kind\":\"log\",\"data\":{\"text\":\"c\"}}\n\ndata: {\"kind\":\"state\",\"data\":{\"state\":\"failed\",\"done\":true}}\n\n",
            false,
        ),
    ];

    async fn events(State(connections): State<Connections>, headers: HeaderMap) -> Response {
        let last = headers.get("last-event-id").map(|id| id.to_str().expect("ASCII").to_owned());
        let n = {
            let mut connections = connections.lock().expect("no panics");
            connections.push(last);
            connections.len()
        };
        if n == 1 {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let (text, cut) = SCRIPT[n - 2];
        let text = stream::iter((!text.is_empty()).then(|| Ok(Bytes::from(text))));
        let end = stream::once(async move {
            // What was written before goes out while this waits.
            tokio::task::yield_now().await;
            cut.then(|| Err(std::io::Error::other("cut off")))
        });
        Body::from_stream(text.chain(end.filter_map(std::future::ready))).into_response()
    }

    async fn serve(router: Router) -> Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        // The program does it in `main`; here the first test does.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::new(&url, &Secret::new("k")).expect("a client")
    }

    #[tokio::test]
    async fn every_event_comes_once_over_connections_that_break() {
        let connections = Connections::default();
        let unavailable = r#"{"status": 503, "code": "unavailable", "title": "Unavailable"}"#;
        let router = Router::new()
            .route("/projects/p/builds/t/events", get(events))
            .route("/projects/p/builds/t", get(|| async { r#"{"state": "failed"}"# }))
            .with_state(Arc::clone(&connections))
            .layer(axum::middleware::map_response(move |response: Response| async move {
                if response.status() == StatusCode::SERVICE_UNAVAILABLE {
                    return (StatusCode::SERVICE_UNAVAILABLE, unavailable).into_response();
                }
                response
            }));
        let client = serve(router).await;
        let mut texts = Vec::new();
        let end = follow(&client, "p", "t", |event, _| {
            texts.push(event.data["text"].as_str().unwrap_or("?").to_owned());
            Ok(())
        });
        let End(record) = end.await.expect("it ends");
        assert_eq!(record["state"], "failed");
        assert_eq!(texts, ["a", "b", "c"]);
        let connections = connections.lock().expect("no panics").clone();
        let ids: Vec<Option<&str>> = connections.iter().map(Option::as_deref).collect();
        assert_eq!(ids, [None, None, Some("1"), Some("2"), Some("2")]);
    }

    #[tokio::test]
    async fn a_refusal_ends_it_at_once() {
        let problem = r#"{"status": 404, "code": "not_found", "detail": "there is no task"}"#;
        let router =
            Router::new().fallback(move || async move { (StatusCode::NOT_FOUND, problem) });
        let client = serve(router).await;
        let error = follow(&client, "p", "t", |_, _| Ok(())).await.expect_err("refused");
        assert_eq!(error.to_string(), "there is no task (not_found, 404)");
    }
}
