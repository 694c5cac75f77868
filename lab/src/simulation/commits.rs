//! Commits in memory: what git knows of them, without git.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use rdev_domain::git::{CommitId, Tip};
use rdev_runner::git::{Rebased, Scan};

/// The files of a tree, by path.
pub(super) type Files = BTreeMap<String, String>;

#[derive(Debug)]
pub(super) struct Commit {
    pub(super) parent: Option<CommitId>,
    /// Of a merge.
    also: Option<CommitId>,
    pub(super) files: Arc<Files>,
    message: String,
}

/// All commits of all repositories.
#[derive(Debug, Default)]
pub(super) struct Commits {
    all: HashMap<CommitId, Commit>,
    trees: HashMap<[u8; 20], Arc<Files>>,
}

impl Commits {
    pub(super) fn get(&self, id: &CommitId) -> &Commit {
        self.all.get(id).expect("commits are never removed, and ids are only made here")
    }

    /// Makes a commit. The same one again has the same id.
    pub(super) fn make(
        &mut self,
        parent: Option<&CommitId>,
        also: Option<&CommitId>,
        files: Arc<Files>,
        message: &str,
    ) -> CommitId {
        let digest = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            let parents = [parent, also].map(|parent| parent.map(CommitId::as_str));
            (salt, parents, &*files, message).hash(&mut hasher);
            hasher.finish()
        };
        let id = format!("{:016x}{:016x}00000000", digest(0), digest(1));
        let id: CommitId = id.parse().expect("40 hexadecimal digits are a commit id");
        let message = message.to_owned();
        let commit = Commit { parent: parent.cloned(), also: also.cloned(), files, message };
        self.all.insert(id.clone(), commit);
        id
    }

    /// Keeps a tree and returns its hash.
    pub(super) fn keep_tree(&mut self, files: Files) -> [u8; 20] {
        let mut hasher = DefaultHasher::new();
        files.hash(&mut hasher);
        let mut hash = [0; 20];
        hash[..8].copy_from_slice(&hasher.finish().to_be_bytes());
        self.trees.insert(hash, Arc::new(files));
        hash
    }

    pub(super) fn tree(&self, hash: &[u8]) -> Option<Arc<Files>> {
        self.trees.get(hash).cloned()
    }

    pub(super) fn files(&self, id: Option<&CommitId>) -> Arc<Files> {
        id.map(|id| Arc::clone(&self.get(id).files)).unwrap_or_default()
    }

    /// The commit and its ancestors, but for `hidden` and its.
    fn history(&self, of: &CommitId, hidden: Option<&CommitId>) -> Vec<CommitId> {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut walk = |from: &CommitId| {
            let (mut found, mut next) = (Vec::new(), vec![from.clone()]);
            while let Some(id) = next.pop() {
                let (key, commit) = self.all.get_key_value(&id).expect("parents are there");
                if seen.insert(key.as_str()) {
                    next.extend([&commit.parent, &commit.also].into_iter().flatten().cloned());
                    found.push(id);
                }
            }
            found
        };
        if let Some(hidden) = hidden {
            walk(hidden);
        }
        walk(of)
    }

    /// Whether `commit` is `tip` or an ancestor of it.
    pub(super) fn contains(&self, commit: &CommitId, tip: &CommitId) -> bool {
        self.history(tip, None).contains(commit)
    }

    /// The value of a trailer in the last paragraph of a commit's message.
    pub(super) fn trailer(&self, id: &CommitId, name: &str) -> Option<String> {
        let message = self.get(id).message.trim_end();
        let last = message.lines().rev().take_while(|line| !line.trim().is_empty());
        let prefix = format!("{name}: ");
        last.filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).next()
    }

    /// See [`rdev_runner::git::find_lineage`].
    pub(super) fn find(&self, lineage: &str, base: &Tip, tip: &CommitId) -> Scan {
        let base = match base {
            Tip::Absent => None,
            Tip::Commit(base) => Some(base),
        };
        if base.is_some_and(|base| !self.all.contains_key(base) || !self.contains(base, tip)) {
            return Scan::NotAncestor;
        }
        let of_lineage =
            |id: &CommitId| self.trailer(id, "Rdev-Lineage").as_deref() == Some(lineage);
        match self.history(tip, base).into_iter().find(of_lineage) {
            Some(found) => Scan::Found(found),
            None => Scan::NotFound,
        }
    }

    /// The files of `onto` with the changes of `commit`. `Err`: the paths in conflict.
    pub(super) fn merged(
        &self,
        commit: &CommitId,
        onto: Option<&CommitId>,
    ) -> Result<Files, Vec<String>> {
        let commit = self.get(commit);
        let (before, after) = (self.files(commit.parent.as_ref()), &commit.files);
        let ours = self.files(onto);
        let mut merged = (*ours).clone();
        let mut conflicts = Vec::new();
        let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for path in paths {
            let (was, is, now) = (before.get(path), after.get(path), ours.get(path));
            if was == is || is == now {
                continue;
            }
            if was != now {
                conflicts.push(path.clone());
                continue;
            }
            match is {
                Some(text) => merged.insert(path.clone(), text.clone()),
                None => merged.remove(path),
            };
        }
        if conflicts.is_empty() { Ok(merged) } else { Err(conflicts) }
    }

    /// See [`rdev_runner::git::rebase`].
    pub(super) fn rebase(&mut self, commit: &CommitId, onto: &CommitId) -> Rebased {
        match self.merged(commit, Some(onto)) {
            Err(paths) => Rebased::Conflict(paths),
            Ok(files) if files == *self.get(onto).files => Rebased::Empty,
            Ok(files) => {
                let message = self.get(commit).message.clone();
                Rebased::Clean(self.make(Some(onto), None, Arc::new(files), &message))
            }
        }
    }
}
