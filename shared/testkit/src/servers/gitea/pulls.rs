//! Pull requests.

use super::response::{ApiResponse, Call, created, error, not_found, ok, visible, writable};
use super::state::{Pull, now};
use super::{Shared, api, files, locked, shapes};

pub(super) fn list(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let filter = call.query("state").unwrap_or("open");
    // Newest first.
    let pulls = found.pulls.iter().rev().filter(|pull| match filter {
        "open" => pull.open,
        "closed" => !pull.open,
        _ => true,
    });
    let user = call.user.as_deref();
    Ok(api::list_of(&state, call, pulls, |pull| shapes::pull(&state, &found, pull, user)))
}

pub(super) fn get(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    number: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let pull = found.pulls.iter().find(|pull| pull.number.to_string() == number);
    let pull = pull.ok_or_else(not_found)?;
    Ok(ok(shapes::pull(&state, &found, pull, call.user.as_deref())))
}

pub(super) fn create(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = writable(&state, call, owner, name)?;
    let (head, base) = (call.text("head")?, call.text("base")?);
    if head == base {
        return Err(error(
            422,
            "Invalid PullRequest: There are no changes between the head and the base",
        ));
    }
    files::tip(&found.folder, &base).ok_or_else(not_found)?;
    let commit = files::tip(&found.folder, &head).ok_or_else(not_found)?;
    if found.pulls.iter().any(|pull| pull.open && pull.head == head && pull.base == base) {
        return Err(error(409, "pull request already exists for these targets"));
    }
    let title = call.text("title")?;
    if title.is_empty() {
        return Err(error(422, "title is empty"));
    }
    let pull = Pull {
        id: state.next_id(),
        number: found.pulls.len() as u64 + 1,
        head,
        base,
        title,
        body: call.text("body")?,
        open: true,
        commit,
        merged: None,
        user: call.user()?.to_owned(),
        created: now(),
    };
    let shape = shapes::pull(&state, &found, &pull, call.user.as_deref());
    let key = found.full_name().to_lowercase();
    if let Some(found) = state.repositories.get_mut(&key) {
        found.pulls.push(pull);
    }
    Ok(created(shape))
}
