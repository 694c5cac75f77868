//! One request through the proxy.

use std::future::pending;
use std::sync::Arc;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response, StatusCode};

use super::call::{self, Call};
use super::plan::Fault;
use super::{Seen, Shared, locked};
use crate::tools::onward::{Closed, forward};

pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Closed> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let call = Call::of(&parts.method, parts.uri.path(), &parts.headers, &body);
    let fault = locked(&shared.plan).fault(&call);
    let number = {
        let mut log = locked(&shared.log);
        log.seen.push(Seen {
            call: call.clone(),
            key: call::key(&parts.headers),
            app: call::app(&parts.headers),
            item: call::item(&body),
            fault: fault.clone(),
            status: None,
            bytes: 0,
        });
        log.first + log.seen.len() - 1
    };
    let note = |status: u16, bytes: u64| {
        let mut log = locked(&shared.log);
        // It is not there any more when the calls were forgotten meanwhile.
        let index = number.checked_sub(log.first);
        if let Some(seen) = index.and_then(|index| log.seen.get_mut(index)) {
            seen.status = Some(status);
            seen.bytes = bytes;
        }
    };
    if let Some((status, body)) = fault.as_ref().and_then(|fault| fault.answer(&call)) {
        note(status.as_u16(), body.len() as u64);
        return instead(status, body);
    }
    match fault {
        Some(Fault::Hang) => return pending().await,
        Some(Fault::Gone) => return Err(Closed),
        _ => {}
    }
    let _held = match shared.tables.hold(&call, &body) {
        Ok(held) => held,
        Err((status, body)) => {
            note(status.as_u16(), body.len() as u64);
            return instead(status, body);
        }
    };
    let body = shared.tables.redirected(&call, &body).map_or(body, Bytes::from);
    let onward = Request::from_parts(parts, Full::from(body));
    let upstream = locked(&shared.upstream).clone();
    let answer = forward(&shared.client, &upstream, onward).await?;
    match fault {
        Some(Fault::LoseAnswer) => return Err(Closed),
        Some(Fault::HoldAnswer) => return pending().await,
        _ => {}
    }
    note(answer.status().as_u16(), answer.body().size_hint().exact().unwrap_or_default());
    Ok(answer)
}

/// An answer instead of the service's.
fn instead(status: StatusCode, body: String) -> Result<Response<Full<Bytes>>, Closed> {
    let answer = Response::builder().status(status);
    let answer = answer.header(CONTENT_TYPE, "application/x-amz-json-1.0");
    answer.body(Full::from(body)).map_err(|_| Closed)
}
