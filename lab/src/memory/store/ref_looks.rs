//! When repositories are looked through for refs that nobody needs.

use rdev_domain::git_url::GitUrl;
use rdev_domain::ref_look::RefLook;
use rdev_domain::time::Timestamp;

use super::transaction::State;

pub(super) fn plan(state: &mut State, repository: &GitUrl, at: Timestamp, now: Timestamp) {
    let key = repository.as_str().to_owned();
    let before = state.ref_looks.remove(&key);
    state.ref_looks.insert(key, RefLook::planned(before, repository, at, now));
}

pub(super) fn due(state: &State, now: Timestamp, limit: u32) -> Vec<RefLook> {
    let mut due: Vec<&RefLook> = state.ref_looks.values().filter(|look| look.due <= now).collect();
    due.sort_by_key(|look| (look.due, look.repository.as_str()));
    due.into_iter().take(limit as usize).cloned().collect()
}

pub(super) fn update(state: &mut State, before: &RefLook, after: Option<&RefLook>) -> bool {
    let key = before.repository.as_str();
    if state.ref_looks.get(key) != Some(before) {
        return false;
    }
    match after {
        Some(after) => state.ref_looks.insert(key.to_owned(), after.clone()),
        None => state.ref_looks.remove(key),
    };
    true
}
