//! Issues, their labels and their comments, which pull requests have, too.

use serde_json::{Value, json};

use super::records::{Entry, Issue, Label, Repository, What};
use super::response::{
    ApiResponse, Call, changeable, created, error, no_content, not_found, ok, visible,
};
use super::state::{State, now};
use super::{Shared, api, locked, shapes};

pub(super) fn create_label(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = changeable(&state, call, owner, name)?;
    let label = Label {
        id: state.next_id(),
        name: call.required("name")?,
        color: call.required("color")?.trim_start_matches('#').to_lowercase(),
        description: call.text("description")?,
    };
    let shape = shapes::label(&state, &found, &label);
    state.change(&found, |found| found.labels.push(label));
    Ok(created(shape))
}

/// Anybody who sees the repository may open one.
pub(super) fn create(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = open_to(&state, call, owner, name)?;
    let now = now();
    let issue = Issue {
        id: state.next_id(),
        number: found.next_number(),
        title: call.required("title")?,
        body: call.text("body")?,
        user: call.user()?.to_owned(),
        labels: Vec::new(),
        assignees: call.texts("assignees").unwrap_or_default(),
        created: now.clone(),
        updated: now,
        closed: None,
    };
    let shape = shapes::issue(&state, &found, &issue, call.user.as_deref());
    state.change(&found, |found| found.issues.push(issue));
    Ok(created(shape))
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
    Ok(ok(shapes::issue(&state, &found, numbered(&found, number)?, call.user.as_deref())))
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
    let mut issue = numbered(&found, number)?.clone();
    for (field, name) in [(&mut issue.title, "title"), (&mut issue.body, "body")] {
        if call.body.get(name).is_some() {
            *field = call.text(name)?;
        }
    }
    if let Some(assignees) = call.texts("assignees") {
        let stranger = assignees.iter().find(|name| state.owner(name).is_none());
        if let Some(name) = stranger {
            return Err(error(422, format!("Assignee does not exist: [name: {name}]")));
        }
        issue.assignees = assignees;
    }
    match call.text("state")?.as_str() {
        "closed" => issue.closed = issue.closed.or_else(|| Some(now())),
        "open" => issue.closed = None,
        _ => {}
    }
    issue.updated = now();
    state.change(&found, |found| {
        if let Some(old) = found.issues.iter_mut().find(|old| old.number == issue.number) {
            *old = issue;
        }
    });
    let found = visible(&state, call, owner, name)?;
    Ok(created(shapes::issue(&state, &found, numbered(&found, number)?, call.user.as_deref())))
}

/// Adds labels, by their ids or by their names, to an issue or a pull request: both have one space of
/// numbers. All that it has then. What is no label is passed over, as the source does it
/// (`prepareForReplaceOrAdd` in go-gitea/gitea `routers/api/v1/repo/issue_label.go`: it looks names
/// and ids up with `IN`, and asks no more); the record has no such call.
pub(super) fn add_labels(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    number: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = changeable(&state, call, owner, name)?;
    let mut has = match found.pull(number) {
        Some(pull) => pull.labels.clone(),
        None => numbered(&found, number)?.labels.clone(),
    };
    let asked = call.body.get("labels").and_then(Value::as_array);
    let asked = asked.map_or(&[][..], Vec::as_slice);
    if asked.iter().any(|one| !one.is_string() && !one.is_number()) {
        return Err(error(400, "a label must be an integer or a string"));
    }
    if asked.iter().any(Value::is_string) && asked.iter().any(Value::is_number) {
        return Err(error(400, "labels should be an array of strings or integers"));
    }
    for asked in asked {
        let fits = |label: &&Label| *asked == json!(label.id) || *asked == json!(label.name);
        if let Some(label) = found.labels.iter().find(fits)
            && !has.contains(&label.id)
        {
            has.push(label.id);
        }
    }
    let shown = shapes::labels(&state, &found, &has);
    state.change(&found, |found| {
        for issue in found.issues.iter_mut().filter(|issue| issue.number.to_string() == number) {
            issue.labels.clone_from(&has);
        }
        for pull in found.pulls.iter_mut().filter(|pull| pull.number.to_string() == number) {
            pull.labels.clone_from(&has);
        }
    });
    Ok(ok(shown.into()))
}

pub(super) fn add_comment(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    number: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = open_to(&state, call, owner, name)?;
    let of = either(&found, number)?;
    let (user, body) = (call.user()?, call.required("body")?);
    let entry = Entry::new(&mut state, of, user, What::Comment, &body);
    let shape = shapes::comment(&state, &found, &entry);
    state.change(&found, |found| found.entries.push(entry));
    Ok(created(shape))
}

pub(super) fn comments(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    number: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let of = either(&found, number)?;
    let wanted = |entry: &&Entry| entry.of == of && entry.what == What::Comment;
    let comments = found.entries.iter().filter(wanted);
    Ok(api::list_of(&state, call, comments, |entry| shapes::comment(&state, &found, entry)))
}

pub(super) fn timeline(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    number: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let of = either(&found, number)?;
    let entries = found.entries.iter().filter(|entry| entry.of == of);
    let shown = entries.filter_map(|entry| shapes::entry(&state, &found, entry));
    Ok(api::list_of(&state, call, shown, |shape| shape))
}

pub(super) fn edit_comment(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    id: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = open_to(&state, call, owner, name)?;
    let mut entry = comment(&found, id)?.clone();
    entry.body = call.required("body")?;
    entry.updated = now();
    let shape = shapes::comment(&state, &found, &entry);
    state.change(&found, |found| {
        if let Some(old) = found.entries.iter_mut().find(|old| old.id == entry.id) {
            *old = entry;
        }
    });
    Ok(ok(shape))
}

pub(super) fn delete_comment(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    id: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = open_to(&state, call, owner, name)?;
    let id = comment(&found, id)?.id;
    state.change(&found, |found| found.entries.retain(|entry| entry.id != id));
    Ok(no_content())
}

/// A repository where the caller may have a say.
fn open_to(state: &State, call: &Call, owner: &str, name: &str) -> Result<Repository, ApiResponse> {
    let found = visible(state, call, owner, name)?;
    call.user()?;
    if found.archived.is_some() {
        return Err(error(423, format!("{} is archived", found.full_name())));
    }
    Ok(found)
}

fn numbered<'a>(found: &'a Repository, number: &str) -> Result<&'a Issue, ApiResponse> {
    let issue = found.issues.iter().find(|issue| issue.number.to_string() == number);
    issue.ok_or_else(not_found)
}

/// The number of an issue or a pull request that is there.
fn either(found: &Repository, number: &str) -> Result<u64, ApiResponse> {
    let pull = found.pull(number).map(|pull| pull.number);
    pull.map_or_else(|| numbered(found, number).map(|issue| issue.number), Ok)
}

fn comment<'a>(found: &'a Repository, id: &str) -> Result<&'a Entry, ApiResponse> {
    let wanted = |entry: &&Entry| entry.id.to_string() == id && entry.what == What::Comment;
    found.entries.iter().find(wanted).ok_or_else(not_found)
}
