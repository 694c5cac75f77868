//! Incoming webhooks: pushes and commit statuses from Gitea, ends of pipelines from the CI.
//!
//! A body is parsed only when its signature is right, compared in constant time, and then without
//! what is not needed: of the names of a push's files none is kept. A message that came before, or
//! is about a repository of no project, is answered and does nothing.

#![allow(unused_qualifications, reason = "`utoipa::path` writes `params` so")]

use axum::body::Bytes;
use axum::extract::State;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, StatusCode};
use rdev_domain::audit::Actor;
use rdev_domain::ids::ProjectId;
use rdev_domain::pipeline::CommitPipeline;
use rdev_domain::ports::{Conflict, PortError};
use rdev_domain::project::{Project, ProjectPatch, Pushed};
use rdev_domain::request::{Begun, RequestKey, StoredAnswer};
use rdev_domain::time::Timestamp;
use rdev_domain::token::Token;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::clock;
use crate::http::key_text::hex;
use crate::http::problem::{ApiResult, Code, Problem};

/// `/hooks…`.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(gitea)).routes(routes!(woodpecker))
}

/// A push, as Gitea reports it.
#[derive(Debug, Deserialize)]
struct Push {
    #[serde(rename = "ref")]
    name: String,
    #[serde(default)]
    before: String,
    after: String,
    repository: Repository,
}

/// A commit's status, as Gitea reports it.
#[derive(Debug, Deserialize)]
struct Status {
    sha: String,
    state: String,
    context: String,
    #[serde(default)]
    target_url: Option<String>,
    repository: Repository,
}

#[derive(Debug, Deserialize)]
struct Repository {
    id: u64,
    name: String,
}

/// The end of a pipeline (or another state of it), as its last step reports it.
#[derive(Debug, Deserialize)]
struct PipelineEnd {
    /// `owner/name`.
    repository: String,
    /// The repository's id on the forge.
    forge_id: u64,
    number: u64,
    status: String,
    commit: String,
    #[serde(default)]
    url: Option<String>,
    /// Seconds since 1970.
    #[serde(default)]
    finished_at: Option<i64>,
}

/// Gitea or Forgejo reports a push, or a commit's status.
///
/// The body's HMAC-SHA256, in hexadecimal, is in `X-Gitea-Signature` or `X-Forgejo-Signature`.
#[utoipa::path(
    post, path = "/hooks/gitea", tag = "hooks", operation_id = "gitea_hook", security(()),
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses(
        (status = 204, description = "Recorded, or nothing to do"),
        (status = 401, description = "`invalid_signature`", body = crate::http::problem::ProblemBody,
            content_type = "application/problem+json"),
        (status = 413, description = "More than `api.hook_limit_bytes`: `body_too_large`",
            body = crate::http::problem::ProblemBody, content_type = "application/problem+json")
    )
)]
async fn gitea(State(app): State<App>, headers: HeaderMap, body: Bytes) -> ApiResult<StatusCode> {
    let signed = text(&headers, "x-gitea-signature")
        .or_else(|| text(&headers, "x-forgejo-signature"))
        .unwrap_or_default();
    verify(app.settings().hooks.gitea.as_ref(), &body, signed).await?;
    let id = text(&headers, "x-gitea-delivery").or_else(|| text(&headers, "x-forgejo-delivery"));
    let event = text(&headers, "x-gitea-event").or_else(|| text(&headers, "x-forgejo-event"));
    let now = clock::now();
    let Some(record) = begin(&app, "gitea", id, &body, now).await? else {
        return Ok(StatusCode::NO_CONTENT);
    };
    let outcome = match event {
        Some("push") => match read(&body) {
            Ok(push) => pushed(&app, push, now).await,
            Err(problem) => Err(problem),
        },
        Some("status") => match read(&body) {
            Ok(report) => status(&app, report, now).await,
            Err(problem) => Err(problem),
        },
        _ => Ok(()),
    };
    finish(&app, &record, outcome, now).await
}

/// A pipeline's last step reports how it ended.
///
/// `X-Rdev-Signature` is `sha256=` and the body's HMAC-SHA256 in hexadecimal.
#[utoipa::path(
    post, path = "/hooks/woodpecker", tag = "hooks", operation_id = "woodpecker_hook",
    security(()),
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses(
        (status = 204, description = "Recorded, or nothing to do"),
        (status = 401, description = "`invalid_signature`", body = crate::http::problem::ProblemBody,
            content_type = "application/problem+json"),
        (status = 413, description = "More than `api.hook_limit_bytes`: `body_too_large`",
            body = crate::http::problem::ProblemBody, content_type = "application/problem+json")
    )
)]
async fn woodpecker(
    State(app): State<App>,
    headers: HeaderMap,
    body: Bytes,
) -> ApiResult<StatusCode> {
    let signed = text(&headers, "x-rdev-signature").and_then(|text| text.strip_prefix("sha256="));
    verify(app.settings().hooks.ci.as_ref(), &body, signed.unwrap_or_default()).await?;
    let id = text(&headers, "x-rdev-delivery");
    let now = clock::now();
    let Some(record) = begin(&app, "woodpecker", id, &body, now).await? else {
        return Ok(StatusCode::NO_CONTENT);
    };
    let outcome = match read(&body) {
        Ok(end) => ended(&app, end, now).await,
        Err(problem) => Err(problem),
    };
    finish(&app, &record, outcome, now).await
}

/// Refuses a body whose signature is not `signed`, in hexadecimal.
async fn verify(secret: Option<&Token>, body: &[u8], signed: &str) -> ApiResult<()> {
    let Some(secret) = secret else {
        let detail = "no secret is configured for these webhooks, so all are refused";
        return Err(Problem::new(Code::HooksNotConfigured, detail));
    };
    let secret = secret.get().await?;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
        .expect("HMAC takes keys of every length");
    mac.update(body);
    let right = hex(&mac.finalize().into_bytes());
    let right = bool::from(right.as_bytes().ct_eq(signed.to_ascii_lowercase().as_bytes()));
    if right {
        Ok(())
    } else {
        Err(Problem::new(Code::InvalidSignature, "the signature is not that of the body"))
    }
}

/// The record of a message that did not come before; `None` for one that did.
async fn begin(
    app: &App,
    system: &str,
    id: Option<&str>,
    body: &[u8],
    now: Timestamp,
) -> ApiResult<Option<RequestKey>> {
    let digest = hex(&Sha256::digest(body));
    // A message without an id is identified by its body.
    let key = hex(&Sha256::digest(format!("hook\n{system}\n{}", id.unwrap_or(&digest))));
    let key = RequestKey(key);
    match app.store().begin_request(&key, &digest, app.new_ulid(now), now).await? {
        Begun::Go { .. } => Ok(Some(key)),
        Begun::Replay(_) => Ok(None),
        Begun::InFlight => {
            let detail = "the same message is being processed";
            Err(Problem::new(Code::RequestInFlight, detail).retry_after(1))
        }
        Begun::OtherBody => {
            let detail = "another message came with this id";
            Err(Problem::new(Code::IdempotencyKeyReused, detail))
        }
    }
}

/// Records that a message was processed, or lets it come again.
async fn finish(
    app: &App,
    key: &RequestKey,
    outcome: ApiResult<()>,
    now: Timestamp,
) -> ApiResult<StatusCode> {
    match outcome {
        Ok(()) => {
            let status = StatusCode::NO_CONTENT;
            let answer = StoredAnswer {
                status: status.as_u16(),
                location: None,
                content_type: String::new(),
                body: String::new(),
            };
            app.store().finish_request(key, &answer, now).await?;
            Ok(status)
        }
        Err(problem) => {
            if let Err(error) = app.store().release_request(key, now).await {
                tracing::warn!(%error, "a message's record was not released; it expires in a minute");
            }
            Err(problem)
        }
    }
}

async fn pushed(app: &App, push: Push, now: Timestamp) -> ApiResult<()> {
    let Some(project) = owner(app, &push.repository.name, push.repository.id).await? else {
        return Ok(());
    };
    // In one write with what was pushed.
    let pushed = tip(&push, now);
    let patch = ProjectPatch { pushed, message_at: Some(now), ..ProjectPatch::default() };
    match app.store().update_project(&project.id, &patch, &Actor::hook("gitea"), now).await {
        Ok((_, outbox)) => {
            app.send(&outbox, now).await;
            Ok(())
        }
        // The project is being deleted at this moment.
        Err(PortError::NotFound { .. } | PortError::Conflict(Conflict::ProjectNotReady)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The branch that a push has moved, and its new tip.
fn tip(push: &Push, now: Timestamp) -> Option<Pushed> {
    // A tag is not a branch, and a deleted branch has no tip. A test message moves nothing.
    let branch = push.name.strip_prefix("refs/heads/")?.parse().ok()?;
    let moved = push.after.bytes().any(|byte| byte != b'0') && push.before != push.after;
    let commit = push.after.parse().ok().filter(|_| moved)?;
    Some(Pushed { branch, commit, at: now })
}

/// The CI sets a status at the commit for each of its workflows; ours is not the CI's.
async fn status(app: &App, status: Status, now: Timestamp) -> ApiResult<()> {
    if !status.context.starts_with("ci/") {
        return Ok(());
    }
    let Some(project) = owner(app, &status.repository.name, status.repository.id).await? else {
        return Ok(());
    };
    let Ok(commit) = status.sha.parse() else { return Ok(()) };
    let number = status.target_url.as_deref().and_then(number_in);
    let Status { state: status, target_url: url, .. } = status;
    let pipeline = CommitPipeline { project_id: project.id, commit, number, status, url, at: now };
    record(app, pipeline, now).await
}

async fn ended(app: &App, end: PipelineEnd, now: Timestamp) -> ApiResult<()> {
    let name = end.repository.rsplit('/').next().unwrap_or_default();
    let Some(project) = owner(app, name, end.forge_id).await? else { return Ok(()) };
    let commit =
        end.commit.parse().map_err(|_| Problem::field("commit", "must be a commit's id"))?;
    let at = end.finished_at.and_then(|seconds| seconds.checked_mul(1000));
    let at = at.map_or(now, |millis| Timestamp::from_millis(millis).min(now));
    let PipelineEnd { number, status, url, .. } = end;
    let (project_id, number) = (project.id, Some(number));
    record(app, CommitPipeline { project_id, commit, number, status, url, at }, now).await
}

/// Records a pipeline's state. An overlong status is cut, an odd URL dropped.
async fn record(app: &App, report: CommitPipeline, now: Timestamp) -> ApiResult<()> {
    let status = report.status.chars().filter(|c| !c.is_control()).take(50).collect();
    let url = report.url.filter(|url| url.len() <= 2000 && url.starts_with("http"));
    let pipeline = CommitPipeline { status, url, ..report };
    Ok(app.store().record_pipeline(&pipeline, now).await?)
}

/// The project that has the repository.
async fn owner(app: &App, name: &str, forge_id: u64) -> ApiResult<Option<Project>> {
    let Ok(id) = name.parse::<ProjectId>() else { return Ok(None) };
    match app.store().project(&id).await {
        Ok(project) => Ok(Some(project).filter(|project| project.forge_id == Some(forge_id))),
        Err(PortError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The pipeline's number in `…/pipeline/12` or `…/pipeline/12/3`.
fn number_in(url: &str) -> Option<u64> {
    let mut parts = url.split('/').skip_while(|part| *part != "pipeline");
    parts.nth(1)?.parse().ok()
}

fn read<T: DeserializeOwned>(body: &[u8]) -> ApiResult<T> {
    serde_json::from_slice(body).map_err(|error| {
        Problem::new(Code::MalformedJson, format!("the body is not this event's: {error}"))
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipelines_number_is_read_from_its_address() {
        assert_eq!(number_in("https://ci.example.com/repos/4/pipeline/12"), Some(12));
        assert_eq!(number_in("https://ci.example.com/repos/4/pipeline/12/3"), Some(12));
        assert_eq!(number_in("https://ci.example.com/repos/4"), None);
    }
}
