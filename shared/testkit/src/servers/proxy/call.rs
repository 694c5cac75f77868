//! What a request calls, and who calls.

use std::fmt;

use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, USER_AGENT};

/// An operation of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    pub service: Service,
    /// `PutItem`, `SendMessage`, …; for other services the request's method and path.
    pub operation: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    DynamoDb,
    Sqs,
    Other,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DynamoDb => "DynamoDB",
            Self::Sqs => "SQS",
            Self::Other => "other",
        })
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.service, self.operation)
    }
}

impl Call {
    /// Reads it from a request: `X-Amz-Target` of the JSON protocols, `Action` of the query
    /// protocol.
    pub(super) fn of(method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Self {
        const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
        if let Some((service, operation)) = text(headers, &TARGET).and_then(|t| t.split_once('.')) {
            let service = match service {
                "AmazonSQS" => Service::Sqs,
                _ if service.starts_with("DynamoDB_") => Service::DynamoDb,
                _ => Service::Other,
            };
            return Self { service, operation: operation.to_owned() };
        }
        let form = std::str::from_utf8(body).unwrap_or_default();
        let action = form.split('&').find_map(|field| field.strip_prefix("Action="));
        match action {
            // The only one of ours that still speaks it.
            Some(action) if signed_for(headers, "sqs") => {
                Self { service: Service::Sqs, operation: action.to_owned() }
            }
            Some(action) => Self { service: Service::Other, operation: action.to_owned() },
            None => Self { service: Service::Other, operation: format!("{method} {path}") },
        }
    }
}

/// The access key that signed a request.
pub(super) fn key(headers: &HeaderMap) -> Option<String> {
    Some(scope(headers)?.split('/').next()?.to_owned())
}

/// The partition key of the one item that a request is about: in our table it is called `pk`.
pub(super) fn item(body: &[u8]) -> Option<String> {
    let request: serde_json::Value = serde_json::from_slice(body).ok()?;
    let keys = ["Key", "Item"].map(|part| request[part]["pk"]["S"].as_str());
    keys.into_iter().flatten().next().map(str::to_owned)
}

/// The program's name, as the SDK puts it into its `User-Agent`.
pub(super) fn app(headers: &HeaderMap) -> Option<String> {
    let agent = text(headers, &USER_AGENT)?;
    // Each part is a word; the newer header may have it instead.
    let newer = HeaderName::from_static("x-amz-user-agent");
    let mut words = agent.split(' ').chain(text(headers, &newer).unwrap_or_default().split(' '));
    words.find_map(|word| word.strip_prefix("app/")).map(str::to_owned)
}

fn signed_for(headers: &HeaderMap, service: &str) -> bool {
    scope(headers).is_some_and(|scope| scope.split('/').nth(3) == Some(service))
}

/// `<key>/<day>/<region>/<service>/aws4_request`.
fn scope(headers: &HeaderMap) -> Option<&str> {
    let (_, after) = text(headers, &AUTHORIZATION)?.split_once("Credential=")?;
    after.split(',').next()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
