//! Commits and rebases.

use git2::{MergeOptions, Repository, Signature, Time};
use rdev_domain::git::CommitId;
use rdev_domain::time::Timestamp;

use super::{Author, GitError, TreeId, Workdir, commit_id, oid};

/// The number of conflicting paths in a message.
const MAX_NAMED: usize = 20;

/// The result of a rebase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebased {
    /// The same change, as a commit on top of the new tip.
    Clean(CommitId),
    /// It does not apply to these files; at most 20 are named.
    Conflict(Vec<String>),
    /// The new tip already has the same change.
    Empty,
}

/// Makes a commit of a tree, in the attempt's repository only.
///
/// # Errors
/// [`GitError::Broken`], for instance when the author's name holds a `<`.
pub fn commit(
    dirs: &Workdir,
    tree: &TreeId,
    parent: Option<&CommitId>,
    message: &str,
    author: &Author,
    now: Timestamp,
) -> Result<CommitId, GitError> {
    write(&super::open(dirs)?, tree.0, parent, message, author, now)
}

fn write(
    repository: &Repository,
    tree: git2::Oid,
    parent: Option<&CommitId>,
    message: &str,
    author: &Author,
    now: Timestamp,
) -> Result<CommitId, GitError> {
    let broken = |error| GitError::broken("committing", error);
    let when = Time::new(now.as_millis().div_euclid(1000), 0);
    let signature = Signature::new(&author.name, &author.email, &when).map_err(broken)?;
    let tree = repository.find_tree(tree).map_err(broken)?;
    let parent = match parent {
        Some(id) => Some(repository.find_commit(oid(id)?).map_err(broken)?),
        None => None,
    };
    let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
    let id = repository
        .commit(None, &signature, &signature, message, &tree, &parents)
        .map_err(broken)?;
    Ok(commit_id(id))
}

/// The commit's first parent.
///
/// # Errors
/// [`GitError::Broken`] when the commit is not in the attempt's repository.
pub fn parent(dirs: &Workdir, commit: &CommitId) -> Result<Option<CommitId>, GitError> {
    let repository = super::open(dirs)?;
    let commit = repository
        .find_commit(oid(commit)?)
        .map_err(|error| GitError::broken("reading a commit", error))?;
    Ok(commit.parent_ids().next().map(commit_id))
}

/// Applies the changes of `commit` against its parent (against nothing, when it has none) to
/// `onto`, which must be in the attempt's repository. The checkout does not change.
///
/// # Errors
/// [`GitError::Broken`].
pub fn rebase(
    dirs: &Workdir,
    commit: &CommitId,
    onto: &CommitId,
    author: &Author,
    now: Timestamp,
) -> Result<Rebased, GitError> {
    let broken = |error| GitError::broken("rebasing", error);
    let repository = super::open(dirs)?;
    let ours = repository.find_commit(oid(onto)?).map_err(broken)?;
    let theirs = repository.find_commit(oid(commit)?).map_err(broken)?;
    let before = match theirs.parents().next() {
        Some(parent) => parent.tree().map_err(broken)?,
        None => {
            let empty = repository.treebuilder(None).and_then(|builder| builder.write());
            empty.and_then(|id| repository.find_tree(id)).map_err(broken)?
        }
    };
    let (our_tree, their_tree) = (ours.tree().map_err(broken)?, theirs.tree().map_err(broken)?);
    let options = MergeOptions::new();
    let mut merged =
        repository.merge_trees(&before, &our_tree, &their_tree, Some(&options)).map_err(broken)?;
    if merged.has_conflicts() {
        let mut paths = Vec::new();
        for conflict in merged.conflicts().map_err(broken)? {
            let conflict = conflict.map_err(broken)?;
            let entry = conflict.our.or(conflict.their).or(conflict.ancestor);
            if let Some(entry) = entry {
                paths.push(String::from_utf8_lossy(&entry.path).into_owned());
            }
        }
        paths.sort();
        paths.dedup();
        paths.truncate(MAX_NAMED);
        return Ok(Rebased::Conflict(paths));
    }
    let tree = merged.write_tree_to(&repository).map_err(broken)?;
    if tree == our_tree.id() {
        return Ok(Rebased::Empty);
    }
    let message = String::from_utf8_lossy(theirs.message_raw_bytes());
    write(&repository, tree, Some(onto), &message, author, now).map(Rebased::Clean)
}
