//! Woodpecker 3 as the CI server.
//!
//! Its errors are plain text or empty, never JSON, and it answers unknown paths with 200 and a page
//! of HTML. So a status alone never means success: an answer that should be JSON must be JSON. A
//! repository or pipeline that the token may not see is 404, like one that does not exist.

mod activate;
mod check;
mod list;
#[cfg(test)]
mod recorded;
mod shapes;

use std::time::Duration;

use async_trait::async_trait;
use rdev_domain::Invalid;
use rdev_domain::page::{Listed, Page};
use rdev_domain::pipeline::{CiId, LogLine, Pipeline, PipelineFilter, PipelineSummary};
use rdev_domain::ports::{Ci, CiRepository, Conflict, PortError, PortResult};
use rdev_domain::token::Token;
use reqwest::{Method, StatusCode};

use crate::http::{Answer, Auth, Http};

/// The most lines of a log that the adapter returns.
pub const MAX_LOG_LINES: usize = 10_000;

/// The name of the system in messages.
const SYSTEM: &str = "the CI server";

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its root, such as `https://ci.example.com`.
    pub url: String,
    /// Seconds to wait for an answer.
    pub timeout_s: u64,
}

/// The adapter. It uses a user's personal token.
#[derive(Debug)]
pub struct Woodpecker {
    http: Http,
}

impl Woodpecker {
    /// Makes the adapter. It sends nothing yet.
    ///
    /// # Errors
    /// When the URL is invalid, or has credentials, a query or a fragment.
    pub fn new(settings: Settings, token: Token) -> Result<Self, Invalid> {
        let Settings { url, timeout_s } = settings;
        let http = Http::new(SYSTEM, &url, Auth::Bearer, token, Duration::from_secs(timeout_s))?;
        Ok(Self { http })
    }

    /// Calls `<url>/api/<path>`.
    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> PortResult<Answer> {
        let path: Vec<&str> = std::iter::once("api").chain(path.iter().copied()).collect();
        self.http.send(method, &path, query, None).await
    }

    /// Sends a request about a pipeline. A missing pipeline is the error `NotFound`.
    async fn call_pipeline(
        &self,
        method: Method,
        ci: CiId,
        number: u64,
        action: Option<&str>,
    ) -> PortResult<Answer> {
        // Its numbers are signed; it answers a larger one with 400.
        if i64::try_from(number).is_err() {
            return Err(no_pipeline(number));
        }
        let (id, text) = (ci.0.to_string(), number.to_string());
        let path: Vec<&str> =
            ["repos", &id, "pipelines", &text].into_iter().chain(action).collect();
        let answer = self.call(method, &path, &[]).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Err(no_pipeline(number)),
            _ => Ok(answer),
        }
    }

    /// The page of a pipeline, for people.
    fn page_of(&self, ci: CiId, number: u64) -> String {
        format!("{}repos/{}/pipeline/{number}", self.http.base(), ci.0)
    }
}

#[async_trait]
impl Ci for Woodpecker {
    async fn activate(&self, repository: &CiRepository) -> PortResult<CiId> {
        self.activate_repository(repository).await
    }

    async fn deactivate(&self, ci: CiId) -> PortResult<()> {
        self.remove_repository(ci).await
    }

    async fn pipelines(
        &self,
        ci: CiId,
        filter: &PipelineFilter,
        page: &Page,
    ) -> PortResult<Listed<PipelineSummary>> {
        self.list(ci, filter, page).await
    }

    async fn pipeline(&self, ci: CiId, number: u64) -> PortResult<Pipeline> {
        let answer = self.call_pipeline(Method::GET, ci, number, None).await?;
        if answer.status != StatusCode::OK {
            return Err(refused(&answer));
        }
        let pipeline: shapes::Pipeline = answer.json()?;
        Ok(pipeline.into_domain(self.page_of(ci, number)))
    }

    async fn log(&self, ci: CiId, number: u64, step: u64) -> PortResult<Vec<LogLine>> {
        let none = || PortError::not_found(format!("step {step} in pipeline {number}"));
        if i64::try_from(number).is_err() || i64::try_from(step).is_err() {
            return Err(none());
        }
        let (id, in_pipeline, of_step) = (ci.0.to_string(), number.to_string(), step.to_string());
        let path = ["repos", &id, "logs", &in_pipeline, &of_step];
        let answer = self.call(Method::GET, &path, &[]).await?;
        match answer.status {
            StatusCode::OK => {}
            // 400: the step belongs to another pipeline.
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => return Err(none()),
            _ => return Err(refused(&answer)),
        }
        // `null` is the log of a step that has written nothing.
        let lines: Option<Vec<shapes::Line>> = answer.json()?;
        let lines = lines.unwrap_or_default();
        let (all, page) = (lines.len(), self.page_of(ci, number));
        let mut log = Vec::with_capacity(all.min(MAX_LOG_LINES + 1));
        for line in lines.into_iter().take(MAX_LOG_LINES) {
            log.push(line.decoded()?);
        }
        if let (true, Some(last)) = (all > MAX_LOG_LINES, log.last()) {
            let (line, time) = (last.line.saturating_add(1), last.time);
            let text = format!("… and {} more lines: {page}", all - MAX_LOG_LINES);
            log.push(LogLine { line, time, text });
        }
        Ok(log)
    }

    async fn restart(&self, ci: CiId, number: u64) -> PortResult<PipelineSummary> {
        let answer = self.call_pipeline(Method::POST, ci, number, None).await?;
        match answer.status {
            StatusCode::OK => {
                let new: shapes::Pipeline = answer.json()?;
                let page = self.page_of(ci, new.number);
                Ok(new.summary(page))
            }
            StatusCode::NO_CONTENT if answer.headers.contains_key("pipeline-filtered") => {
                Err(Invalid::new("pipeline", "has nothing to run: its conditions leave no step")
                    .into())
            }
            StatusCode::BAD_REQUEST => {
                let why = match answer.text_line() {
                    text if text.is_empty() => "cannot be restarted".to_owned(),
                    text => format!("cannot be restarted: {text}"),
                };
                Err(Invalid::new("pipeline", why).into())
            }
            _ => Err(refused(&answer)),
        }
    }

    async fn cancel(&self, ci: CiId, number: u64) -> PortResult<()> {
        let answer = self.call_pipeline(Method::POST, ci, number, Some("cancel")).await?;
        match answer.status {
            StatusCode::NO_CONTENT => Ok(()),
            // The documented answer; a page of HTML would have a body.
            StatusCode::OK if answer.body.is_empty() => Ok(()),
            StatusCode::BAD_REQUEST => Err(Conflict::NotRunning.into()),
            _ => Err(refused(&answer)),
        }
    }
}

fn no_pipeline(number: u64) -> PortError {
    PortError::not_found(format!("pipeline {number}"))
}

/// The error of a status that has no special meaning.
fn refused(answer: &Answer) -> PortError {
    match (answer.status, answer.text_line()) {
        (status, _) if status.is_success() => {
            let why = format!("status {status} with an unexpected body; is its URL right?");
            PortError::upstream(SYSTEM, why)
        }
        (_, text) => answer.unexpected(&text),
    }
}
