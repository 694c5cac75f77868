//! One request through the proxy.

use std::future::pending;
use std::sync::Arc;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::call::{self, Call};
use super::plan::Fault;
use super::{Seen, Shared, locked};

pub(super) type Client = legacy::Client<HttpConnector, Full<Bytes>>;

/// The connection is to be closed without an answer.
#[derive(Debug)]
pub(super) struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed by the proxy")
    }
}

impl std::error::Error for Closed {}

/// Where all go: connections are kept, as those of the clients are.
pub(super) fn client() -> Client {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    legacy::Client::builder(TokioExecutor::new()).build(connector)
}

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
        });
        log.first + log.seen.len() - 1
    };
    let note = |status: u16| {
        let mut log = locked(&shared.log);
        // It is not there any more when the calls were forgotten meanwhile.
        let index = number.checked_sub(log.first);
        if let Some(seen) = index.and_then(|index| log.seen.get_mut(index)) {
            seen.status = Some(status);
        }
    };
    if let Some((status, body)) = fault.as_ref().and_then(|fault| fault.answer(&call)) {
        note(status.as_u16());
        let answer = Response::builder().status(status);
        let answer = answer.header(CONTENT_TYPE, "application/x-amz-json-1.0");
        return answer.body(Full::from(body)).map_err(|_| Closed);
    }
    match fault {
        Some(Fault::Hang) => return pending().await,
        Some(Fault::Gone) => return Err(Closed),
        _ => {}
    }
    let mut onward = Request::from_parts(parts, Full::from(body));
    let upstream = locked(&shared.upstream).clone();
    let path = onward.uri().path_and_query().map_or("/", |path| path.as_str());
    *onward.uri_mut() = format!("{upstream}{path}").parse::<Uri>().map_err(|_| Closed)?;
    // Set anew for each connection.
    for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        onward.headers_mut().remove(name);
    }
    let answer = shared.client.request(onward).await.map_err(|_| Closed)?;
    let (mut parts, body) = answer.into_parts();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    match fault {
        Some(Fault::LoseAnswer) => return Err(Closed),
        Some(Fault::HoldAnswer) => return pending().await,
        _ => {}
    }
    note(parts.status.as_u16());
    for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    Ok(Response::from_parts(parts, Full::from(body)))
}
