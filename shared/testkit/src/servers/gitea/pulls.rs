//! Pull requests.

use super::records::{Entry, Pull, Repository, What};
use super::response::{
    ApiResponse, Call, changeable, created, error, internal, not_found, ok, visible,
};
use super::shapes::Part;
use super::state::{State, now};
use super::{Shared, api, files, locked, shapes};

/// The most commits of one that are looked at.
const MAX_COMMITS: usize = 250;

/// A pull request that is to be opened.
#[derive(Debug)]
pub(super) struct New {
    pub(super) head: String,
    pub(super) base: String,
    pub(super) title: String,
    pub(super) body: String,
}

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
    Ok(api::list_of(&state, call, pulls, |pull| shapes::pull(&state, &found, pull, user, false)))
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
    let pull = found.pull(number).ok_or_else(not_found)?;
    Ok(ok(shapes::pull(&state, &found, pull, call.user.as_deref(), true)))
}

/// The newest one of two branches, open or not.
pub(super) fn between(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    (base, head): (&str, &str),
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let mut newest = found.pulls.iter().rev();
    let pull = newest.find(|pull| pull.base == base && pull.head == head).ok_or_else(not_found)?;
    Ok(ok(shapes::pull(&state, &found, pull, call.user.as_deref(), true)))
}

pub(super) fn create(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = changeable(&state, call, owner, name)?;
    let new = New {
        head: call.text("head")?,
        base: call.text("base")?,
        title: call.text("title")?,
        body: call.text("body")?,
    };
    let pull = open(&mut state, &found, new, call.user()?)?;
    // The repository is shown as it was before.
    Ok(created(shapes::pull(&state, &found, &pull, call.user.as_deref(), true)))
}

pub(super) fn open(
    state: &mut State,
    found: &Repository,
    new: New,
    user: &str,
) -> Result<Pull, ApiResponse> {
    let New { head, base, title, body } = new;
    if head == base {
        return Err(error(
            422,
            "Invalid PullRequest: There are no changes between the head and the base",
        ));
    }
    let tip = files::tip(&found.folder, &base).ok_or_else(not_found)?;
    let commit = files::tip(&found.folder, &head).ok_or_else(not_found)?;
    if found.pulls.iter().any(|pull| pull.open && pull.head == head && pull.base == base) {
        return Err(error(409, "pull request already exists for these targets"));
    }
    if title.is_empty() {
        return Err(error(422, "title is empty"));
    }
    let merge_base = files::merge_base(&found.folder, &tip, &commit).unwrap_or_default();
    let range = [commit.as_str(), &format!("^{tip}")];
    let commits = files::log(&found.folder, &range, 0, MAX_COMMITS).unwrap_or_default();
    let commits: Vec<String> = commits.into_iter().rev().map(|commit| commit.id).collect();
    let now = now();
    let pull = Pull {
        id: state.next_id(),
        number: found.next_number(),
        head,
        base,
        title,
        body,
        open: true,
        commit,
        merge_base,
        merged: None,
        user: user.to_owned(),
        labels: Vec::new(),
        created: now.clone(),
        updated: now,
        closed: None,
    };
    let entry = Entry::of_push(state, pull.number, user, &commits);
    state.change(found, |found| {
        found.pulls.push(pull.clone());
        found.entries.push(entry);
    });
    Ok(pull)
}

pub(super) fn edit(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    number: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = changeable(&state, call, owner, name)?;
    let mut pull = found.pull(number).ok_or_else(not_found)?.clone();
    let (user, title, now) = (call.user()?, call.text("title")?, now());
    let mut entries = Vec::new();
    if !title.is_empty() && title != pull.title {
        let what = What::Title { old: pull.title.clone(), new: title.clone() };
        entries.push(Entry::new(&mut state, pull.number, user, what, ""));
        pull.title = title;
    }
    if call.body.get("body").is_some() {
        pull.body = call.text("body")?;
    }
    match call.text("state")?.as_str() {
        "closed" if pull.open => (pull.open, pull.closed) = (false, Some(now.clone())),
        "open" if pull.merged.is_none() => (pull.open, pull.closed) = (true, None),
        _ => {}
    }
    pull.updated = now;
    state.change(&found, |found| {
        if let Some(old) = found.pulls.iter_mut().find(|old| old.number == pull.number) {
            *old = pull;
        }
        found.entries.extend(entries);
    });
    let found = visible(&state, call, owner, name)?;
    let pull = found.pull(number).ok_or_else(not_found)?;
    Ok(created(shapes::pull(&state, &found, pull, Some(user), true)))
}

/// The files that it changes.
pub(super) fn files(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    number: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let pull = found.pull(number).ok_or_else(not_found)?;
    let changed = files::changed(&found.folder, &pull.merge_base, &pull.commit);
    let changed = changed.map_err(|why| internal(shared, &why))?;
    Ok(api::list_of(&state, call, changed, |file| {
        shapes::changed_file(&state, &found, &pull.commit, &file)
    }))
}

/// Its commits, newest first.
pub(super) fn commits(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    number: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let pull = found.pull(number).ok_or_else(not_found)?;
    let range = [pull.commit.as_str(), &format!("^{}", pull.merge_base)];
    let commits = files::log(&found.folder, &range, 0, MAX_COMMITS);
    let commits = commits.map_err(|why| internal(shared, &why))?;
    let parts = [Part::Stat, Part::Files, Part::Verification];
    Ok(api::list_of(&state, call, commits, |commit| {
        shapes::commit(&state, &found, &commit, &parts)
    }))
}
