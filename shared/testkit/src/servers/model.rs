//! A model server that plays a script, on loopback: Anthropic messages, OpenAI chat completions and
//! OpenAI responses, streamed or whole, well enough for the real agents.
//!
//! A request that offers tools is part of the work; the step that answers it is the number of model
//! turns in its conversation, counted from the first such request, so that a client's retry meets
//! the same step again. Other requests (titles, probes) get a short text.

mod anthropic;
mod chat;
mod responses;
mod script;
mod tools;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use script::{Act, Script, Step, Tokens};
use script::{Stop, Turn};
use tools::Tools;

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct ModelServer {
    address: SocketAddr,
    play: Arc<Mutex<Play>>,
    task: JoinHandle<()>,
}

/// A request that the server was sent.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its path, without the query.
    pub path: String,
    /// The step of the script that answered it; `None` for side requests.
    pub step: Option<usize>,
    /// The key it was sent with, from `x-api-key` or `authorization`.
    pub key: Option<String>,
    pub body: Value,
}

#[derive(Debug, Default)]
struct Play {
    script: Script,
    /// Model turns in the conversation of the first request that offered tools.
    base: Option<usize>,
    /// How often a step has answered with an error.
    errors: Vec<u32>,
    requests: Vec<Request>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    Anthropic,
    Chat,
    Responses,
}

impl ModelServer {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub async fn start(script: Script) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let play = Arc::new(Mutex::new(Play { script, ..Play::default() }));
        let app = Router::new()
            .fallback(answer)
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(&play));
        let task = tokio::spawn(async move {
            // It serves until the task is aborted.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, play, task })
    }

    /// `http://127.0.0.1:<port>`: the base URL for Anthropic's protocol. OpenAI's has `/v1` after
    /// it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Plays `script` from now on, from its first step. The requests seen so far are kept.
    pub fn play(&self, script: Script) {
        let mut play = self.play.lock().unwrap_or_else(PoisonError::into_inner);
        *play = Play { script, requests: std::mem::take(&mut play.requests), ..Play::default() };
    }

    /// Every request for an answer, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.play.lock().unwrap_or_else(PoisonError::into_inner).requests.clone()
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    State(play): State<Arc<Mutex<Play>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path();
    if method == Method::HEAD {
        return StatusCode::OK.into_response();
    }
    if method == Method::GET && path.contains("/models") {
        let model = json!({"id": "scripted-1", "object": "model", "created": 0, "owned_by": "script", "type": "model", "display_name": "Scripted", "created_at": "2026-01-01T00:00:00Z"});
        let list = json!({"object": "list", "data": [model], "has_more": false, "first_id": "scripted-1", "last_id": "scripted-1", "models": []});
        return whole(StatusCode::OK, &list);
    }
    if path.ends_with("/count_tokens") {
        return whole(StatusCode::OK, &json!({"input_tokens": 100}));
    }
    let api = match path {
        _ if method != Method::POST => None,
        _ if path.ends_with("/messages") => Some(Api::Anthropic),
        _ if path.ends_with("/chat/completions") => Some(Api::Chat),
        _ if path.ends_with("/responses") => Some(Api::Responses),
        _ => None,
    };
    let Some(api) = api else {
        let error = json!({"type": "error", "error": {"type": "not_found_error", "message": format!("no {path}")}});
        return whole(StatusCode::NOT_FOUND, &error);
    };
    let body: Value = match serde_json::from_slice(&body) {
        Ok(body) => body,
        Err(error) => {
            return api.refuse(400, "invalid_request_error", &format!("no JSON: {error}"), &[]);
        }
    };
    let tools = api.tools(&body);
    let step = play
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .next(api, path, &headers, &body, &tools);
    if !step.delay.is_zero() {
        tokio::time::sleep(step.delay).await;
    }
    api.perform(step, &body, &tools)
}

impl Play {
    /// Notes a request and says what answers it.
    fn next(
        &mut self,
        api: Api,
        path: &str,
        headers: &HeaderMap,
        body: &Value,
        tools: &Tools,
    ) -> Step {
        let index = (!tools.is_empty()).then(|| {
            let answers = api.answers(body);
            answers.saturating_sub(*self.base.get_or_insert(answers))
        });
        let header = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        let bearer = header("authorization");
        let bearer = bearer.and_then(|value| Some(value.strip_prefix("Bearer ")?.to_owned()));
        let key = header("x-api-key").or(bearer);
        self.requests.push(Request { path: path.to_owned(), step: index, key, body: body.clone() });
        let Some(index) = index else { return Step::of(Act::Text("Scripted title".to_owned())) };
        let Some(step) = self.script.steps.get(index).cloned() else {
            return Step::of(Act::Text("done".to_owned()));
        };
        let Act::Flaky { status, times, then } = step.act else { return step };
        self.errors.resize(self.errors.len().max(index + 1), 0);
        let failed = &mut self.errors[index];
        let act = if *failed < times {
            *failed += 1;
            Act::error(status)
        } else {
            *then
        };
        Step { act, ..step }
    }
}

impl Api {
    fn tools(self, body: &Value) -> Tools {
        match self {
            Self::Anthropic => anthropic::tools(body),
            Self::Chat => chat::tools(body),
            Self::Responses => responses::tools(body),
        }
    }

    /// Model turns in a conversation.
    fn answers(self, body: &Value) -> usize {
        let by_model: Vec<bool> = match self {
            Self::Anthropic | Self::Chat => {
                let messages = body["messages"].as_array().into_iter().flatten();
                messages.map(|message| message["role"] == "assistant").collect()
            }
            Self::Responses => responses::by_model(body),
        };
        // Items of one turn stand side by side.
        let before = std::iter::once(&false).chain(&by_model);
        by_model.iter().zip(before).filter(|(now, before)| **now && !**before).count()
    }

    fn refuse(
        self,
        status: u16,
        kind: &str,
        message: &str,
        headers: &[(String, String)],
    ) -> Response {
        let mut error = json!({"type": kind, "message": message});
        let body = if self == Self::Anthropic {
            json!({"type": "error", "error": error})
        } else {
            error["code"] = json!(kind);
            json!({"error": error})
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = whole(status, &body);
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) = (header::HeaderName::try_from(name), value.parse()) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    fn perform(self, step: Step, body: &Value, tools: &Tools) -> Response {
        let usage = step.usage;
        let say = |text: Option<String>, call, stop| Turn { text, call, usage, stop };
        let (turn, cut_off) = match step.act {
            Act::Text(text) => (say(Some(text), None, Stop::Done), None),
            Act::Length(text) => (say(Some(text), None, Stop::Length), None),
            Act::Write { path, content, text } => {
                (self.call(tools.write(&path, &content, body), text, usage), None)
            }
            Act::Shell(command) => (self.call(tools.shell(&command), None, usage), None),
            Act::Tool { name, input } => (self.call(Some((name, input)), None, usage), None),
            Act::Hang => (say(Some("thinking".to_owned()), None, Stop::Done), Some(CutOff::Hang)),
            Act::Cut => (say(Some("thinking".to_owned()), None, Stop::Done), Some(CutOff::Cut)),
            Act::Flaky { status, .. } => {
                return self.refuse(status, error_kind(status), "scripted error", &[]);
            }
            Act::Error { status, kind, message, headers } => {
                let kind = kind.as_deref().unwrap_or(error_kind(status));
                return self.refuse(status, kind, &message, &headers);
            }
            Act::Garbage { content_type, body } => {
                return ([(header::CONTENT_TYPE, content_type)], body).into_response();
            }
        };
        let streamed = body["stream"] == true;
        let model = body["model"].as_str().unwrap_or_default();
        if !streamed {
            let answer = match self {
                Self::Anthropic => anthropic::whole(&turn, model),
                Self::Chat => chat::whole(&turn, model),
                Self::Responses => responses::whole(&turn, model, tools),
            };
            return whole(StatusCode::OK, &answer);
        }
        let chunks = match self {
            Self::Anthropic => anthropic::stream(&turn, model),
            Self::Chat => chat::stream(&turn, model),
            Self::Responses => responses::stream(&turn, model, tools),
        };
        events(chunks, cut_off)
    }

    fn call(self, call: Option<(String, Value)>, text: Option<String>, usage: Tokens) -> Turn {
        match call {
            Some(call) => Turn { text, call: Some(call), usage, stop: Stop::Tool },
            // The agent's last words then say what the test has to change.
            None => {
                let text = Some(format!("the {self:?} client offers no tool for this step"));
                Turn { text, call: None, usage, stop: Stop::Done }
            }
        }
    }
}

/// How a stream ends before its time.
#[derive(Debug, Clone, Copy)]
enum CutOff {
    /// Nothing more comes.
    Hang,
    /// The connection closes.
    Cut,
}

/// One event of a stream.
struct Chunk {
    text: String,
    /// Still sent when the stream is cut off.
    opening: bool,
}

impl Chunk {
    fn of(event: Option<&str>, data: &Value, opening: bool) -> Self {
        let name = event.map(|event| format!("event: {event}\n")).unwrap_or_default();
        Self { text: format!("{name}data: {data}\n\n"), opening }
    }
}

fn events(chunks: Vec<Chunk>, cut_off: Option<CutOff>) -> Response {
    let sent = chunks.into_iter().filter(|chunk| chunk.opening || cut_off.is_none());
    let sent: Vec<Result<String, io::Error>> = sent.map(|chunk| Ok(chunk.text)).collect();
    let sent = stream::iter(sent);
    let body = match cut_off {
        None => Body::from_stream(sent),
        Some(CutOff::Hang) => Body::from_stream(sent.chain(stream::pending())),
        Some(CutOff::Cut) => {
            let end = stream::iter([Err(io::Error::other("the script cuts the connection"))]);
            Body::from_stream(sent.chain(end))
        }
    };
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, body).into_response()
}

fn whole(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn error_kind(status: u16) -> &'static str {
    match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    }
}

/// An id that no other answer has.
fn id(prefix: &str) -> String {
    format!("{prefix}_{}", ulid::Ulid::generate().to_string().to_lowercase())
}

/// `text` in about three pieces, as models send it.
fn pieces(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    letters.chunks(letters.len().div_ceil(3).max(1)).map(|piece| piece.iter().collect()).collect()
}
