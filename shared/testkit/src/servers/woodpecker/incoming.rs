//! The messages of the forge: `POST /api/hook`, whose address holds a token for the repository.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::api::{Answer, Refused, begun_answer};
use super::origin::Origin;
use super::{Shared, locked, start};

pub(super) async fn hook(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let token = query.get("access_token").map_or("", String::as_str);
    let git_dir = {
        let state = locked(&shared.state);
        let known = state.repositories.values().find(|one| one.hooked && one.hook_token == token);
        known.map(|one| (one.id, state.git_dir(one)))
    };
    let (id, git_dir) = git_dir.ok_or(Refused((401, "")))?;
    let message: Value = serde_json::from_slice(&body).map_err(|_| Refused((400, "")))?;
    // git's programs are waited for.
    let work = tokio::task::spawn_blocking(move || {
        let git_dir = git_dir?;
        let origin = Origin::of_message(event_of(&headers)?, &message, &git_dir)?;
        Some(start::message(&shared, id, &git_dir, origin))
    });
    match work.await {
        Ok(Some(begun)) => Ok(begun_answer(begun)),
        Ok(None) => Ok(ignored()),
        Err(_) => Err(Refused((500, ""))),
    }
}

fn event_of(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-gitea-event")?.to_str().ok()
}

fn ignored() -> Response {
    let text = "ignoring hook: hook parsing resulted in empty pipeline";
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}
