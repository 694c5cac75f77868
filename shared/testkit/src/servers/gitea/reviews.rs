//! Reviews of pull requests.

use serde_json::{Value, json};

use super::records::{Entry, Pull, Repository, Review, What};
use super::response::{
    ApiResponse, Body, Call, changeable, created, error, not_found, ok, visible,
};
use super::state::{State, now};
use super::{Shared, api, files, locked, shapes};

/// What a review is asked for, until it is given.
const ASKED: &str = "REQUEST_REVIEW";

pub(super) fn create(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    number: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = changeable(&state, call, owner, name)?;
    let pull = found.pull(number).ok_or_else(not_found)?;
    let verdict = call.text("event")?;
    let counts = match verdict.as_str() {
        "APPROVED" | "REQUEST_CHANGES" => true,
        "COMMENT" => false,
        _ => return Err(error(422, format!("unknown review type {verdict:?}"))),
    };
    let user = call.user()?.to_owned();
    if counts && pull.user == user {
        return Err(error(422, "approve your own pull is not allowed"));
    }
    let now = now();
    let review = Review {
        id: state.next_id(),
        of: pull.number,
        user,
        team: None,
        state: verdict,
        body: call.text("body")?,
        commit: pull.commit.clone(),
        official: counts,
        dismissed: false,
        stale: false,
        submitted: now.clone(),
        updated: now,
    };
    let mut entries = lines(&mut state, call, &found, pull, &review);
    let (user, body) = (review.user.as_str(), review.body.as_str());
    entries.push(Entry::new(&mut state, pull.number, user, What::Review(review.id), body));
    let id = review.id;
    state.change(&found, |found| {
        add(found, review);
        found.entries.extend(entries);
    });
    let found = visible(&state, call, owner, name)?;
    let review = found.reviews.iter().find(|review| review.id == id).ok_or_else(not_found)?;
    Ok(ok(shapes::review(&state, &found, review, call.user.as_deref())))
}

/// Adds a review. One that counts replaces what its user said before, and what they were asked for.
fn add(found: &mut Repository, review: Review) {
    if review.official {
        let same = |old: &Review| old.of == review.of && old.user == review.user;
        found.reviews.retain(|old| !same(old) || old.state != ASKED);
        for old in found.reviews.iter_mut().filter(|old| same(old) && old.official) {
            old.official = false;
            old.dismissed = true;
            old.updated.clone_from(&review.submitted);
        }
    }
    found.reviews.push(review);
}

/// A review's comments on lines.
fn lines(
    state: &mut State,
    call: &Call,
    found: &Repository,
    pull: &Pull,
    review: &Review,
) -> Vec<Entry> {
    let comments = call.body.get("comments").and_then(Value::as_array);
    let mut entries = Vec::new();
    for comment in comments.into_iter().flatten() {
        let text = |name: &str| comment.get(name).and_then(Value::as_str).unwrap_or_default();
        let position = comment.get("new_position").and_then(Value::as_u64).unwrap_or_default();
        let path = text("path").to_owned();
        let from = pull.merge_base.as_str();
        let hunk = files::hunk(&found.folder, from, &pull.commit, &path, position);
        let commit = pull.commit.clone();
        let what = What::Line { review: review.id, path, position, commit, hunk };
        entries.push(Entry::new(state, pull.number, &review.user, what, text("body")));
    }
    entries
}

pub(super) fn list(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    number: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let pull = found.pull(number).ok_or_else(not_found)?;
    let reviews = found.reviews.iter().filter(|review| review.of == pull.number);
    let user = call.user.as_deref();
    Ok(api::list_of(&state, call, reviews, |one| shapes::review(&state, &found, one, user)))
}

/// The comments on lines of a review; there are no pages of them.
pub(super) fn comments(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    (number, id): (&str, &str),
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let pull = found.pull(number).ok_or_else(not_found)?;
    let wanted = |review: &&Review| review.of == pull.number && review.id.to_string() == id;
    let review = found.reviews.iter().find(wanted).ok_or_else(not_found)?;
    let of =
        |entry: &&Entry| matches!(&entry.what, What::Line { review: of, .. } if *of == review.id);
    let user = call.user.as_deref();
    let lines = found.entries.iter().filter(of);
    Ok(ok(lines.filter_map(|entry| shapes::line(&state, &found, entry, user)).collect()))
}

/// Asks for reviews; those that were asked for anew. As the source does it where the record has no
/// such call (`parseReviewersByNames` in go-gitea/gitea `routers/api/v1/repo/pull_review.go`,
/// `isValidReviewRequest` in `services/issue/assignee.go`): who is not there is 404 in words of its
/// own, who may not read or has opened it is 422, and in the repository of a user teams are passed
/// over.
pub(super) fn request(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    number: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = changeable(&state, call, owner, name)?;
    let pull = found.pull(number).ok_or_else(not_found)?;
    let doer = call.user()?;
    let mut wanted = Vec::new();
    for name in call.texts("reviewers").unwrap_or_default() {
        let user =
            state.owner(&name).ok_or_else(|| not_there(&format!("User '{name}' not exist")))?;
        wanted.push((user.name.clone(), None));
    }
    if state.organisations.contains_key(&found.owner.to_lowercase()) {
        for name in call.texts("team_reviewers").unwrap_or_default() {
            let key = (found.owner.to_lowercase(), name.to_lowercase());
            let team = state.teams.get(&key);
            let (team, _) = team.ok_or_else(|| not_there(&format!("Team '{name}' not exist")))?;
            wanted.push((String::new(), Some(team.clone())));
        }
    }
    let mut asked = Vec::new();
    for (user, team) in wanted {
        check_reviewer(&state, &found, pull, (doer, &user), team.is_some())?;
        let mut before = found.reviews.iter().filter(|review| review.of == pull.number);
        if before.any(|old| old.user == user && old.team == team && old.state == ASKED) {
            continue;
        }
        let now = now();
        let review = Review {
            id: state.next_id(),
            of: pull.number,
            user: user.clone(),
            team,
            state: ASKED.to_owned(),
            body: String::new(),
            commit: String::new(),
            official: true,
            dismissed: false,
            stale: false,
            submitted: now.clone(),
            updated: now,
        };
        let what = What::Request(review.id, user);
        let entry = Entry::new(&mut state, pull.number, doer, what, "");
        asked.push((review, entry));
    }
    let shown = asked.iter().map(|(review, _)| shapes::review(&state, &found, review, Some(doer)));
    let shown = shown.collect();
    state.change(&found, |found| {
        for (review, entry) in asked {
            found.reviews.push(review);
            found.entries.push(entry);
        }
    });
    Ok(created(shown))
}

/// Whether somebody may be asked for a review of a pull request.
fn check_reviewer(
    state: &State,
    found: &Repository,
    pull: &Pull,
    (doer, user): (&str, &str),
    is_team: bool,
) -> Result<(), ApiResponse> {
    if !pull.open {
        return Err(error(403, "cannot request a re-review on a closed or merged PR"));
    }
    let doer = state.owner(doer).map_or(0, |account| account.id);
    let refused = |reason: &str| {
        Err(error(422, format!("{reason} [user_id: {doer}, repo_id: {}]", found.id)))
    };
    match user {
        _ if is_team => Ok(()),
        user if state.organisations.contains_key(&user.to_lowercase()) => {
            refused("Organization can't be added as reviewer")
        }
        user if state.access(Some(user), found) == "none" => refused("Reviewer can't read"),
        user if user.eq_ignore_ascii_case(&pull.user) => refused("poster of pr can't be reviewer"),
        _ => Ok(()),
    }
}

/// That somebody is not there.
fn not_there(message: &str) -> ApiResponse {
    ApiResponse::new(404, Body::Json(json!({ "errors": null, "message": message })))
}
