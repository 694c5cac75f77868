//! The shapes of what the API answers.

mod content;
mod issue;
mod pull;
mod repository;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::records::{Hook, Repository, Status};
use super::state::{Account, State};

pub(super) use content::{
    Part, branch, changed_file, commit, file, file_commit, file_response, files_response,
    payload_commit,
};
pub(super) use issue::{comment, entry, issue, label, labels, line, release, review, team};
pub(super) use pull::pull;
pub(super) use repository::repository;

/// What Go has for a moment that was never set.
const ZERO: &str = "0001-01-01T00:00:00Z";

/// What a moment is that the database never got.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// How much of a user is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    /// What a stranger sees, and what the server writes where it asks for nobody.
    Public,
    /// What another user sees: the address, too.
    Signed,
    /// What they see of themselves, and an administrator of everybody.
    Own,
}

/// A user, as `doer` sees them.
pub(super) fn user(state: &State, name: &str, doer: Option<&str>) -> Value {
    let view = match doer {
        None => View::Public,
        Some(doer) if doer.eq_ignore_ascii_case(name) || state.administers(doer) => View::Own,
        Some(_) => View::Signed,
    };
    user_in(state, name, view)
}

fn user_in(state: &State, name: &str, view: View) -> Value {
    let account = state.owner(name);
    let own = account.filter(|_| view == View::Own);
    let text = |of: fn(&Account) -> &str| account.map(of).unwrap_or_default();
    let id = account.map(|account| account.id).unwrap_or_default();
    let login = own.map(|own| own.last_login.as_deref().unwrap_or(EPOCH));
    let used = own.is_some_and(|own| own.last_login.is_some());
    let hidden = state.hidden.contains(&name.to_lowercase());
    json!({
        "id": id,
        "login": name,
        "login_name": "",
        "source_id": 0,
        "full_name": "",
        "email": match view {
            View::Public => format!("{id}+{name}@noreply.forge.example"),
            _ => text(|account| &account.email).to_owned(),
        },
        "avatar_url": format!("{}/avatars/{}", state.root_url, picture(name)),
        "html_url": format!("{}/{name}", state.root_url),
        "language": if used { "en-US" } else { "" },
        "is_admin": own.is_some_and(|own| own.administrator),
        "last_login": login.unwrap_or(ZERO),
        "created": text(|account| &account.created),
        "restricted": false,
        "active": own.is_some(),
        "prohibit_login": false,
        "location": "",
        "website": "",
        "description": "",
        "visibility": if hidden { "private" } else { "public" },
        "followers_count": 0,
        "following_count": 0,
        "starred_repos_count": 0,
        "username": name,
    })
}

/// The name of somebody's picture.
fn picture(name: &str) -> String {
    let digest = Sha256::digest(name.to_lowercase());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn organisation(state: &State, account: &Account) -> Value {
    let hidden = state.hidden.contains(&account.name.to_lowercase());
    json!({
        "id": account.id,
        "name": account.name,
        "username": account.name,
        "full_name": "",
        "email": "",
        "avatar_url": format!("{}/avatars/{}", state.root_url, picture(&account.name)),
        "description": "",
        "website": "",
        "location": "",
        "visibility": if hidden { "private" } else { "public" },
        "repo_admin_change_team_access": true,
    })
}

pub(super) fn hook(hook: &Hook) -> Value {
    json!({
        "id": hook.id,
        "type": hook.kind,
        "branch_filter": "",
        "config": { "content_type": "json", "url": hook.url },
        "events": hook.events,
        "authorization_header": "",
        "active": hook.active,
        "updated_at": hook.created,
        "created_at": hook.created,
    })
}

pub(super) fn status(state: &State, found: &Repository, status: &Status) -> Value {
    let api = format!("{}/api/v1/repos/{}", state.root_url, found.full_name());
    json!({
        "id": status.id,
        "status": status.state,
        "target_url": status.target_url,
        "description": status.description,
        "url": format!("{api}/statuses/{}", status.commit),
        "context": status.context,
        "creator": user(state, &status.user, None),
        "created_at": status.created,
        "updated_at": status.created,
    })
}
