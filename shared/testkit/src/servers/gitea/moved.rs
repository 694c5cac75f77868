//! Repositories that people rename, move to another owner, protect or remove.

use axum::http::header::LOCATION;

use super::response::{ApiResponse, Body, Call};
use super::state::State;
use super::{Gitea, files, locked};

impl Gitea {
    /// Renames a repository, or moves it to another owner. Its old name leads to the new one. Panics
    /// without that repository.
    pub fn rename(&self, full_name: &str, new: &str) {
        let mut state = locked(&self.shared.state);
        let old = full_name.to_lowercase();
        let mut found = state.repositories.remove(&old).expect("that repository");
        let (owner, name) = new.split_once('/').expect("owner/name");
        (found.owner, found.name) = (owner.to_owned(), name.to_owned());
        let folder = self.shared.folder.join(format!("{}.git", new.to_lowercase()));
        std::fs::create_dir_all(folder.parent().expect("the owner's folder")).expect("a folder");
        std::fs::rename(&found.folder, &folder).expect("a free name");
        found.folder = folder;
        state.moved.insert(old, found.id);
        state.repositories.insert(new.to_lowercase(), found);
    }

    /// Archives a repository, or makes it writable again.
    pub fn archive(&self, full_name: &str, archived: bool) {
        self.shared.with(full_name, |found| found.archived = archived.then(super::state::now));
    }

    /// Lets nobody push to a branch any more.
    pub fn protect(&self, full_name: &str, branch: &str) {
        self.shared.with(full_name, |found| {
            found.protected.insert(branch.to_owned());
            files::protect(&found.folder, &found.protected).expect("a hook");
        });
    }

    /// Removes a repository, as somebody in a browser does. Panics without that repository.
    pub fn remove(&self, full_name: &str) {
        let mut state = locked(&self.shared.state);
        let found = state.repositories.remove(&full_name.to_lowercase());
        std::fs::remove_dir_all(found.expect("that repository").folder).expect("its folder");
    }
}

/// Where a call of a repository is to go that has another name by now.
pub(super) fn redirect(state: &State, call: &Call) -> Option<ApiResponse> {
    let ["repos", owner, name, rest @ ..] =
        &call.path.iter().map(String::as_str).collect::<Vec<_>>()[..]
    else {
        return None;
    };
    if state.find(owner, name).is_some() {
        return None;
    }
    let moved = state.find_moved(owner, name)?;
    let below: String = rest.iter().map(|part| format!("/{part}")).collect();
    let to = format!("/api/v1/repos/{}{below}", moved.full_name());
    let status = if call.method == "GET" { 301 } else { 307 };
    Some(ApiResponse::new(status, Body::None).header(LOCATION, to))
}
