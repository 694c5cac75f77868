//! What stands before a real server forwards by: one client, and headers that belong to one
//! connection only.

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

pub(crate) type Client = legacy::Client<HttpConnector, Full<Bytes>>;

/// The connection is to be closed without an answer.
#[derive(Debug)]
pub(crate) struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed on purpose")
    }
}

impl std::error::Error for Closed {}

/// Its connections are kept, as those of the clients are.
pub(crate) fn client() -> Client {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    legacy::Client::builder(TokioExecutor::new()).build(connector)
}

/// Sends a request on to the same path below `upstream`; the whole answer.
pub(crate) async fn forward(
    client: &Client,
    upstream: &str,
    mut onward: Request<Full<Bytes>>,
) -> Result<Response<Full<Bytes>>, Closed> {
    let path = onward.uri().path_and_query().map_or("/", |path| path.as_str());
    *onward.uri_mut() = format!("{upstream}{path}").parse::<Uri>().map_err(|_| Closed)?;
    // Set anew for each connection.
    let of_one_connection = [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING];
    for name in &of_one_connection {
        onward.headers_mut().remove(name);
    }
    let answer = client.request(onward).await.map_err(|_| Closed)?;
    let (mut parts, body) = answer.into_parts();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    for name in &of_one_connection {
        parts.headers.remove(name);
    }
    Ok(Response::from_parts(parts, Full::from(body)))
}
