//! git over HTTP, by git's own `http-backend`, and what follows a push.

use std::ffi::OsStr;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tempfile::NamedTempFile;

use super::records::{Entry, Repository};
use super::state::{State, now};
use super::{Push, Shared, api, files, hooks, locked, shapes};
use crate::servers::git_http::cgi;

/// The variable with the name of the file that a push's changed refs are written to.
pub(super) const PUSHED: &str = "RDEV_TESTKIT_PUSHED";

/// The most commits that a push event lists.
const MAX_COMMITS: usize = 50;

/// A request of git's.
#[derive(Debug)]
pub(super) struct GitRequest {
    owner: String,
    name: String,
    /// What follows the repository's name, with the query.
    rest: String,
    writes: bool,
}

impl GitRequest {
    /// `/owner/name[.git]/info/refs?service=…` and the like.
    pub(super) fn of(request: &Request) -> Option<Self> {
        let uri = request.uri();
        let mut parts = uri.path().trim_start_matches('/').splitn(3, '/');
        let (owner, name, rest) = (parts.next()?, parts.next()?, parts.next()?);
        let known = ["info/refs", "git-upload-pack", "git-receive-pack", "HEAD"];
        if !known.contains(&rest) && !rest.starts_with("objects/") {
            return None;
        }
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        Some(Self {
            owner: owner.to_owned(),
            name: name.strip_suffix(".git").unwrap_or(name).to_owned(),
            writes: rest == "git-receive-pack" || query.contains("git-receive-pack"),
            rest: format!("{rest}{query}"),
        })
    }
}

pub(super) async fn answer(
    shared: Arc<Shared>,
    git_request: GitRequest,
    mut request: Request,
) -> Response {
    let (found, user) = match allowed(&shared, &git_request, &request) {
        Ok(allowed) => allowed,
        Err(refused) => return *refused,
    };
    // As it is on the disk: names are compared without their case, and `.git` may be left away.
    let path = format!("/{}.git/{}", found.full_name().to_lowercase(), git_request.rest);
    let Ok(uri) = path.parse::<Uri>() else { return StatusCode::BAD_REQUEST.into_response() };
    *request.uri_mut() = uri;
    let pushes = git_request.rest == "git-receive-pack";
    let outcome = if pushes {
        // To its end, even when the client goes away: so does a real server.
        let user = user.unwrap_or_default();
        let work = tokio::spawn(async move { receive(&shared, found, &user, request).await });
        work.await.unwrap_or_else(|error| Err(anyhow::anyhow!("{error}")))
    } else {
        cgi::run(&shared.folder, request, &[]).await
    };
    match outcome {
        Ok(response) => response,
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response(),
    }
}

/// The repository and who asks, if they may. Strangers are asked for a login before they hear
/// that something is not there.
fn allowed(
    shared: &Shared,
    git_request: &GitRequest,
    request: &Request,
) -> Result<(Repository, Option<String>), Box<Response>> {
    let refuse = |status: StatusCode, text: &'static str| {
        let challenge = [(WWW_AUTHENTICATE, "Basic realm=\"Gitea\"")];
        let response = match status {
            StatusCode::UNAUTHORIZED => (status, challenge, text).into_response(),
            _ => (status, text).into_response(),
        };
        Err(Box::new(response))
    };
    let state = locked(&shared.state);
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.map(|header| api::token_of(&state, header));
    let token = match token {
        Some(None) => return refuse(StatusCode::UNAUTHORIZED, "Unauthorized\n"),
        Some(Some(token)) => Some(token),
        None => None,
    };
    let found = state.find(&git_request.owner, &git_request.name);
    let Some(token) = token else {
        return match found {
            Some(found) if !found.private && !git_request.writes => Ok((found.clone(), None)),
            _ => refuse(StatusCode::UNAUTHORIZED, "Unauthorized\n"),
        };
    };
    let Some(found) = found else {
        return match state.find_moved(&git_request.owner, &git_request.name) {
            Some(moved) => {
                let rest = &git_request.rest;
                let to = format!("{}/{}.git/{rest}", state.root_url, moved.full_name());
                Err(Box::new((StatusCode::MOVED_PERMANENTLY, [(LOCATION, to)]).into_response()))
            }
            None => refuse(StatusCode::NOT_FOUND, "Not found.\n"),
        };
    };
    let scopes: &[&str] = if git_request.writes {
        &["all", "write:repository"]
    } else {
        &["all", "write:repository", "read:repository"]
    };
    let access = state.access(Some(&token.user), found);
    let may = matches!(access, "owner" | "admin" | "write");
    let scoped = token.scopes.iter().any(|scope| scopes.contains(&scope.as_str()));
    if !scoped || (!may && git_request.writes) {
        return refuse(StatusCode::FORBIDDEN, "User permission denied for writing.\n");
    }
    if git_request.writes && found.archived.is_some() {
        let why = "This repo is archived. You can view files and clone it, but cannot push or \
                   open issues/pull-requests.\n";
        return refuse(StatusCode::FORBIDDEN, why);
    }
    if access == "none" {
        return refuse(StatusCode::NOT_FOUND, "Not found.\n");
    }
    Ok((found.clone(), Some(token.user)))
}

/// Accepts a push. What it changed is announced before it is answered.
async fn receive(
    shared: &Arc<Shared>,
    found: Repository,
    user: &str,
    request: Request,
) -> anyhow::Result<Response> {
    let pushed = NamedTempFile::new_in(&shared.folder)?;
    let variables = [(PUSHED, OsStr::new(pushed.path()))];
    let response = cgi::run(&shared.folder, request, &variables).await?;
    let (parts, body) = response.into_parts();
    // To its end: by then the hook has run.
    let body = to_bytes(body, usize::MAX).await?;
    let (shared, user) = (Arc::clone(shared), user.to_owned());
    let announced = tokio::task::spawn_blocking(move || -> Result<(), String> {
        let lines = std::fs::read_to_string(pushed.path()).map_err(|error| error.to_string())?;
        for line in lines.lines() {
            let mut fields = line.split(' ');
            let (Some(old), Some(new), Some(name)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let none = |id: &str| id.bytes().all(|digit| digit == b'0');
            // The deletion of a branch is another event, which has no subscribers.
            if let (Some(branch), false) = (name.strip_prefix("refs/heads/"), none(new)) {
                let old = Some(old).filter(|old| !none(old));
                moved(&shared, &found, branch, old, new, &user)?;
            }
        }
        Ok(())
    });
    announced.await?.map_err(anyhow::Error::msg)?;
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// Keeps what a push means to the repository and to the pull requests of the branch.
fn follow(
    state: &mut State,
    found: &Repository,
    branch: &str,
    commits: &[files::Commit],
    (new, user): (&str, &str),
) {
    let at = now();
    state.change(found, |found| found.updated.clone_from(&at));
    let ids: Vec<String> = commits.iter().rev().map(|commit| commit.id.clone()).collect();
    for pull in found.pulls.iter().filter(|pull| pull.open && pull.head == branch) {
        let base = files::merge_base(&found.folder, &format!("refs/heads/{}", pull.base), new);
        let entry = Entry::of_push(state, pull.number, user, &ids);
        state.change(found, |found| {
            for pull in found.pulls.iter_mut().filter(|one| one.number == pull.number) {
                (pull.commit, pull.updated) = (new.to_owned(), at.clone());
                pull.merge_base = base.clone().unwrap_or_default();
            }
            for review in found.reviews.iter_mut().filter(|review| review.of == pull.number) {
                review.stale |= !review.commit.is_empty();
            }
            found.entries.push(entry);
        });
    }
}

/// Tells that a branch has moved: to those who listen for pushes, and to webhooks.
pub(super) fn moved(
    shared: &Shared,
    found: &Repository,
    branch: &str,
    old: Option<&str>,
    new: &str,
    user: &str,
) -> Result<(), String> {
    let range = match old {
        Some(old) => vec![new.to_owned(), format!("^{old}")],
        None => vec![new.to_owned()],
    };
    let range: Vec<&str> = range.iter().map(String::as_str).collect();
    let commits = files::log(&found.folder, &range, 0, MAX_COMMITS)?;
    let head = match commits.first().filter(|commit| commit.id == new) {
        Some(head) => head.clone(),
        // It was there before: the branch is new, or went back.
        None => files::commit(&found.folder, new)?,
    };
    let mut state = locked(&shared.state);
    follow(&mut state, found, branch, &commits, (new, user));
    let state = state;
    let found = &state.find(&found.owner, &found.name).cloned().unwrap_or_else(|| found.clone());
    let zero = "0".repeat(new.len());
    let before = old.unwrap_or(&zero);
    // A new branch is compared with the default one; the first one of all with nothing.
    let with = match old {
        Some(old) => Some(old.to_owned()),
        None if branch == found.default_branch => None,
        None => files::tip(&found.folder, &found.default_branch),
    };
    let root = &state.root_url;
    let compare = match with {
        Some(with) => format!("{root}/{}/compare/{with}...{new}", found.full_name()),
        None => format!("{root}/"),
    };
    let shape = |commit| shapes::payload_commit(&state, found, commit);
    let payload = json!({
        "ref": format!("refs/heads/{branch}"),
        "before": before,
        "after": new,
        "compare_url": compare,
        "commits": commits.iter().map(shape).collect::<Vec<_>>(),
        "total_commits": commits.len(),
        "head_commit": shape(&head),
        "repository": shapes::repository(&state, found, Some(user)),
        "pusher": shapes::user(&state, user, None),
        "sender": shapes::user(&state, user, None),
    });
    drop(state);
    // There may be no subscriber.
    let _ = shared.pushes.send(Push {
        full_name: found.full_name(),
        repository: found.folder.clone(),
        branch: branch.to_owned(),
        commit: new.to_owned(),
        message: head.message,
    });
    hooks::fire(shared, found, "push", &payload);
    Ok(())
}
