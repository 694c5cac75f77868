//! What goes wrong between the client and the server.

use std::fmt;

use reqwest::{Response, StatusCode};
use serde::Deserialize;

use crate::exit::Exit;
use crate::out;

/// Why a request had no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// No connection, or no answer.
    #[error("cannot reach {url}; is `rdev up` running there?")]
    Unreachable {
        /// The server.
        url: String,
        /// What the HTTP client said.
        #[source]
        source: reqwest::Error,
    },
    /// The connection ended in mid-answer.
    #[error("the answer of {url} was cut off")]
    CutOff {
        /// The server.
        url: String,
        /// What the HTTP client said.
        #[source]
        source: reqwest::Error,
    },
    /// The server refused, and said why.
    #[error("{0}")]
    Problem(Problem),
    /// Something else than rdev answers there.
    #[error("what {url} answers is not an answer of rdev; check RDEV_URL")]
    Strange {
        /// The server.
        url: String,
    },
}

/// An answer of the kind `application/problem+json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Problem {
    /// HTTP status.
    #[serde(default)]
    pub(crate) status: u16,
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
    /// The exit status it leads to.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Problem(problem) => match problem.status {
                401 | 403 => Exit::NotAllowed,
                400 | 413 | 415 | 422 => Exit::Usage,
                _ => Exit::Failed,
            },
            _ => Exit::Failed,
        }
    }

    /// Whether the same request may have a good answer later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::CutOff { .. } => true,
            Self::Problem(problem) => matches!(problem.status, 429 | 500..),
            Self::Strange { .. } => false,
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

/// Reads an answer that is no success.
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
        Err(_) => ApiError::Strange { url },
    }
}
