//! The errors of requests to the server.

use std::fmt;

use reqwest::{Response, StatusCode};
use serde::Deserialize;

use crate::out;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// No connection, or no answer.
    #[error("cannot reach {url}; is `rdev up` running there?")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    /// The connection broke in the middle of the answer.
    #[error("the answer of {url} was cut off")]
    CutOff {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    /// The server refused and gave a reason.
    #[error("{0}")]
    Problem(Problem),
    /// The server is not rdev.
    #[error("{url} does not answer like rdev; check RDEV_URL")]
    NotRdev { url: String },
}

/// An answer of type `application/problem+json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Problem {
    #[serde(default)]
    status: u16,
    #[serde(default)]
    code: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: Option<String>,
    #[serde(default)]
    errors: Vec<FieldError>,
    /// Seconds, from the header `Retry-After`.
    #[serde(skip)]
    retry_after: Option<String>,
}

#[derive(Debug, Deserialize)]
struct FieldError {
    field: String,
    message: String,
}

impl ApiError {
    /// The HTTP status of a refusal.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Problem(problem) => Some(problem.status),
            _ => None,
        }
    }

    /// Whether the same request may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::CutOff { .. } => true,
            Self::Problem(problem) => matches!(problem.status, 429 | 500..),
            Self::NotRdev { .. } => false,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.detail.as_deref().filter(|text| !text.is_empty()).unwrap_or(&self.title);
        write!(f, "{} ({}, {})", out::clean(text), out::clean(&self.code), self.status)?;
        for error in &self.errors {
            write!(f, "\n  {}: {}", out::clean(&error.field), out::clean(&error.message))?;
        }
        if let Some(seconds) = &self.retry_after {
            write!(f, "\n  try again in {seconds} s")?;
        }
        Ok(())
    }
}

/// Turns an unsuccessful answer into an error.
pub(crate) async fn read(answer: Response) -> ApiError {
    let status = answer.status();
    let url = answer.url().origin().ascii_serialization();
    let retry_after = answer
        .headers()
        .get(reqwest::header::RETRY_AFTER)
        .filter(|_| status == StatusCode::TOO_MANY_REQUESTS)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let body = match answer.bytes().await {
        Ok(body) => body,
        Err(error) => return ApiError::CutOff { url, source: error.without_url() },
    };
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => {
            ApiError::Problem(Problem { status: status.as_u16(), retry_after, ..problem })
        }
        Err(_) => ApiError::NotRdev { url },
    }
}
