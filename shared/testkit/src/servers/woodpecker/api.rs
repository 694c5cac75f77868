//! The HTTP side, with Woodpecker's quirks: errors are plain text or nothing, and what is no path
//! of its own is answered with 200 and a page.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use rdev_domain::time::Timestamp;
use serde_json::{Value, json};

use super::pipeline::{Pipeline, cancel, change};
use super::repository::Refusal;
use super::{Shared, TOKEN, USER, incoming, locked, shape, start};

/// The most pipelines on a page.
const MAX_PER_PAGE: usize = 50;

pub(super) type Answer = Result<Response, Refused>;
type Parameters = Query<BTreeMap<String, String>>;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let by_user = Router::new()
        .route("/user", get(user))
        .route("/repos", post(activate))
        .route_layer(from_fn_with_state(Arc::clone(&shared), known_user));
    let with_token = Router::new()
        .route("/repos/lookup/{*full_name}", get(look_up))
        .route("/repos/{id}", get(repository).delete(remove))
        .route("/repos/{id}/repair", post(repair))
        .route("/repos/{id}/pipelines", get(pipelines).post(by_hand))
        .route("/repos/{id}/pipelines/{number}", get(pipeline).post(again))
        .route("/repos/{id}/pipelines/{number}/cancel", post(stop))
        .route("/repos/{id}/logs/{number}/{step}", get(log))
        .route_layer(from_fn_with_state(Arc::clone(&shared), authorized));
    let by_forge = Router::new().route("/hook", post(incoming::hook));
    Router::new()
        .nest("/api", by_user.merge(with_token).merge(by_forge))
        .route("/healthz", get(|| async { StatusCode::NO_CONTENT }))
        .route("/version", get(version))
        .fallback(page)
        .method_not_allowed_fallback(page)
        .with_state(shared)
}

/// The web interface, which then says by itself that there is no such page.
async fn page() -> Response {
    let html = "<!DOCTYPE html>\n<html><head><title>Woodpecker</title></head><body><div id=\"app\">\
                </div></body></html>\n";
    ([(CONTENT_TYPE, "text/html; charset=UTF-8")], html).into_response()
}

/// What is about the token's user says that there is none.
async fn known_user(state: State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let answer = authorized(state, request, next).await;
    if answer.status() == StatusCode::UNAUTHORIZED {
        return Refused((401, "User not authorized")).into_response();
    }
    answer
}

async fn authorized(State(_): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if given != Some(&format!("Bearer {TOKEN}")) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    next.run(request).await
}

fn json_answer(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json; charset=utf-8")], value.to_string()).into_response()
}

/// A status with plain text, or with nothing.
pub(super) struct Refused(pub(super) Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self((status, text)) = self;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if text.is_empty() {
            return status.into_response();
        }
        (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
    }
}

const NOTHING: Refused = Refused((404, ""));
const BAD: Refused = Refused((400, ""));

fn number(text: &str) -> Result<u64, Refused> {
    let read = text.parse::<i64>().ok().and_then(|number| u64::try_from(number).ok());
    read.ok_or(BAD)
}

/// Owner and name of a repository on the forge.
fn on_forge(shared: &Shared, forge_id: u64) -> Option<(String, String)> {
    if let Some(names) = locked(&shared.state).forge.get(&forge_id) {
        return Some(names.clone());
    }
    let ask = locked(&shared.forge).clone();
    ask.and_then(|ask| ask(forge_id))
}

async fn version(State(shared): State<Arc<Shared>>) -> Response {
    let version = shared.age.version();
    json_answer(&json!({
        "source": "https://github.com/woodpecker-ci/woodpecker",
        "version": version,
    }))
}

async fn user(State(shared): State<Arc<Shared>>) -> Response {
    let state = locked(&shared.state);
    json_answer(&json!({
        "id": 1,
        "forge_id": 1,
        "forge_remote_id": "1",
        "login": USER,
        "email": format!("{USER}@forge.example"),
        "avatar_url": shape::picture(state.forge_url(&shared.url), USER),
        "admin": true,
        "org_id": 1,
    }))
}

async fn activate(State(shared): State<Arc<Shared>>, Query(query): Parameters) -> Answer {
    let forge_id = query.get("forge_remote_id").map_or("", String::as_str);
    if matches!(forge_id, "" | "0") {
        return Err(Refused((400, "No forge_remote_id provided")));
    }
    // Nothing here has an id that is no number.
    let forge_id = forge_id.parse::<u64>().unwrap_or(u64::MAX);
    let names = on_forge(&shared, forge_id);
    let mut state = locked(&shared.state);
    let id = state.activate(forge_id, names, shared.age)?;
    let made = state.repositories.get(&id).ok_or(NOTHING)?;
    Ok(json_answer(&shape::repository(state.forge_url(&shared.url), made)))
}

async fn look_up(State(shared): State<Arc<Shared>>, Path(full_name): Path<String>) -> Answer {
    let state = locked(&shared.state);
    let found = state.named(&full_name).ok_or(NOTHING)?;
    Ok(json_answer(&shape::repository(state.forge_url(&shared.url), found)))
}

async fn repository(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer {
    let id = number(&id)?;
    let state = locked(&shared.state);
    let found = state.repositories.get(&id).ok_or(NOTHING)?;
    Ok(json_answer(&shape::repository(state.forge_url(&shared.url), found)))
}

async fn remove(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let id = number(&id)?;
    let forge_id = {
        let state = locked(&shared.state);
        state.repositories.get(&id).ok_or(NOTHING)?.forge_id
    };
    let is_on_forge = on_forge(&shared, forge_id).is_some();
    let remove = query.get("remove").is_some_and(|value| matches!(value.as_str(), "true" | "1"));
    let mut state = locked(&shared.state);
    let entry = state.repositories.get(&id).ok_or(NOTHING)?;
    let mut shape = shape::repository(state.forge_url(&shared.url), entry);
    state.remove(id, remove, is_on_forge, shared.age)?;
    // What is gone is shown as it was.
    if !remove {
        shape["active"] = json!(false);
    }
    Ok(json_answer(&shape))
}

async fn repair(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer {
    let id = number(&id)?;
    let forge_id = {
        let state = locked(&shared.state);
        state.repositories.get(&id).ok_or(NOTHING)?.forge_id
    };
    let names = on_forge(&shared, forge_id);
    locked(&shared.state).repair(id, names)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn pipelines(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let id = number(&id)?;
    let moment = |name: &str| match query.get(name).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => match Timestamp::try_from(text.clone()) {
            Ok(at) => Ok(Some(at.as_millis().div_euclid(1000))),
            Err(_) => Err(BAD),
        },
    };
    let (before, after) = (moment("before")?, moment("after")?);
    let is = |name: &str, value: &str| {
        query.get(name).filter(|text| !text.is_empty()).is_none_or(|text| text == value)
    };
    let size = |name: &str| query.get(name).and_then(|text| text.parse::<usize>().ok());
    let page = size("page").filter(|&page| page > 0).unwrap_or(1);
    let per_page = size("perPage").filter(|size| (1..=MAX_PER_PAGE).contains(size));
    let per_page = per_page.unwrap_or(MAX_PER_PAGE);
    let fits = |one: &&Pipeline| {
        before.is_none_or(|before| one.created < before)
            && after.is_none_or(|after| one.created > after)
            && is("branch", &one.origin.branch)
            && is("status", &one.status)
            && is("event", &one.origin.event)
            && query.get("ref").is_none_or(|part| one.origin.reference.contains(part))
    };
    let state = locked(&shared.state);
    let repository = state.repositories.get(&id).ok_or(NOTHING)?;
    let mut found: Vec<&Pipeline> = repository.pipelines.iter().filter(fits).collect();
    found.sort_by_key(|one| std::cmp::Reverse(one.number));
    let found = found.into_iter().skip((page - 1) * per_page).take(per_page);
    Ok(json_answer(&found.map(|one| shape::pipeline(one, false)).collect()))
}

async fn by_hand(State(shared): State<Arc<Shared>>, Path(id): Path<String>, body: Bytes) -> Answer {
    let id = number(&id)?;
    let options: Value = serde_json::from_slice(&body).map_err(|_| BAD)?;
    let branch = options["branch"].as_str().unwrap_or_default().to_owned();
    if !locked(&shared.state).repositories.contains_key(&id) {
        return Err(NOTHING);
    }
    let begun = start::by_hand(&shared, id, &branch).map_err(|why| (500, why))?;
    Ok(begun_answer(begun))
}

async fn again(
    State(shared): State<Arc<Shared>>,
    Path((id, of)): Path<(String, String)>,
) -> Answer {
    let (id, of) = (number(&id)?, number(&of)?);
    let begun = start::again(&shared, id, of)?;
    Ok(begun_answer(begun))
}

/// A pipeline that was begun, or that there was nothing to run.
pub(super) fn begun_answer(begun: Option<Value>) -> Response {
    begun.map_or_else(
        || {
            let filtered = [(HeaderName::from_static("pipeline-filtered"), "true")];
            (StatusCode::NO_CONTENT, filtered).into_response()
        },
        |shape| json_answer(&shape),
    )
}

fn whole(shared: &Shared, id: u64, of: u64) -> Answer {
    let shape = change(shared, id, of, |pipeline| shape::pipeline(pipeline, true));
    Ok(json_answer(&shape.ok_or(NOTHING)?))
}

async fn pipeline(
    State(shared): State<Arc<Shared>>,
    Path((id, of)): Path<(String, String)>,
) -> Answer {
    let id = number(&id)?;
    let of = if of == "latest" {
        let state = locked(&shared.state);
        let repository = state.repositories.get(&id).ok_or(NOTHING)?;
        repository.pipelines.iter().map(|one| one.number).max().ok_or(NOTHING)?
    } else {
        number(&of)?
    };
    whole(&shared, id, of)
}

async fn stop(State(shared): State<Arc<Shared>>, Path((id, of)): Path<(String, String)>) -> Answer {
    let (id, of) = (number(&id)?, number(&of)?);
    if change(&shared, id, of, cancel).ok_or(NOTHING)? {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Err(Refused((400, "Cannot cancel a non-running or non-pending or non-blocked pipeline")))
}

async fn log(
    State(shared): State<Arc<Shared>>,
    Path((id, of, step)): Path<(String, String, String)>,
) -> Answer {
    let (id, of, step) = (number(&id)?, number(&of)?, number(&step)?);
    let mut state = locked(&shared.state);
    let repository = state.repositories.get_mut(&id).ok_or(NOTHING)?;
    let pipeline = repository.pipeline(of).ok_or(NOTHING)?;
    if let Some(step) = pipeline.step(step) {
        return Ok(json_answer(&shape::log(step)));
    }
    // Of another pipeline, or of none.
    let mut others = state.repositories.values_mut().flat_map(|one| &mut one.pipelines);
    let elsewhere = others.any(|other| other.step(step).is_some());
    Err(Refused((if elsewhere { 400 } else { 404 }, "")))
}
