//! One request through the fault server.

use std::future::pending;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::http::{Request, Response, StatusCode};
use futures_util::stream;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use super::{Fault, Plan, Shared, locked};
use crate::tools::onward::{Closed, forward};

pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Closed> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let target = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    locked(&shared.seen).push(super::Request {
        method: parts.method.to_string(),
        target: target.clone(),
        headers: parts.headers.clone(),
        body: body.to_vec(),
    });
    let fault = fault(&shared, parts.method.as_str(), &target);
    match fault {
        // The port is closed; this one was on its way.
        Some(Fault::Gone | Fault::Refused) => return Err(Closed),
        Some(Fault::Hang) => return pending().await,
        None | Some(Fault::HoldAnswer | Fault::LoseAnswer) => {}
        Some(fault) => return wrong(fault, &target),
    }
    let onward = Request::from_parts(parts, Full::from(body));
    let Some(upstream) = &shared.upstream else {
        return plain(StatusCode::NOT_FOUND, "404 page not found\n");
    };
    let answer = forward(&shared.client, upstream, onward).await?;
    // Where the next one is to be refused, the port is closed before anybody can send it.
    let settled = |open: &bool| *open == *shared.should_listen.borrow();
    // Its sender is in `shared`, so that it cannot be gone.
    let _ = shared.open.subscribe().wait_for(settled).await;
    match fault {
        Some(Fault::LoseAnswer) => Err(Closed),
        Some(Fault::HoldAnswer) => {
            shared.held.send_modify(|held| *held += 1);
            pending().await
        }
        _ => Ok(answer.map(Body::new)),
    }
}

/// What happens to this request; counts it.
fn fault(shared: &Shared, method: &str, target: &str) -> Option<Fault> {
    let mut plan = locked(&shared.plan);
    match &mut *plan {
        Plan::Heal => None,
        Plan::All(fault) => Some(fault.clone()),
        Plan::On(on, part, fault) => {
            (on == method && target.contains(part.as_str())).then(|| fault.clone())
        }
        Plan::First(count, on, part, fault) => {
            let hit = *count > 0 && on == method && target.contains(part.as_str());
            *count -= usize::from(hit);
            hit.then(|| fault.clone())
        }
        Plan::Nth(0, fault) => {
            let fault = fault.clone();
            *plan = Plan::Heal;
            Some(fault)
        }
        Plan::Nth(skipped, fault) => {
            *skipped -= 1;
            if *skipped == 0 && *fault == Fault::Refused {
                // This one is still answered: its connection is there.
                shared.should_listen.send_replace(false);
            }
            None
        }
    }
}

fn wrong(fault: Fault, target: &str) -> Result<Response<Body>, Closed> {
    let json = || Response::builder().header(CONTENT_TYPE, "application/json");
    let answer = match fault {
        Fault::Status(status) => {
            let status = StatusCode::from_u16(status).expect("an HTTP status");
            return plain(status, "wrong on purpose\n");
        }
        Fault::Body(status, kind, body) => {
            Response::builder().status(status).header(CONTENT_TYPE, kind).body(Body::from(body))
        }
        Fault::Limited(seconds) => Response::builder()
            .status(StatusCode::TOO_MANY_REQUESTS)
            .header(RETRY_AFTER, seconds)
            .body(Body::empty()),
        Fault::Html => Response::builder()
            .header(CONTENT_TYPE, "text/html; charset=utf-8")
            .body(Body::from("<!DOCTYPE html><title>Sign in</title><p>Welcome\n")),
        Fault::Truncated => json().body(Body::from(r#"[{"id": 1, "name": "si"#)),
        Fault::CutOff => {
            let pieces = stream::iter([Ok(r#"[{"id": 1, "na"#), Err(Closed)]);
            json().header(CONTENT_LENGTH, 4096).body(Body::from_stream(pieces))
        }
        Fault::Redirect(origin) => Response::builder()
            .status(StatusCode::TEMPORARY_REDIRECT)
            .header(LOCATION, format!("{origin}{target}"))
            .body(Body::empty()),
        Fault::Huge => {
            let piece = Bytes::from(vec![b'a'; 1_000_000]);
            let ends = || std::iter::once(Bytes::from_static(b"\""));
            let pieces = ends().chain(std::iter::repeat_n(piece, 50)).chain(ends());
            json().body(Body::from_stream(stream::iter(pieces.map(Ok::<_, Closed>))))
        }
        Fault::Refused | Fault::Gone | Fault::Hang | Fault::HoldAnswer | Fault::LoseAnswer => {
            return Err(Closed);
        }
    };
    answer.map_err(|_| Closed)
}

fn plain(status: StatusCode, text: &'static str) -> Result<Response<Body>, Closed> {
    let answer = Response::builder().status(status);
    let answer = answer.header(CONTENT_TYPE, "text/plain; charset=utf-8");
    answer.body(Body::from(text)).map_err(|_| Closed)
}
