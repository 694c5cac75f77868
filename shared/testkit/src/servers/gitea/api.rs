//! The API: who asks, what for, and which part answers.

use std::sync::Arc;

use axum::extract::{Query, Request};
use axum::http::header::AUTHORIZATION;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::response::{
    self, ApiResponse, Body, Call, error, no_organisation, no_route, not_found, ok,
};
use super::state::{State, Token};
use super::{
    Seen, Shared, contents, hook_tests, hooks, issues, locked, merge, moved, pulls, releases,
    repositories, reviews, shapes, statuses,
};

pub(super) async fn answer(shared: Arc<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // A client that goes away in the middle of its request gets no answer.
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap_or_default();
    let path = parts.uri.path().strip_prefix("/api/v1/").unwrap_or_default().to_owned();
    let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
    let authorization = parts.headers.get(AUTHORIZATION);
    let authorization = authorization.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut seen = Seen {
        method: parts.method.to_string(),
        path: path.clone(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        body: serde_json::from_slice(&body).ok(),
        status: 0,
        answer: None,
    };
    let mut call = Call {
        method: seen.method.clone(),
        path: path.split('/').map(decoded).collect(),
        query: query.map(|query| query.0).unwrap_or_default(),
        body: seen.body.clone().unwrap_or_default(),
        user: None,
    };
    // To its end, even when the client goes away: so does a real server.
    let work = tokio::task::spawn_blocking(move || {
        let answer = authorized(&shared, &mut call, authorization.as_deref())
            .and_then(|()| routed(&shared, &call))
            .unwrap_or_else(|refused| refused)
            .with_description(&locked(&shared.state).root_url);
        seen.status = answer.status;
        if let Body::Json(body) = &answer.body {
            seen.answer = Some(body.clone());
        }
        locked(&shared.seen).push(seen);
        answer
    });
    work.await.unwrap_or_else(|_| error(500, "")).into_response()
}

/// Finds out who asks, and whether their token may.
fn authorized(shared: &Shared, call: &mut Call, header: Option<&str>) -> Result<(), ApiResponse> {
    let Some(header) = header else { return Ok(()) };
    let state = locked(&shared.state);
    let token = token_of(&state, header);
    let token = token.ok_or_else(|| error(401, "invalid username, password or token"))?;
    call.user = Some(token.user.clone());
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    let categories: &[&str] = match path.as_slice() {
        ["user", "repos"] => &["user", "repository"],
        ["user" | "users", ..] => &["user"],
        ["orgs", ..] => &["organization"],
        ["repos", _, _, "issues" | "labels", ..] => &["issue"],
        ["repos" | "repositories", ..] => &["repository"],
        _ => &[],
    };
    for category in categories {
        let read = format!("read:{category}");
        let write = format!("write:{category}");
        let (required, enough) = if call.method == "GET" {
            (read.clone(), vec![read, write, "all".to_owned()])
        } else {
            (write.clone(), vec![write, "all".to_owned()])
        };
        if !token.scopes.iter().any(|scope| enough.contains(scope)) {
            let why = "token does not have at least one of required scope(s)";
            return Err(error(403, format!("{why}: [{required}]")));
        }
    }
    Ok(())
}

/// The token of a header: `token`, `Bearer`, or basic with the token as name or password.
pub(super) fn token_of(state: &State, header: &str) -> Option<Token> {
    let (scheme, text) = header.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("basic") {
        let login = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
        let (name, password) = login.split_once(':')?;
        let token = if matches!(password, "" | "x-oauth-basic") { name } else { password };
        return state.tokens.get(token).cloned();
    }
    let known = scheme.eq_ignore_ascii_case("token") || scheme.eq_ignore_ascii_case("bearer");
    state.tokens.get(text.trim()).filter(|_| known).cloned()
}

/// The routes. What is not here answers as unknown paths of the API do.
fn routed(shared: &Shared, call: &Call) -> Result<ApiResponse, ApiResponse> {
    if let Some(elsewhere) = moved::redirect(&locked(&shared.state), call) {
        return Err(elsewhere);
    }
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    match (call.method.as_str(), path.as_slice()) {
        ("GET", ["version"]) => Ok(ok(json!({ "version": "1.26.0" }))),
        ("GET", ["settings", "api"]) => Ok(settings(shared)),
        ("GET", ["user"]) => user(shared, call),
        ("GET", ["orgs", name]) => organisation(shared, name),
        ("GET", ["users", user, "orgs", name, "permissions"]) => rights(shared, call, user, name),
        ("GET", ["orgs", owner, "repos"]) => repositories::list(shared, call, owner),
        ("POST", ["orgs", owner, "repos"]) => repositories::create_in(shared, call, owner),
        ("POST", ["user", "repos"]) => repositories::create_own(shared, call),
        ("GET", ["repos", owner, name]) => repositories::get(shared, call, owner, name),
        ("GET", ["repositories", id]) => repositories::get_by_id(shared, call, id),
        ("PATCH", ["repos", owner, name]) => repositories::edit(shared, call, owner, name),
        ("DELETE", ["repos", owner, name]) => repositories::delete(shared, call, owner, name),
        ("POST", ["repos", owner, name, "generate"]) => {
            repositories::generate(shared, call, owner, name)
        }
        ("POST", ["repos", owner, name, "contents"]) => contents::change(shared, call, owner, name),
        ("GET", ["repos", owner, name, "contents", file @ ..]) if !file.is_empty() => {
            contents::get(shared, call, owner, name, &file.join("/"))
        }
        (method @ ("POST" | "PUT" | "DELETE"), ["repos", owner, name, "contents", file @ ..]) => {
            contents::change_one(shared, call, owner, name, (method, file.join("/").as_str()))
        }
        ("GET", ["repos", owner, name, "raw", file @ ..]) => {
            contents::raw(shared, call, owner, name, &file.join("/"))
        }
        ("GET", ["repos", owner, name, "branches"]) => {
            contents::branches(shared, call, owner, name)
        }
        ("GET", ["repos", owner, name, "branches", branch @ ..]) => {
            contents::branch(shared, call, owner, name, &branch.join("/"))
        }
        ("GET", ["repos", owner, name, "commits"]) => contents::commits(shared, call, owner, name),
        ("GET", ["repos", owner, name, "hooks"]) => hooks::list(shared, call, owner, name),
        ("POST", ["repos", owner, name, "hooks"]) => hooks::create(shared, call, owner, name),
        ("POST", ["repos", owner, name, "hooks", id, "tests"]) => {
            hook_tests::send(shared, call, owner, name, id)
        }
        ("DELETE", ["repos", owner, name, "hooks", id]) => {
            hooks::delete(shared, call, owner, name, id)
        }
        ("POST", ["repos", owner, name, "statuses", commit]) => {
            statuses::create(shared, call, owner, name, commit)
        }
        ("GET", ["repos", owner, name, "statuses", commit]) => {
            statuses::list(shared, call, owner, name, commit)
        }
        ("GET", ["repos", owner, name, "commits", commit, "status"]) => {
            statuses::combined(shared, call, owner, name, commit)
        }
        ("GET", ["repos", owner, name, "commits", commit, "statuses"]) => {
            statuses::list(shared, call, owner, name, commit)
        }
        ("PUT", ["repos", owner, name, "collaborators", user]) => {
            repositories::add_collaborator(shared, call, owner, name, user)
        }
        ("GET", ["repos", owner, name, "collaborators", user, "permission"]) => {
            repositories::rights(shared, call, owner, name, user)
        }
        ("POST", ["repos", owner, name, "releases"]) => releases::create(shared, call, owner, name),
        (method, ["repos", owner, name, kind @ ("labels" | "issues" | "pulls"), rest @ ..]) => {
            discussed(shared, call, owner, name, (method, *kind, rest))
        }
        _ => Ok(no_route()),
    }
}

/// The routes of what people talk about: issues and pull requests.
fn discussed(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    (method, kind, rest): (&str, &str, &[&str]),
) -> Result<ApiResponse, ApiResponse> {
    match (method, kind, rest) {
        ("POST", "labels", []) => issues::create_label(shared, call, owner, name),
        ("POST", "issues", []) => issues::create(shared, call, owner, name),
        ("PATCH", "issues", ["comments", id]) => {
            issues::edit_comment(shared, call, owner, name, id)
        }
        ("DELETE", "issues", ["comments", id]) => {
            issues::delete_comment(shared, call, owner, name, id)
        }
        ("GET", "issues", [number]) => issues::get(shared, call, owner, name, number),
        ("PATCH", "issues", [number]) => issues::edit(shared, call, owner, name, number),
        ("POST", "issues", [number, "labels"]) => {
            issues::add_labels(shared, call, owner, name, number)
        }
        ("POST", "issues", [number, "comments"]) => {
            issues::add_comment(shared, call, owner, name, number)
        }
        ("GET", "issues", [number, "comments"]) => {
            issues::comments(shared, call, owner, name, number)
        }
        ("GET", "issues", [number, "timeline"]) => {
            issues::timeline(shared, call, owner, name, number)
        }
        ("GET", "pulls", []) => pulls::list(shared, call, owner, name),
        ("POST", "pulls", []) => pulls::create(shared, call, owner, name),
        ("GET", "pulls", [number]) => pulls::get(shared, call, owner, name, number),
        ("PATCH", "pulls", [number]) => pulls::edit(shared, call, owner, name, number),
        ("GET", "pulls", [number, "files"]) => pulls::files(shared, call, owner, name, number),
        ("GET", "pulls", [number, "commits"]) => pulls::commits(shared, call, owner, name, number),
        ("POST", "pulls", [number, "merge"]) => merge::merge(shared, call, owner, name, number),
        ("GET", "pulls", [number, "reviews"]) => reviews::list(shared, call, owner, name, number),
        ("POST", "pulls", [number, "reviews"]) => {
            reviews::create(shared, call, owner, name, number)
        }
        ("GET", "pulls", [number, "reviews", id, "comments"]) => {
            reviews::comments(shared, call, owner, name, (*number, *id))
        }
        ("POST", "pulls", [number, "requested_reviewers"]) => {
            reviews::request(shared, call, owner, name, number)
        }
        ("GET", "pulls", [base, head @ ..]) => {
            pulls::between(shared, call, owner, name, (*base, head.join("/").as_str()))
        }
        _ => Ok(no_route()),
    }
}

/// How much the API gives at once.
fn settings(shared: &Shared) -> ApiResponse {
    ok(json!({
        "max_response_items": locked(&shared.state).page,
        "default_paging_num": 30,
        "default_git_trees_per_page": 1000,
        "default_max_blob_size": 10_485_760,
        "default_max_response_size": 104_857_600,
    }))
}

fn user(shared: &Shared, call: &Call) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let account = state.owner(call.user()?).ok_or_else(not_found)?;
    Ok(ok(shapes::user(&state, &account.name, call.user.as_deref())))
}

fn organisation(shared: &Shared, name: &str) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = state.organisations.get(&name.to_lowercase());
    Ok(ok(shapes::organisation(&state, found.ok_or_else(|| no_organisation(name))?)))
}

fn rights(
    shared: &Shared,
    call: &Call,
    user: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    call.user()?;
    let state = locked(&shared.state);
    let known = state.organisations.contains_key(&name.to_lowercase());
    known.then_some(()).ok_or_else(|| no_organisation(name))?;
    state.users.get(&user.to_lowercase()).ok_or_else(not_found)?;
    let may = state.may_write(user, name);
    Ok(ok(json!({
        "is_owner": may,
        "is_admin": may,
        "can_write": may,
        "can_read": true,
        "can_create_repository": may,
    })))
}

/// A part of a path with its `%xx` read.
fn decoded(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a list's items become, and its page.
pub(super) fn list_of<T>(
    state: &State,
    call: &Call,
    items: impl IntoIterator<Item = T>,
    shape: impl Fn(T) -> Value,
) -> ApiResponse {
    response::page(state, call, &call.path.join("/"), items.into_iter().map(shape).collect())
}
