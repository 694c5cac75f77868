//! `Idempotency-Key`: a repeated POST is done once.
//!
//! The record is written before the handler runs. Every id that the handler
//! makes comes from the record's nonce, so that a repeat after a crash finds
//! what the first try did.

use std::panic::AssertUnwindSafe;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::header::{CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rdev_domain::request::{Begun, RequestKey, StoredAnswer};
use rdev_domain::time::Timestamp;
use sha2::{Digest, Sha256};
use ulid::Ulid;

use crate::app::App;
use crate::clock;
use crate::http::auth::Caller;
use crate::http::key_text::hex;
use crate::http::problem::{ApiResult, Code, Problem, rendered};
use crate::http::request_id::request_id;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header that distinguishes a replayed answer from the first one.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A POST, from which its handler derives ids.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdempotentRequest {
    /// The id of the one thing that the request creates.
    pub(crate) nonce: Ulid,
    /// An earlier try of the request may have done some of it.
    pub(crate) resumed: bool,
}

impl IdempotentRequest {
    /// A further id: the same for the same `label`, of the nonce's time.
    pub(crate) fn derived(&self, label: &str) -> Ulid {
        let digest = Sha256::new().chain_update(self.nonce.to_bytes()).chain_update(label);
        let digest = digest.finalize();
        let mut random = [0_u8; 16];
        random[6..].copy_from_slice(&digest[..10]);
        Ulid::from_parts(self.nonce.timestamp_ms(), u128::from_be_bytes(random))
    }
}

/// Extension of an answer that must not be stored; repeats get this problem instead.
#[derive(Debug, Clone)]
pub(crate) struct ReplayInstead(pub(crate) Problem);

/// Runs the handler of a POST, at most once per `Idempotency-Key`.
pub(crate) async fn once(app: &App, mut request: Request, next: Next) -> Response {
    let now = clock::now();
    let nonce = app.new_ulid(now);
    let caller = request.extensions().get::<Caller>().cloned();
    let key = match header(request.headers()) {
        Ok(key) => key,
        Err(problem) => return problem.into_response(),
    };
    let (Some(key), Some(caller)) = (key, caller) else {
        request.extensions_mut().insert(IdempotentRequest { nonce, resumed: false });
        return next.run(request).await;
    };
    let id = request_id(&request).to_owned();
    let (parts, body) = request.into_parts();
    let body = match to_bytes(body, usize::MAX).await {
        Ok(body) => body,
        Err(_) => return Problem::internal().into_response(),
    };
    let key = record_key(&caller, &parts, &key);
    let digest = digest(&parts, &body);
    let begun = match begin(app, &key, &digest, nonce, now).await {
        Ok(begun) => begun,
        Err(response) => return *response,
    };
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(begun);
    let run = AssertUnwindSafe(next.run(request)).catch_unwind();
    let response = run.await.unwrap_or_else(|_| Problem::internal().into_response());
    settle(app, &key, response, &id).await
}

async fn begin(
    app: &App,
    key: &RequestKey,
    digest: &str,
    nonce: Ulid,
    now: Timestamp,
) -> Result<IdempotentRequest, Box<Response>> {
    let problem = match app.store().begin_request(key, digest, nonce, now).await {
        Ok(Begun::Go { nonce, resumed }) => return Ok(IdempotentRequest { nonce, resumed }),
        Ok(Begun::Replay(answer)) => return Err(Box::new(replay(answer))),
        Ok(Begun::InFlight) => Problem::new(
            Code::RequestInFlight,
            "a request with this Idempotency-Key is in progress",
        )
        .retry_after(1),
        Ok(Begun::OtherBody) => Problem::new(
            Code::IdempotencyKeyReused,
            "this Idempotency-Key was used for another request",
        ),
        Err(error) => error.into(),
    };
    Err(Box::new(problem.into_response()))
}

/// Records the answer; after a server error, lets a repeated request try again.
async fn settle(app: &App, key: &RequestKey, response: Response, id: &str) -> Response {
    let instead = response.extensions().get::<ReplayInstead>().cloned();
    let response = rendered(response, id);
    let now = clock::now();
    if response.status().is_server_error() {
        if let Err(error) = app.store().release_request(key, now).await {
            tracing::warn!(%error, "an idempotency record was not released; it expires in a minute");
        }
        return response;
    }
    let (answer, response) = match instead {
        Some(ReplayInstead(problem)) => (stored(problem.render(id)).await.0, response),
        None => stored(response).await,
    };
    if let Err(error) = app.store().finish_request(key, &answer, now).await {
        tracing::warn!(%error, "an answer was not recorded; a repeat does the request again");
    }
    response
}

/// An answer as it is stored, and the answer again.
async fn stored(response: Response) -> (StoredAnswer, Response) {
    let (parts, body) = response.into_parts();
    // Answers to POSTs are JSON that is in memory already.
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let text = |name: HeaderName| {
        parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let answer = StoredAnswer {
        status: parts.status.as_u16(),
        location: text(LOCATION),
        content_type: text(CONTENT_TYPE).unwrap_or_default(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    (answer, Response::from_parts(parts, Body::from(body)))
}

fn replay(answer: StoredAnswer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    let mut put = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    if !answer.content_type.is_empty() {
        put(CONTENT_TYPE, &answer.content_type);
    }
    if let Some(location) = &answer.location {
        put(LOCATION, location);
    }
    put(REPLAYED, "true");
    response
}

/// The header's value, if the request has it.
fn header(headers: &HeaderMap) -> ApiResult<Option<String>> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let visible = |value: &HeaderValue| {
        (1..=255).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    match value.to_str() {
        Ok(text) if visible(value) && values.next().is_none() => Ok(Some(text.to_owned())),
        _ => Err(Problem::new(
            Code::InvalidIdempotencyKey,
            "Idempotency-Key must be given once, with 1 to 255 visible ASCII characters",
        )),
    }
}

fn record_key(caller: &Caller, parts: &Parts, key: &str) -> RequestKey {
    let whole = format!("{}\n{}\n{}\n{key}", caller.key.id, parts.method, parts.uri.path());
    RequestKey(hex(&Sha256::digest(whole)))
}

fn digest(parts: &Parts, body: &[u8]) -> String {
    let query = parts.uri.query().unwrap_or("");
    let head = format!("{}\n{}\n{query}\n", parts.method, parts.uri.path());
    hex(&Sha256::new().chain_update(head).chain_update(body).finalize())
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotentRequest {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        parts.extensions.get::<Self>().copied().ok_or_else(Problem::internal)
    }
}
