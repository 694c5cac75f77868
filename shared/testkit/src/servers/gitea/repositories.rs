//! Repositories, as the API makes, shows and removes them.

use serde_json::{Value, json};

use super::records::{Blank, Repository};
use super::response::{
    ApiResponse, Call, created, error, internal, no_content, no_organisation, not_found, ok,
    visible, writable,
};
use super::state::now;
use super::{Shared, api, files, git, locked, shapes};

/// Names that the web pages need for themselves.
const RESERVED: [&str; 3] = ["-", ".", ".."];

const EXISTS: &str = "The repository with the same name already exists.";

pub(super) fn list(shared: &Shared, call: &Call, owner: &str) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let known = state.organisations.contains_key(&owner.to_lowercase());
    known.then_some(()).ok_or_else(|| no_organisation(owner))?;
    let user = call.user.as_deref();
    let seen = |found: &&Repository| {
        found.owner.eq_ignore_ascii_case(owner) && state.access(user, found) != "none"
    };
    let found = state.repositories.values().filter(seen);
    Ok(api::list_of(&state, call, found, |found| shapes::repository(&state, found, user)))
}

pub(super) fn create_in(
    shared: &Shared,
    call: &Call,
    owner: &str,
) -> Result<ApiResponse, ApiResponse> {
    let user = call.user()?;
    let owner = {
        let state = locked(&shared.state);
        let found = state.organisations.get(&owner.to_lowercase());
        let found = found.ok_or_else(|| no_organisation(owner))?;
        let name = call.required("name")?;
        if !state.may_write(user, owner) {
            let why = "Given user is not allowed to create repository in organization.";
            return Err(error(403, format!("{why} [{name}]")));
        }
        found.name.clone()
    };
    create(shared, call, &owner)
}

pub(super) fn create_own(shared: &Shared, call: &Call) -> Result<ApiResponse, ApiResponse> {
    create(shared, call, call.user()?)
}

fn create(shared: &Shared, call: &Call, owner: &str) -> Result<ApiResponse, ApiResponse> {
    let made = reserve(shared, call, owner)?;
    files::init(&made.folder, &made.default_branch).map_err(|why| internal(shared, &why))?;
    if call.flag("auto_init") {
        let readme = format!("# {}\n\n{}\n", made.name, made.description);
        let path = "README.md".to_owned();
        let change = files::Change::Write { path, content: readme.into_bytes() };
        let user = call.user()?;
        let email = locked(&shared.state).owner(user).map(|account| account.email.clone());
        let person = (user, email.unwrap_or_default());
        let branch = (made.default_branch.as_str(), None);
        let person = (person.0, person.1.as_str());
        files::write(&made.folder, branch, "Initial commit\n", person, &[change])
            .map_err(|why| internal(shared, &why))?;
    }
    shown(shared, call, &made)
}

pub(super) fn generate(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let user = call.user()?;
    let (template, owner) = {
        let state = locked(&shared.state);
        let template = visible(&state, call, owner, name)?;
        let owner = call.required("owner")?;
        call.required("name")?;
        if !template.template {
            return Err(error(422, "this is not a template repo"));
        }
        let Some(account) = state.owner(&owner) else { return Err(not_found()) };
        if !state.may_write(user, &owner) {
            let why = "Given user is not allowed to create repository in organization.";
            return Err(error(403, why));
        }
        (template, account.name.clone())
    };
    let made = reserve(shared, call, &owner)?;
    let filled = files::init(&made.folder, &made.default_branch).and_then(|()| {
        if !call.flag("git_content") || files::is_empty(&template.folder) {
            return Ok(());
        }
        let from = (template.folder.as_path(), template.default_branch.as_str());
        let to = (made.folder.as_path(), made.default_branch.as_str());
        let commit = files::copy(from, to, "Initial commit")?;
        git::moved(shared, &made, &made.default_branch, None, &commit, user)
    });
    filled.map_err(|why| internal(shared, &why))?;
    shown(shared, call, &made)
}

/// Takes the name, if it is free, and gives it a record; the folder is still to be made.
fn reserve(shared: &Shared, call: &Call, owner: &str) -> Result<Repository, ApiResponse> {
    let name = call.required("name")?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.chars().all(good) || name.len() > 100 {
        return Err(error(422, "[Name]: AlphaDashDot"));
    }
    if RESERVED.contains(&name.as_str()) {
        return Err(error(422, format!("name is reserved [name: {name}]")));
    }
    let mut default_branch = call.text("default_branch")?;
    if default_branch.is_empty() {
        default_branch = "main".to_owned();
    }
    let mut state = locked(&shared.state);
    let key = format!("{owner}/{name}").to_lowercase();
    if state.repositories.contains_key(&key) {
        return Err(error(409, EXISTS));
    }
    let blank = Blank {
        owner: owner.to_owned(),
        name,
        description: call.text("description")?,
        private: call.flag("private"),
        template: call.flag("template"),
        default_branch,
    };
    let folder = shared.folder.join(format!("{key}.git"));
    let made = Repository::new(state.next_id(), blank, folder);
    state.repositories.insert(key, made.clone());
    Ok(made)
}

fn shown(shared: &Shared, call: &Call, made: &Repository) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let shape: Value = shapes::repository(&state, made, call.user.as_deref());
    Ok(created(shape))
}

pub(super) fn get(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    Ok(ok(shapes::repository(&state, &found, call.user.as_deref())))
}

pub(super) fn delete(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let found = {
        let mut state = locked(&shared.state);
        let found = writable(&state, call, owner, name)?;
        state.repositories.remove(&found.full_name().to_lowercase());
        found
    };
    // Under another name first: a repository of this name may be made at once.
    let away = shared.folder.join(format!(".deleted-{}", found.id));
    std::fs::rename(&found.folder, &away)
        .and_then(|()| std::fs::remove_dir_all(&away))
        .map_err(|why| internal(shared, &why.to_string()))?;
    Ok(no_content())
}

/// By the number that a repository keeps under every name.
pub(super) fn get_by_id(
    shared: &Shared,
    call: &Call,
    id: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let mut all = state.repositories.values();
    let found = all.find(|found| found.id.to_string() == id).ok_or_else(not_found)?;
    let found = visible(&state, call, &found.owner, &found.name)?;
    Ok(ok(shapes::repository(&state, &found, call.user.as_deref())))
}

/// Changes settings.
pub(super) fn edit(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = writable(&state, call, owner, name)?;
    if !matches!(state.access(call.user.as_deref(), &found), "owner" | "admin") {
        return Err(error(403, "user should be an owner or a collaborator with admin write"));
    }
    let flag = |name: &str| call.body.get(name).and_then(Value::as_bool);
    let description = call.body.get("description").and_then(Value::as_str).map(str::to_owned);
    state.change(&found, |found| {
        if let Some(archived) = flag("archived") {
            found.archived = archived.then(now);
        }
        if let Some(description) = description {
            found.description = description;
        }
        found.private = flag("private").unwrap_or(found.private);
        found.template = flag("template").unwrap_or(found.template);
    });
    let found = visible(&state, call, owner, name)?;
    Ok(ok(shapes::repository(&state, &found, call.user.as_deref())))
}

/// Gives somebody rights in a repository.
pub(super) fn add_collaborator(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    user: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = writable(&state, call, owner, name)?;
    let user = state.users.get(&user.to_lowercase()).ok_or_else(not_found)?.name.to_lowercase();
    let rights = match call.text("permission")?.as_str() {
        right @ ("read" | "write" | "admin") => right.to_owned(),
        _ => "write".to_owned(),
    };
    state.change(&found, |found| {
        found.collaborators.insert(user, rights);
    });
    Ok(no_content())
}

pub(super) fn rights(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    user: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = visible(&state, call, owner, name)?;
    let doer = call.user()?;
    let user = state.users.get(&user.to_lowercase()).ok_or_else(not_found)?.name.clone();
    let access = state.access(Some(&user), &found);
    let shown = shapes::user(&state, &user, Some(doer));
    Ok(ok(json!({ "permission": access, "role_name": access, "user": shown })))
}
