//! Problems: every answer that is not a success, in the form of RFC 9457.
//!
//! A handler returns a [`Problem`]; the outermost layer renders it, because
//! only that layer knows the request's id.

use std::fmt::Write;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use rdev_domain::chain;
use rdev_domain::ports::{Conflict, PortError};
use rdev_domain::spec::FieldError;
use rdev_domain::step::Refusal;
use rdev_domain::task::TaskState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::services::error::ServiceError;

/// The media type of problems.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What went wrong, for programs: stable, one status each. `docs/api.md` describes
/// each, which a test checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    MalformedJson,
    MalformedRequest,
    InvalidCursor,
    InvalidIdempotencyKey,
    Unauthorized,
    InvalidSignature,
    MissingScope,
    NotFound,
    NoDiff,
    MethodNotAllowed,
    Conflict,
    ProjectExists,
    ProjectNotReady,
    ProjectReplaced,
    TasksRunning,
    TaskEnded,
    PushUnderWay,
    NotRetryable,
    RetriedAlready,
    RequestInFlight,
    KeyAlreadyShown,
    RepositoryNotOurs,
    DomainTaken,
    RecordNotOurs,
    PipelineNotRunning,
    NotSupported,
    ForgeNotConfigured,
    DnsNotConfigured,
    CiNotConfigured,
    HooksNotConfigured,
    BodyTooLarge,
    UnsupportedMediaType,
    InvalidRequest,
    IdempotencyKeyReused,
    RateLimited,
    InternalError,
    UpstreamFailed,
    Unavailable,
    NotReady,
    UpstreamTimedOut,
}

impl Code {
    /// Every code, by status.
    pub const ALL: [Self; 40] = [
        Self::MalformedJson,
        Self::MalformedRequest,
        Self::InvalidCursor,
        Self::InvalidIdempotencyKey,
        Self::Unauthorized,
        Self::InvalidSignature,
        Self::MissingScope,
        Self::NotFound,
        Self::NoDiff,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::ProjectExists,
        Self::ProjectNotReady,
        Self::ProjectReplaced,
        Self::TasksRunning,
        Self::TaskEnded,
        Self::PushUnderWay,
        Self::NotRetryable,
        Self::RetriedAlready,
        Self::RequestInFlight,
        Self::KeyAlreadyShown,
        Self::RepositoryNotOurs,
        Self::DomainTaken,
        Self::RecordNotOurs,
        Self::PipelineNotRunning,
        Self::NotSupported,
        Self::ForgeNotConfigured,
        Self::DnsNotConfigured,
        Self::CiNotConfigured,
        Self::HooksNotConfigured,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidRequest,
        Self::IdempotencyKeyReused,
        Self::RateLimited,
        Self::InternalError,
        Self::UpstreamFailed,
        Self::Unavailable,
        Self::NotReady,
        Self::UpstreamTimedOut,
    ];

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        self.facts().1
    }

    /// The status it comes with.
    pub fn status(self) -> StatusCode {
        self.facts().0
    }

    fn facts(self) -> (StatusCode, &'static str) {
        match self {
            Self::MalformedJson => (StatusCode::BAD_REQUEST, "malformed_json"),
            Self::MalformedRequest => (StatusCode::BAD_REQUEST, "malformed_request"),
            Self::InvalidCursor => (StatusCode::BAD_REQUEST, "invalid_cursor"),
            Self::InvalidIdempotencyKey => (StatusCode::BAD_REQUEST, "invalid_idempotency_key"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::InvalidSignature => (StatusCode::UNAUTHORIZED, "invalid_signature"),
            Self::MissingScope => (StatusCode::FORBIDDEN, "missing_scope"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::NoDiff => (StatusCode::NOT_FOUND, "no_diff"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Conflict => (StatusCode::CONFLICT, "conflict"),
            Self::ProjectExists => (StatusCode::CONFLICT, "project_exists"),
            Self::ProjectNotReady => (StatusCode::CONFLICT, "project_not_ready"),
            Self::ProjectReplaced => (StatusCode::CONFLICT, "project_replaced"),
            Self::TasksRunning => (StatusCode::CONFLICT, "tasks_running"),
            Self::TaskEnded => (StatusCode::CONFLICT, "task_ended"),
            Self::PushUnderWay => (StatusCode::CONFLICT, "push_under_way"),
            Self::NotRetryable => (StatusCode::CONFLICT, "not_retryable"),
            Self::RetriedAlready => (StatusCode::CONFLICT, "retried_already"),
            Self::RequestInFlight => (StatusCode::CONFLICT, "request_in_flight"),
            Self::KeyAlreadyShown => (StatusCode::CONFLICT, "key_already_shown"),
            Self::RepositoryNotOurs => (StatusCode::CONFLICT, "repository_not_ours"),
            Self::DomainTaken => (StatusCode::CONFLICT, "domain_taken"),
            Self::RecordNotOurs => (StatusCode::CONFLICT, "record_not_ours"),
            Self::PipelineNotRunning => (StatusCode::CONFLICT, "pipeline_not_running"),
            Self::NotSupported => (StatusCode::CONFLICT, "not_supported"),
            Self::ForgeNotConfigured => (StatusCode::CONFLICT, "forge_not_configured"),
            Self::DnsNotConfigured => (StatusCode::CONFLICT, "dns_not_configured"),
            Self::CiNotConfigured => (StatusCode::CONFLICT, "ci_not_configured"),
            Self::HooksNotConfigured => (StatusCode::CONFLICT, "hooks_not_configured"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")
            }
            Self::InvalidRequest => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_request"),
            Self::IdempotencyKeyReused => {
                (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused")
            }
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::InternalError => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
            Self::UpstreamFailed => (StatusCode::BAD_GATEWAY, "upstream_failed"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
            Self::UpstreamTimedOut => (StatusCode::GATEWAY_TIMEOUT, "upstream_timed_out"),
        }
    }
}

/// An answer that is not a success.
#[derive(Debug, Clone)]
pub struct Problem(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
    checks: Option<serde_json::Value>,
    headers: HeaderMap,
}

/// What handlers return.
pub(crate) type ApiResult<T> = Result<T, Problem>;

/// A problem as it is sent: `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// Always `about:blank`: see `code`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What went wrong, for programs: stable.
    #[schema(example = "not_found")]
    pub code: String,
    /// What went wrong this time, for people.
    pub detail: String,
    /// The request's id, also in the header `x-request-id`, the log and the audit.
    pub request_id: String,
    /// The fields that broke a rule, when it is about fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Only of `/ready`: the results of the checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<crate::services::readiness::Checks>)]
    pub checks: Option<serde_json::Value>,
}

impl Problem {
    /// A problem of `code`; `detail` explains to people what happened and what to do.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            checks: None,
            headers: HeaderMap::new(),
        }))
    }

    /// Fields that broke rules.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let mut detail = match errors.len() {
            1 => String::new(),
            n => format!("{n} fields: "),
        };
        for (n, error) in errors.iter().enumerate().take(5) {
            let comma = if n > 0 { "; " } else { "" };
            // Writing to a string cannot fail.
            let _ = write!(detail, "{comma}{} {}", error.field, error.message);
        }
        let mut problem = Self::new(Code::InvalidRequest, detail);
        problem.0.errors = errors;
        problem
    }

    /// One field that broke a rule.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError { field: field.into(), message: message.into() }])
    }

    /// What a handler that panicked answers; the panic's own message is in the log.
    pub(crate) fn internal() -> Self {
        Self::new(Code::InternalError, "something went wrong; see the server's log")
    }

    /// No route has the path, or what it names does not exist.
    pub fn not_found() -> Self {
        Self::new(Code::NotFound, "there is nothing at this path")
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(Code::Unauthorized, "a valid API key is needed: Authorization: Bearer rdev_…")
            .with_header(WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer realm="rdev""#))
    }

    /// The client may come back after `seconds`.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        self.with_header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    #[must_use]
    pub(crate) fn with_checks(mut self, checks: serde_json::Value) -> Self {
        self.0.checks = Some(checks);
        self
    }

    #[must_use]
    fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The answer to the request `request_id`.
    pub(crate) fn render(self, request_id: &str) -> Response {
        let Parts { code, detail, errors, checks, headers } = *self.0;
        let status = code.status();
        let body = ProblemBody {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            code: code.as_str().to_owned(),
            detail,
            request_id: request_id.to_owned(),
            errors,
            checks,
        };
        let body = serde_json::to_vec(&body).expect("strings and numbers can be written as JSON");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        response
    }
}

/// Renders every answer that is a problem, also those of the router itself
/// (405), and keeps their headers (`Allow`).
pub(crate) fn rendered(mut response: Response, request_id: &str) -> Response {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        return problem.render(request_id);
    }
    let status = response.status();
    let is_problem = response.headers().get(CONTENT_TYPE).is_some_and(|t| t == PROBLEM_JSON);
    if is_problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let problem = match status {
        StatusCode::NOT_FOUND => Problem::not_found(),
        StatusCode::METHOD_NOT_ALLOWED => Problem::new(
            Code::MethodNotAllowed,
            "this path does not support that method; see Allow",
        ),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Code::BodyTooLarge, "the body is too large"),
        _ if status.is_client_error() => {
            Problem::new(Code::MalformedRequest, "the request could not be read")
        }
        _ => Problem::internal(),
    };
    let mut answer = problem.render(request_id);
    for (name, value) in response.headers() {
        if name != CONTENT_TYPE && name != http::header::CONTENT_LENGTH {
            answer.headers_mut().append(name, value.clone());
        }
    }
    answer
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.code().status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<PortError> for Problem {
    fn from(error: PortError) -> Self {
        match error {
            PortError::NotFound { .. } => Self::new(Code::NotFound, error.to_string()),
            PortError::Conflict(Conflict::Contended) => {
                Self::new(Code::Unavailable, "others changed the same thing at the same time")
                    .retry_after(1)
            }
            PortError::Conflict(conflict) => {
                let code = match conflict {
                    Conflict::ProjectExists => Code::ProjectExists,
                    Conflict::ProjectNotReady => Code::ProjectNotReady,
                    Conflict::ProjectReplaced => Code::ProjectReplaced,
                    Conflict::TasksRunning => Code::TasksRunning,
                    Conflict::RepositoryNotOurs => Code::RepositoryNotOurs,
                    Conflict::DomainTaken => Code::DomainTaken,
                    Conflict::RecordNotOurs => Code::RecordNotOurs,
                    Conflict::NotRunning => Code::PipelineNotRunning,
                    Conflict::ProjectChanged
                    | Conflict::IdTaken
                    | Conflict::DomainLeaving
                    | Conflict::Contended => Code::Conflict,
                };
                Self::new(code, conflict.to_string())
            }
            PortError::Refused(refusal) => refusal.into(),
            PortError::NotSupported { .. } => Self::new(Code::NotSupported, error.to_string()),
            PortError::Invalid(invalid) => Self::new(Code::InvalidRequest, invalid.to_string()),
            PortError::Denied { .. } => {
                tracing::error!(error = %chain(&error), "credentials of the server were refused");
                Self::new(Code::UpstreamFailed, error.to_string())
            }
            PortError::Unavailable { .. } => {
                tracing::warn!(error = %chain(&error), "a port is not available");
                Self::new(Code::Unavailable, error.to_string()).retry_after(5)
            }
            PortError::TimedOut { .. } => {
                tracing::warn!(error = %chain(&error), "a system did not answer in time");
                Self::new(Code::UpstreamTimedOut, error.to_string())
            }
            PortError::Limited { retry_after, .. } => {
                tracing::warn!(error = %chain(&error), "a system refuses further requests for now");
                let seconds = retry_after.map_or(5, |after| after.as_secs().max(1));
                Self::new(Code::Unavailable, error.to_string()).retry_after(seconds)
            }
            PortError::Upstream { .. } => {
                tracing::error!(error = %chain(&error), "a system gave an invalid answer");
                Self::new(Code::UpstreamFailed, chain(&error))
            }
            PortError::Broken { .. } => {
                tracing::error!(error = %chain(&error), "a port failed");
                Self::internal()
            }
        }
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let code = match error {
            ServiceError::Port(error) => return error.into(),
            ServiceError::Invalid(errors) => return Self::invalid(errors),
            ServiceError::MissingScope(_) => Code::MissingScope,
            ServiceError::ProjectDeleting => Code::ProjectNotReady,
            ServiceError::RepositoryNotOurs => Code::RepositoryNotOurs,
            ServiceError::ForgeNotConfigured => Code::ForgeNotConfigured,
            ServiceError::CiNotConfigured => Code::CiNotConfigured,
            ServiceError::DnsNotConfigured => Code::DnsNotConfigured,
            ServiceError::Upstream(_) => Code::UpstreamFailed,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::Ended(_) => Code::TaskEnded,
            Refusal::WrongState(TaskState::Pushing) => Code::PushUnderWay,
            Refusal::NotRetryable(_) => Code::NotRetryable,
            Refusal::RetriedAlready(_) => Code::RetriedAlready,
            Refusal::Stale
            | Refusal::WrongState(_)
            | Refusal::SlotsTaken
            | Refusal::NotDue
            | Refusal::CancelRequested
            | Refusal::NewerRecord
            | Refusal::Alive => Code::Conflict,
        };
        Self::new(code, refusal.to_string())
    }
}
