//! The refs of rdev's own that an attempt has written, or has seen of its task.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rdev_domain::git::{CommitId, LeftRef, OwnRef};
use rdev_domain::ids::TaskId;

use crate::git::Remote;

/// The most that a record names.
const MOST: usize = 50;

/// What an attempt knows of the refs in its repository. Names are full.
#[derive(Default)]
pub(crate) struct OwnRefs(Mutex<Known>);

#[derive(Default)]
struct Known {
    remote: Option<Remote>,
    /// The repository's refs were listed.
    listed: bool,
    /// The value of each ref; `None`: it may not be there.
    refs: BTreeMap<String, Option<CommitId>>,
}

impl OwnRefs {
    /// A ref is about to be pushed.
    pub(crate) fn about_to_write(&self, remote: &Remote, name: &str) {
        let mut known = self.known();
        known.remote.get_or_insert_with(|| remote.clone());
        known.refs.entry(name.to_owned()).or_default();
    }

    /// A push of a ref was acknowledged.
    pub(crate) fn written(&self, name: &str, commit: &CommitId) {
        self.known().refs.insert(name.to_owned(), Some(commit.clone()));
    }

    /// A push of a ref was not answered: it may be there.
    pub(crate) fn perhaps_written(&self, name: &str, commit: &CommitId) {
        let mut known = self.known();
        known.refs.entry(name.to_owned()).or_default().get_or_insert_with(|| commit.clone());
    }

    /// A list of the repository's refs has these of the attempt's task.
    pub(crate) fn listed(&self, remote: &Remote, refs: impl Iterator<Item = (String, CommitId)>) {
        let mut known = self.known();
        // The repository may have moved since the last fetch.
        known.remote = Some(remote.clone());
        known.listed = true;
        known.refs.extend(refs.map(|(name, commit)| (name, Some(commit))));
    }

    /// A ref is gone.
    pub(crate) fn gone(&self, own: OwnRef) {
        self.known().refs.retain(|name, _| OwnRef::parse(name) != Some(own));
    }

    /// All that may be there.
    pub(crate) fn all(&self) -> Option<(Remote, Vec<String>)> {
        let known = self.known();
        Some((known.remote.clone()?, known.refs.keys().cloned().collect()))
    }

    /// Those of a task that are there. `None`: the attempt has not seen the repository.
    pub(crate) fn left(&self, task: TaskId) -> Option<Vec<LeftRef>> {
        let known = self.known();
        let of_task = known.refs.iter().filter_map(|(name, commit)| {
            let own = OwnRef::parse(name).filter(|own| own.task() == task)?;
            let branch = name.starts_with("refs/heads/");
            Some(LeftRef { own, commit: commit.clone()?, branch })
        });
        known.listed.then(|| of_task.take(MOST).collect())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // Every change is one insert or remove, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
