//! The middleware before every handler, in every router.
//!
//! Outermost: the request's id, the log line, problems, panics. Then, for a
//! path and method that exist: key, rate limit, scope; then the body, up to
//! its limit; then, for a POST, idempotency.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method};
use tracing::Instrument;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::http::auth::{self, Access, AccessTable, Limiter};
use crate::http::body::{Bodies, Room, Sender};
use crate::http::idempotency;
use crate::http::problem::{ApiResult, Problem, rendered};
use crate::http::request_id::{self, X_REQUEST_ID, request_id};

/// What decides whether a request reaches its handler.
struct Admission {
    app: App,
    access: AccessTable,
    limiter: Option<Limiter>,
    bodies: Bodies,
}

/// `router` with the middleware before it.
pub(crate) fn wrap(router: OpenApiRouter<App>, app: App) -> Router {
    let (router, document) = router.split_for_parts();
    let limiter = auth::limiter(app.settings());
    let access = AccessTable::of(&document);
    let bodies = Bodies::new(app.settings());
    let admission = Arc::new(Admission { app: app.clone(), access, limiter, bodies });
    router
        .route_layer(from_fn_with_state(admission, admit))
        // `admit` has read the body, up to the limit that is configured.
        .layer(DefaultBodyLimit::disable())
        .fallback(|| async { Problem::not_found() })
        .layer(from_fn(outermost))
        .with_state(app)
}

/// Gives the request its id, logs it, and turns panics into problems.
async fn outermost(mut request: Request, next: Next) -> Response {
    let id = request_id::new();
    request_id::set(&mut request, &id);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let span = tracing::info_span!("request", request_id = %id, %method, path);
    let began = Instant::now();
    let run = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone());
    let response = run.await.unwrap_or_else(|_| Problem::internal().into_response());
    let response = finish(response, &id);
    let (status, ms) = (response.status().as_u16(), began.elapsed().as_millis());
    span.in_scope(|| tracing::info!(status, ms, "answered"));
    response
}

/// Renders problems, and adds the headers that every answer has.
fn finish(response: Response, id: &str) -> Response {
    let mut response = rendered(response, id);
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, HeaderValue::from_str(id).expect("a ULID is ASCII"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The answer to an event of a gateway that could not be read as a request.
pub(crate) fn refuse(problem: Problem) -> Response {
    let id = request_id::new();
    let code = problem.code();
    tracing::info!(request_id = %id, status = code.status().as_u16(), code = code.as_str(),
        "refused");
    finish(problem.into_response(), &id)
}

async fn admit(State(admission): State<Arc<Admission>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    match path.and_then(|path| admission.access.get(request.method(), path)) {
        Some(access) => match admitted(&admission, access, request).await {
            Ok((request, room)) => run(admission.app.clone(), request, room, next).await,
            Err(problem) => problem.into_response(),
        },
        // No such method here: the router answers 405.
        None => next.run(request).await,
    }
}

/// Checks a request; it then has its caller and its whole body.
async fn admitted(
    admission: &Admission,
    access: &Access,
    mut request: Request,
) -> ApiResult<(Request, Room)> {
    let Admission { app, limiter, bodies, .. } = admission;
    let id = request_id(&request).to_owned();
    let (headers, extensions) = (request.headers(), request.extensions());
    let caller = auth::admit(app, limiter.as_ref(), access, headers, extensions, &id).await?;
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    if !matches!(*request.method(), Method::POST | Method::PATCH) {
        return Ok((request, None));
    }
    let sender = match access {
        Access::Public => Sender::System,
        Access::Key(_) | Access::KeyUnlessLoopback(_) => Sender::Client,
    };
    let (parts, body) = request.into_parts();
    let (body, room) = bodies.read(sender, &parts.headers, body).await?;
    Ok((Request::from_parts(parts, Body::from(body)), room))
}

/// Runs the handler. One that changes something runs to its end even when
/// the client disconnects.
async fn run(app: App, request: Request, room: Room, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let work = async move {
        let _room = room;
        if request.method() == Method::POST {
            idempotency::once(&app, request, next).await
        } else {
            next.run(request).await
        }
    };
    tokio::spawn(work.in_current_span())
        .await
        .unwrap_or_else(|_| Problem::internal().into_response())
}
