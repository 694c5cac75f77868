//! A build's events: pages that wait for more, and server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use http::HeaderMap;
use rdev_domain::event::BuildEvent;
use rdev_domain::ids::TaskId;
use rdev_domain::ports::Store;
use rdev_domain::task::TaskState;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep};
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::http::cursor::{PAGE_BYTES, json_bytes};
use crate::http::problem::{ApiResult, Problem};

/// How often the store is read for new events.
const POLL: Duration = Duration::from_millis(200);

/// The first pauses between two reads of a function's request, and then [`POLL_LONG`]: each read of
/// a function's store costs money.
const POLL_FIRST: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

const POLL_LONG: Duration = Duration::from_secs(5);

/// How long a stream that is one batch waits for its first event. Gateways end a request after 29
/// s.
const BATCH_WAIT: Duration = Duration::from_secs(20);

/// How soon a client reconnects after a stream has ended.
const RECONNECT: Duration = Duration::from_secs(2);

const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A part of a build's events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Events {
    /// The events, oldest first.
    pub items: Vec<BuildEvent>,
    /// The `after` of the next request.
    pub next_after: u64,
    /// The task's state.
    pub state: TaskState,
    /// The task has ended and there will be no more events.
    pub done: bool,
}

/// Which events to return.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Only events with a `seq` above this one.
    after: Option<u64>,
    /// Seconds to wait for the first event: 0 to 20, 0 by default.
    #[param(minimum = 0, maximum = 20)]
    wait: Option<u32>,
    /// How many events at most: 1 to 1000, 500 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// A checked [`EventsQuery`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventsRange {
    after: u64,
    wait: Duration,
    limit: u32,
}

impl EventsQuery {
    /// `Last-Event-ID` overrides `after`: a browser that reconnects repeats its first address.
    pub(crate) fn checked(self, headers: &HeaderMap) -> ApiResult<EventsRange> {
        let wait = self.wait.unwrap_or(0);
        if wait > 20 {
            return Err(Problem::field("wait", "must lie between 0 and 20"));
        }
        let limit = self.limit.unwrap_or(500);
        if !(1..=1000).contains(&limit) {
            return Err(Problem::field("limit", "must lie between 1 and 1000"));
        }
        let last = match headers.get("last-event-id") {
            None => None,
            Some(value) => {
                let seq = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
                let refused = || Problem::field("last-event-id", "must be the id of an event");
                Some(seq.ok_or_else(refused)?)
            }
        };
        // A store may count in signed 64-bit numbers.
        let after = last.or(self.after).unwrap_or(0).min(i64::MAX as u64);
        Ok(EventsRange { after, wait: Duration::from_secs(u64::from(wait)), limit })
    }
}

/// The events after `range.after`; waits for the first one for `range.wait`.
pub(crate) async fn page(app: &App, task: TaskId, range: EventsRange) -> ApiResult<Events> {
    let deadline = Instant::now() + range.wait;
    let finite = app.settings().sse_finite;
    let (first, then) = if finite { (&POLL_FIRST[..], POLL_LONG) } else { (&[][..], POLL) };
    let mut pauses = first.iter().copied();
    loop {
        let page = look(app.store(), task, range).await?;
        let remaining = deadline.saturating_duration_since(Instant::now());
        if !page.items.is_empty() || page.state.is_terminal() || remaining.is_zero() {
            return Ok(page);
        }
        sleep(pauses.next().unwrap_or(then).min(remaining)).await;
    }
}

/// The events after `range.after` that are there now.
async fn look(store: &dyn Store, task: TaskId, range: EventsRange) -> ApiResult<Events> {
    let mut page = store.events(task, range.after, range.limit).await?;
    let whole = page.events.len() < range.limit as usize;
    let whole = !shortened(&mut page.events) && whole;
    Ok(Events {
        next_after: page.events.last().map_or(range.after, |last| last.seq),
        done: page.state.is_terminal() && whole,
        items: page.events,
        state: page.state,
    })
}

/// Truncates `events` to one page; whether there were more.
fn shortened(events: &mut Vec<BuildEvent>) -> bool {
    let mut bytes = 0;
    let fits = events.iter().take_while(|event| {
        bytes += json_bytes(event);
        bytes <= PAGE_BYTES
    });
    let fits = fits.count().max(1);
    let more = events.len() > fits;
    events.truncate(fits);
    more
}

/// The events as a stream that ends after the task's last one, or as one
/// batch where the gateway cannot stream.
pub(crate) async fn sse(app: &App, task: TaskId, range: EventsRange) -> ApiResult<Response> {
    let retry = stream::iter([Event::default().retry(RECONNECT)]);
    if app.settings().sse_finite {
        // It waits here: a client that comes back for nothing costs as much as one that waits.
        let batch = page(app, task, EventsRange { wait: BATCH_WAIT, ..range }).await?;
        let last = batch.done.then(|| ended(batch.state));
        let events: Vec<_> = batch.items.iter().map(sent).chain(last).collect();
        let whole = retry.chain(stream::iter(events)).map(Ok::<_, Infallible>);
        return Ok(Sse::new(whole).into_response());
    }
    let follow = Follow {
        store: app.shared_store(),
        task,
        range,
        pending: VecDeque::new(),
        until: Instant::now() + Duration::from_secs(u64::from(app.settings().sse_max_s)),
        over: false,
    };
    let events = stream::unfold(follow, |mut follow| async {
        let event = follow.next().await?;
        Some((event, follow))
    });
    let whole = retry.chain(events).map(Ok::<_, Infallible>);
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive");
    let unbuffered = [("x-accel-buffering", "no")];
    Ok((unbuffered, Sse::new(whole).keep_alive(keep_alive)).into_response())
}

struct Follow {
    store: Arc<dyn Store>,
    task: TaskId,
    range: EventsRange,
    pending: VecDeque<BuildEvent>,
    until: Instant,
    over: bool,
}

impl Follow {
    /// The next event; `None` closes the stream, and a client whose build has
    /// not ended reconnects with the last id it received.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(sent(&event));
            }
            if self.over || Instant::now() >= self.until {
                return None;
            }
            let page = match look(&*self.store, self.task, self.range).await {
                Ok(page) => page,
                Err(problem) => {
                    tracing::debug!(code = problem.code().as_str(), "an event stream was cut");
                    return None;
                }
            };
            if page.done && page.items.is_empty() {
                self.over = true;
                return Some(ended(page.state));
            }
            if page.items.is_empty() {
                sleep(POLL).await;
            }
            self.range.after = page.next_after;
            self.pending = page.items.into();
        }
    }
}

/// One event: its id is its `seq`, its name its kind, its data the whole event.
fn sent(event: &BuildEvent) -> Event {
    let data = serde_json::to_string(event).expect("what was read as JSON can be written as it");
    Event::default().id(event.seq.to_string()).event(event.kind.as_str()).data(data)
}

/// The last event: it has no id, so that the client keeps the last real one.
fn ended(state: TaskState) -> Event {
    let data = json!({ "kind": "state", "data": { "state": state, "done": true } });
    Event::default().event("state").data(data.to_string())
}
