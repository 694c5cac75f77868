//! Requests of an API Gateway HTTP API, payload version 2.0.
//!
//! Every event gets an answer: a failed invocation is a 502 at the gateway, without a reason
//! for the client.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_LENGTH, COOKIE, HeaderName, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Uri};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tower::ServiceExt;

use crate::http::middleware;
use crate::http::problem::{ApiResult, Code, Problem};

/// Lambda accepts answers of 6 MB, as JSON. Text of this size fits even if all of it is escaped.
const TEXT_BYTES: usize = 1024 * 1024;

/// What fits as base64, with room for headers.
const BINARY_BYTES: usize = 4_650_000;

/// The fields of an event that are read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    raw_path: String,
    #[serde(default)]
    raw_query_string: Option<String>,
    #[serde(default)]
    cookies: Option<Vec<String>>,
    #[serde(default)]
    headers: Option<BTreeMap<String, String>>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: Option<bool>,
    request_context: RequestContext,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext {
    http: Http,
    #[serde(default)]
    stage: Option<String>,
}

#[derive(Deserialize)]
struct Http {
    method: String,
}

/// The router's answer to the request in `event`. An event without a request gets a
/// problem of status 400.
pub async fn answer(router: &Router, event: Value) -> Value {
    let response = match request(event) {
        Ok(request) => match router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        Err(problem) => middleware::refuse(problem),
    };
    gateway_response(response).await
}

fn request(event: Value) -> ApiResult<Request> {
    match event.get("version").and_then(Value::as_str) {
        Some("2.0") => {}
        Some(version) => {
            let version: String = version.chars().take(20).collect();
            return Err(malformed(format!(
                "the payload has version {version}; set the integration's payload format \
                 version to 2.0"
            )));
        }
        None => return Err(malformed("the event is not a request of an HTTP API")),
    }
    let event: Event = serde_json::from_value(event)
        .map_err(|error| malformed(format!("the event cannot be read: {error}")))?;
    let method = Method::from_bytes(event.request_context.http.method.as_bytes())
        .map_err(|_| malformed("the method is invalid"))?;
    let stage = event.request_context.stage.as_deref();
    let uri = uri(&event.raw_path, stage, event.raw_query_string.as_deref())?;
    let headers = headers(event.headers.unwrap_or_default(), &event.cookies.unwrap_or_default())?;
    let body = event.body.unwrap_or_default();
    let body = if event.is_base64_encoded.unwrap_or(false) {
        STANDARD
            .decode(body)
            .map_err(|_| malformed("the body is not base64, although the event says so"))?
    } else {
        body.into_bytes()
    };
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// The path without the stage that the gateway puts before it, and the query.
fn uri(path: &str, stage: Option<&str>, query: Option<&str>) -> ApiResult<Uri> {
    let staged = stage.filter(|stage| !stage.is_empty() && *stage != "$default");
    let rest = staged.and_then(|stage| path.strip_prefix('/')?.strip_prefix(stage));
    let path = match rest {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    };
    if !path.starts_with('/') {
        return Err(malformed("the path does not begin with a slash"));
    }
    let mut text = encoded(path, b"");
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        text.push('?');
        text.push_str(&encoded(query, b"?"));
    }
    let path = PathAndQuery::try_from(text).map_err(|_| malformed("the path is too long"))?;
    Ok(Uri::from(path))
}

/// `text` percent-encoded for a URI, since the gateway decodes paths. Existing escapes are kept.
fn encoded(text: &str, also_plain: &[u8]) -> String {
    let bytes = text.as_bytes();
    let mut encoded = String::with_capacity(bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        let escape = || {
            let digits = bytes.get(at + 1..at + 3);
            digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        };
        let plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(byte);
        if plain || also_plain.contains(byte) || *byte == b'%' && escape() {
            encoded.push(char::from(*byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The headers of a request. The gateway joins headers of one name with commas, and moves cookies
/// into a field of their own.
fn headers(given: BTreeMap<String, String>, cookies: &[String]) -> ApiResult<HeaderMap> {
    let mut headers = HeaderMap::new();
    let cookies = (!cookies.is_empty()).then(|| (COOKIE.to_string(), cookies.join("; ")));
    for (name, value) in given.into_iter().chain(cookies) {
        let bad = || malformed("a header cannot be read");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad())?;
        headers.try_append(name, value).map_err(|_| malformed("there are too many headers"))?;
    }
    // They describe the connection to the gateway; here the body is whole.
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    Ok(headers)
}

/// The answer in the gateway's form.
async fn gateway_response(response: Response) -> Value {
    let (mut parts, body) = response.into_parts();
    let mut body = to_bytes(body, BINARY_BYTES).await.ok();
    if body.is_none() {
        tracing::error!("an answer was cut short, or has more than a function may answer");
        let (other, text) = middleware::refuse(Problem::internal()).into_parts();
        parts = other;
        body = to_bytes(text, BINARY_BYTES).await.ok();
    }
    let body = body.unwrap_or_default();
    parts.headers.remove(CONTENT_LENGTH);
    let mut headers = Map::new();
    for name in parts.headers.keys() {
        let values = parts.headers.get_all(name).iter();
        let values: Vec<_> = values.map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        headers.insert(name.to_string(), Value::String(values.join(", ")));
    }
    let text = if body.len() <= TEXT_BYTES { std::str::from_utf8(&body).ok() } else { None };
    json!({
        "statusCode": parts.status.as_u16(),
        "headers": headers,
        "body": text.map_or_else(|| STANDARD.encode(&body), str::to_owned),
        "isBase64Encoded": text.is_none(),
        // rdev sets no cookies, but `cargo lambda watch` requires the field.
        "cookies": [],
    })
}

fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(Code::MalformedRequest, detail)
}
