//! What stands before every handler, whichever router it belongs to.
//!
//! Outermost: the request's id, the log line, problems, panics. Then, for a
//! path and method that exist: key, rate limit, scope; then the body, up to
//! its limit; then, for a POST, idempotency.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method};
use http_body_util::LengthLimitError;
use tracing::Instrument;
use ulid::Ulid;
use utoipa_axum::router::OpenApiRouter;

use crate::Api;
use crate::auth::{self, AccessTable};
use crate::idempotency;
use crate::problem::{Answer, Code, Problem, rendered};

/// Where answers carry the request's id.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The request's id.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

#[derive(Clone)]
struct Gate {
    api: Api,
    table: Arc<AccessTable>,
}

/// `router` behind the gate.
pub(crate) fn gated(router: OpenApiRouter<Api>, api: Api) -> Router {
    let (router, document) = router.split_for_parts();
    let gate = Gate { api: api.clone(), table: Arc::new(AccessTable::of(&document)) };
    router
        .route_layer(from_fn_with_state(gate, enter))
        .fallback(|| async { Problem::not_found() })
        .layer(from_fn(answer))
        .with_state(api)
}

async fn answer(mut request: Request, next: Next) -> Response {
    let id = Ulid::generate().to_string();
    request.extensions_mut().insert(RequestId(id.clone()));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let span = tracing::info_span!("request", request_id = %id, %method, path);
    let began = Instant::now();
    let run = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone());
    let response = run.await.unwrap_or_else(|_| panicked().into_response());
    let response = finished(response, &id);
    let (status, ms) = (response.status().as_u16(), began.elapsed().as_millis());
    span.in_scope(|| tracing::info!(status, ms, "answered"));
    response
}

/// What every answer has, whatever it tells.
fn finished(response: Response, id: &str) -> Response {
    let mut response = rendered(response, id);
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, HeaderValue::from_str(id).expect("a ULID is ASCII"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The answer to what never became a request.
pub(crate) fn refused(problem: Problem) -> Response {
    let id = Ulid::generate().to_string();
    let code = problem.code();
    tracing::info!(request_id = %id, status = code.status().as_u16(), code = code.as_str(),
        "refused");
    finished(problem.into_response(), &id)
}

async fn enter(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let access = path.and_then(|path| gate.table.get(request.method(), path)).cloned();
    match access {
        Some(access) => match admitted(&gate.api, &access, request).await {
            Ok(request) => run(gate.api, request, next).await,
            Err(problem) => problem.into_response(),
        },
        // No such method here: the router answers 405.
        None => next.run(request).await,
    }
}

/// The request with its caller and its whole body.
async fn admitted(api: &Api, access: &auth::Access, mut request: Request) -> Answer<Request> {
    let id = request_id(&request).to_owned();
    let caller = auth::admit(api, access, request.headers(), request.extensions(), &id).await?;
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    if !matches!(*request.method(), Method::POST | Method::PATCH) {
        return Ok(request);
    }
    let limit = api.settings().body_limit_bytes;
    let too_large = || {
        let detail = format!("the body has more than {limit} bytes");
        Problem::new(Code::BodyTooLarge, detail)
    };
    let announced =
        request.headers().get(CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > limit) {
        return Err(too_large());
    }
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, limit).await.map_err(|error| {
        let source = std::error::Error::source(&error);
        if source.is_some_and(|source| source.is::<LengthLimitError>()) {
            too_large()
        } else {
            Problem::new(Code::MalformedRequest, "the body could not be read to its end")
        }
    })?;
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// Runs the handler. One that changes something runs to its end, also when
/// the client goes away in the middle.
async fn run(api: Api, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let work = async move {
        if request.method() == Method::POST {
            idempotency::once(&api, request, next).await
        } else {
            next.run(request).await
        }
    };
    tokio::spawn(work.in_current_span()).await.unwrap_or_else(|_| panicked().into_response())
}

/// The id that [`answer`] gave the request.
pub(crate) fn request_id(request: &Request) -> &str {
    request.extensions().get::<RequestId>().map_or("", |id| &id.0)
}

/// What a handler that panicked answers; the panic's own message is in the log.
pub(crate) fn panicked() -> Problem {
    Problem::new(Code::InternalError, "something went wrong; the log knows more")
}
