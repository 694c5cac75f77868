//! Extractors: they parse requests into valid types, or answer with a [`Problem`].

use std::error::Error;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use rdev_domain::spec::FieldError;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::http::auth::Caller;
use crate::http::problem::{ApiResult, Code, Problem};

/// The ids in the path. A malformed one is 404.
pub(crate) struct InPath<T>(pub(crate) T);

/// The query string. Unknown names are refused.
pub(crate) struct InQuery<T>(pub(crate) T);

/// A JSON object.
pub(crate) struct JsonBody<T>(pub(crate) T);

/// A JSON object, or nothing at all.
pub(crate) struct OptionalJson<T>(pub(crate) T);

/// The body of an operation without one: absent, or `{}`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmptyBody {}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for InPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(ids)) => Ok(Self(ids)),
            Err(_) => Err(Problem::not_found()),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for InQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                let cause = rejection.source().map_or_else(|| rejection.to_string(), describe);
                let (field, message) = match cause.split_once(": ") {
                    Some((field, message)) => (field.to_owned(), message.to_owned()),
                    None => (named_in(&cause).unwrap_or("query").to_owned(), cause),
                };
                Err(Problem::field(field, short(message)))
            }
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        let (headers, bytes) = read(request, state).await?;
        parse(&headers, &bytes).map(Self)
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        let (headers, bytes) = read(request, state).await?;
        if bytes.is_empty() { Ok(Self(T::default())) } else { parse(&headers, &bytes).map(Self) }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::internal)
    }
}

/// Reads `value` as a `T`; the field's path begins with `prefix`.
pub(crate) fn from_value<T: DeserializeOwned>(value: Value, prefix: &str) -> ApiResult<T> {
    if !value.is_object() {
        // Derived types would also accept an array of their fields' values.
        let field = prefix.strip_suffix('.').unwrap_or("body");
        return Err(Problem::field(field, "must be a JSON object"));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let message = error.inner().to_string();
        let path = error.path().to_string();
        let missing = message.starts_with("missing field");
        let field = match (path.as_str(), named_in(&message)) {
            (".", Some(name)) => name.to_owned(),
            (".", None) => "body".to_owned(),
            (path, Some(name)) if missing => format!("{path}.{name}"),
            (path, _) => path.to_owned(),
        };
        let message = if missing { "must be given".to_owned() } else { short(message) };
        Problem::invalid(vec![FieldError { field: short(format!("{prefix}{field}")), message }])
    })
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> ApiResult<(HeaderMap, Bytes)> {
    let headers = request.headers().clone();
    let bytes = Bytes::from_request(request, state).await.map_err(|_| {
        Problem::new(Code::MalformedRequest, "the body could not be read to its end")
    })?;
    Ok((headers, bytes))
}

fn parse<T: DeserializeOwned>(headers: &HeaderMap, bytes: &[u8]) -> ApiResult<T> {
    if !is_json(headers) {
        return Err(Problem::new(
            Code::UnsupportedMediaType,
            "the body must be JSON: Content-Type: application/json",
        ));
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        Problem::new(Code::MalformedJson, format!("the body is not JSON: {error}"))
    })?;
    from_value(value, "")
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The field that serde's message names in backticks.
fn named_in(message: &str) -> Option<&str> {
    let known = message.starts_with("missing field") || message.starts_with("unknown field");
    message.split('`').nth(1).filter(|_| known)
}

fn describe(error: &(dyn Error + 'static)) -> String {
    error.to_string()
}

/// A message may repeat what was sent, but not all 256 KiB of it.
fn short(mut message: String) -> String {
    if let Some((cut, _)) = message.char_indices().nth(300) {
        message.truncate(cut);
        message.push('…');
    }
    message
}
