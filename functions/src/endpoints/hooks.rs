//! Webhooks that come in: pushes and states from Gitea, ends of pipelines from the CI.
//!
//! What a body says counts only when its signature is right, compared in constant time. A message
//! that came before is answered and does nothing; one about a repository that no project has, too.

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
use crate::http::problem::{Answer, Code, Problem};

/// `/hooks…`.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(gitea)).routes(routes!(woodpecker))
}

/// A push, as Gitea tells it.
#[derive(Debug, Deserialize)]
struct Push {
    #[serde(rename = "ref")]
    name: String,
    after: String,
    repository: Repository,
}

/// A commit's status, as Gitea tells it.
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

/// The end of a pipeline (or another state of it), as a step of it tells.
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

/// Gitea or Forgejo tells of a push, or of a commit's status.
///
/// The body's HMAC-SHA256, in hexadecimal, is in `X-Gitea-Signature` or `X-Forgejo-Signature`.
#[utoipa::path(
    post, path = "/hooks/gitea", tag = "hooks", operation_id = "gitea_hook", security(()),
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses(
        (status = 204, description = "Taken, or nothing to do"),
        (status = 401, description = "`invalid_signature`", body = crate::http::problem::ProblemBody,
            content_type = "application/problem+json")
    )
)]
async fn gitea(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer<StatusCode> {
    let signed = text(&headers, "x-gitea-signature")
        .or_else(|| text(&headers, "x-forgejo-signature"))
        .unwrap_or_default();
    verify(app.settings().hooks.gitea.as_ref(), &body, signed).await?;
    let id = text(&headers, "x-gitea-delivery").or_else(|| text(&headers, "x-forgejo-delivery"));
    let event = text(&headers, "x-gitea-event").or_else(|| text(&headers, "x-forgejo-event"));
    let now = clock::now();
    let Some(record) = first(&app, "gitea", id, &body, now).await? else {
        return Ok(StatusCode::NO_CONTENT);
    };
    let taken = match event {
        Some("push") => match read(&body) {
            Ok(push) => pushed(&app, push, now).await,
            Err(problem) => Err(problem),
        },
        Some("status") => match read(&body) {
            Ok(told) => status(&app, told, now).await,
            Err(problem) => Err(problem),
        },
        _ => Ok(()),
    };
    settled(&app, &record, taken, now).await
}

/// A pipeline's last step tells how it ended.
///
/// `X-Rdev-Signature` is `sha256=` and the body's HMAC-SHA256 in hexadecimal.
#[utoipa::path(
    post, path = "/hooks/woodpecker", tag = "hooks", operation_id = "woodpecker_hook",
    security(()),
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses(
        (status = 204, description = "Taken, or nothing to do"),
        (status = 401, description = "`invalid_signature`", body = crate::http::problem::ProblemBody,
            content_type = "application/problem+json")
    )
)]
async fn woodpecker(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer<StatusCode> {
    let signed = text(&headers, "x-rdev-signature").and_then(|text| text.strip_prefix("sha256="));
    verify(app.settings().hooks.ci.as_ref(), &body, signed.unwrap_or_default()).await?;
    let id = text(&headers, "x-rdev-delivery");
    let now = clock::now();
    let Some(record) = first(&app, "woodpecker", id, &body, now).await? else {
        return Ok(StatusCode::NO_CONTENT);
    };
    let taken = match read(&body) {
        Ok(end) => ended(&app, end, now).await,
        Err(problem) => Err(problem),
    };
    settled(&app, &record, taken, now).await
}

/// Refuses a body whose signature is not `signed`, in hexadecimal.
async fn verify(secret: Option<&Token>, body: &[u8], signed: &str) -> Answer<()> {
    let Some(secret) = secret else {
        let detail = "no secret is configured for these webhooks, so none is accepted";
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
async fn first(
    app: &App,
    system: &str,
    id: Option<&str>,
    body: &[u8],
    now: Timestamp,
) -> Answer<Option<RequestKey>> {
    let digest = hex(&Sha256::digest(body));
    // One without an id is known by what it says.
    let key = hex(&Sha256::digest(format!("hook\n{system}\n{}", id.unwrap_or(&digest))));
    let key = RequestKey(key);
    match app.store().begin_request(&key, &digest, app.new_ulid(now), now).await? {
        Begun::Go { .. } => Ok(Some(key)),
        Begun::Replay(_) => Ok(None),
        Begun::InFlight => {
            let detail = "the same message is being taken";
            Err(Problem::new(Code::RequestInFlight, detail).retry_after(1))
        }
        Begun::OtherBody => {
            let detail = "another message came with this id";
            Err(Problem::new(Code::IdempotencyKeyReused, detail))
        }
    }
}

/// Notes that a message was taken, or lets it come again.
async fn settled(
    app: &App,
    key: &RequestKey,
    taken: Answer<()>,
    now: Timestamp,
) -> Answer<StatusCode> {
    match taken {
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
                tracing::warn!(%error, "a message's record was not released; it is in a minute");
            }
            Err(problem)
        }
    }
}

async fn pushed(app: &App, push: Push, now: Timestamp) -> Answer<()> {
    let Some(project) = owner(app, &push.repository.name, push.repository.id).await? else {
        return Ok(());
    };
    let branch = push.name.strip_prefix("refs/heads/").and_then(|name| name.parse().ok());
    // A branch that was deleted has no tip; a tag is no branch.
    let deleted = push.after.bytes().all(|byte| byte == b'0');
    let (Some(branch), Ok(commit), false) = (branch, push.after.parse(), deleted) else {
        return Ok(());
    };
    let pushed = Some(Pushed { branch, commit, at: now });
    let patch = ProjectPatch { pushed, ..ProjectPatch::default() };
    match app.store().update_project(&project.id, &patch, &Actor::hook("gitea"), now).await {
        Ok((_, outbox)) => {
            app.send(&outbox, now).await;
            Ok(())
        }
        // It goes away at this moment.
        Err(PortError::NotFound { .. } | PortError::Conflict(Conflict::ProjectNotReady)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The CI sets a status at the commit for each of its workflows; ours is not the CI's.
async fn status(app: &App, status: Status, now: Timestamp) -> Answer<()> {
    if !status.context.starts_with("ci/") {
        return Ok(());
    }
    let Some(project) = owner(app, &status.repository.name, status.repository.id).await? else {
        return Ok(());
    };
    let Ok(commit) = status.sha.parse() else { return Ok(()) };
    let number = status.target_url.as_deref().and_then(number_in);
    let Status { state: status, target_url: url, .. } = status;
    let told = CommitPipeline { project_id: project.id, commit, number, status, url, at: now };
    record(app, told, now).await
}

async fn ended(app: &App, end: PipelineEnd, now: Timestamp) -> Answer<()> {
    let name = end.repository.rsplit('/').next().unwrap_or_default();
    let Some(project) = owner(app, name, end.forge_id).await? else { return Ok(()) };
    let commit = end.commit.parse().map_err(|_| Problem::field("commit", "is no commit's id"))?;
    let at = end.finished_at.and_then(|seconds| seconds.checked_mul(1000));
    let at = at.map_or(now, |millis| Timestamp::from_millis(millis).min(now));
    let PipelineEnd { number, status, url, .. } = end;
    let (project_id, number) = (project.id, Some(number));
    record(app, CommitPipeline { project_id, commit, number, status, url, at }, now).await
}

/// Keeps what was told, without what no CI says.
async fn record(app: &App, told: CommitPipeline, now: Timestamp) -> Answer<()> {
    let status = told.status.chars().filter(|c| !c.is_control()).take(50).collect();
    let url = told.url.filter(|url| url.len() <= 2000 && url.starts_with("http"));
    let pipeline = CommitPipeline { status, url, ..told };
    Ok(app.store().record_pipeline(&pipeline, now).await?)
}

/// The project whose repository it is.
async fn owner(app: &App, name: &str, forge_id: u64) -> Answer<Option<Project>> {
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

fn read<T: DeserializeOwned>(body: &[u8]) -> Answer<T> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::new(Code::MalformedJson, format!("the body is not it: {error}")))
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
