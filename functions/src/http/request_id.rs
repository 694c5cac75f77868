//! The id of a request: in its log lines, in the audit log, and in the header `x-request-id` of
//! its answer.

use axum::extract::Request;
use http::HeaderName;
use ulid::Ulid;

/// The header of answers that carries the request's id.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[derive(Debug, Clone)]
struct RequestId(String);

/// A new id.
pub(crate) fn new() -> String {
    Ulid::generate().to_string()
}

/// Gives a request its id.
pub(crate) fn set(request: &mut Request, id: &str) {
    request.extensions_mut().insert(RequestId(id.to_owned()));
}

/// The id that the request was given.
pub(crate) fn request_id(request: &Request) -> &str {
    request.extensions().get::<RequestId>().map_or("", |id| &id.0)
}
