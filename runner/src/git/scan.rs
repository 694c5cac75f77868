//! Searches a branch's history for the commit of a lineage.

use git2::{Oid, Repository, Sort};
use rdev_domain::git::{CommitId, Tip};
use rdev_domain::ids::TaskId;

use super::{GitError, Workdir, commit_id, oid};

/// The result of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scan {
    /// The lineage's commit.
    Found(CommitId),
    /// There is no commit of the lineage.
    NotFound,
    /// The history no longer contains the commit that the search starts from.
    NotAncestor,
}

/// Searches `base..tip` for a commit with `Rdev-Lineage: <lineage>` in the last
/// paragraph of its message; with an absent base, the whole history of `tip`.
/// `tip` must be in the attempt's repository ([`super::look`]).
///
/// # Errors
/// [`GitError::Broken`].
pub fn find_lineage(
    dirs: &Workdir,
    lineage: TaskId,
    base: &Tip,
    tip: &CommitId,
) -> Result<Scan, GitError> {
    let broken = |error| GitError::broken("searching the branch's history", error);
    let repository = super::open(dirs)?;
    let tip = oid(tip)?;
    let mut walk = repository.revwalk().map_err(broken)?;
    walk.set_sorting(Sort::TIME).map_err(broken)?;
    walk.push(tip).map_err(broken)?;
    if let Tip::Commit(base) = base {
        let base = oid(base)?;
        if !is_there(&repository, base)? {
            // The whole history of `tip` is here unless something is damaged. Then this walk fails,
            // so that damage does not count as a rewritten history.
            walk.try_for_each(|id| id.map(|_| ())).map_err(broken)?;
            return Ok(Scan::NotAncestor);
        }
        if !holds(&repository, base, tip)? {
            return Ok(Scan::NotAncestor);
        }
        walk.hide(base).map_err(broken)?;
    }
    let trailer = format!("Rdev-Lineage: {lineage}");
    for id in walk {
        let id = id.map_err(broken)?;
        let commit = repository.find_commit(id).map_err(broken)?;
        let message = String::from_utf8_lossy(commit.message_raw_bytes());
        if last_paragraph(&message).any(|line| line.trim_end() == trailer) {
            return Ok(Scan::Found(commit_id(id)));
        }
    }
    Ok(Scan::NotFound)
}

/// Whether `commit` is `tip` or an ancestor of it. `tip` must be in the
/// attempt's repository; a `commit` that is not there is not an ancestor.
///
/// # Errors
/// [`GitError::Broken`].
pub fn contains(dirs: &Workdir, commit: &CommitId, tip: &CommitId) -> Result<bool, GitError> {
    let repository = super::open(dirs)?;
    let (commit, tip) = (oid(commit)?, oid(tip)?);
    repository
        .find_commit(tip)
        .map_err(|error| GitError::broken("searching the branch's history", error))?;
    Ok(is_there(&repository, commit)? && holds(&repository, commit, tip)?)
}

/// Whether the attempt's repository has a commit. One that cannot be read is an error.
pub(super) fn is_there(repository: &Repository, commit: Oid) -> Result<bool, GitError> {
    match repository.find_commit(commit) {
        Ok(_) => Ok(true),
        Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(false),
        Err(error) => Err(GitError::broken("reading a commit", error)),
    }
}

/// Whether `commit` is `tip` or an ancestor of it; both are there.
pub(super) fn holds(repository: &Repository, commit: Oid, tip: Oid) -> Result<bool, GitError> {
    let below = || repository.graph_descendant_of(tip, commit);
    Ok(commit == tip
        || below().map_err(|error| GitError::broken("searching the branch's history", error))?)
}

/// The lines of a message's last paragraph.
fn last_paragraph(message: &str) -> impl Iterator<Item = &str> {
    let lines = message.trim_end().lines();
    lines.rev().take_while(|line| !line.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_paragraph_counts() {
        let last = |message| last_paragraph(message).collect::<Vec<_>>();
        assert_eq!(last("a\n\nb\nc\n"), ["c", "b"]);
        assert_eq!(last("a\r\n\r\nb\r\n\r\n"), ["b"]);
        assert_eq!(last("a\n \nb\n\n\n"), ["b"]);
        assert_eq!(last("a"), ["a"]);
        assert!(last("\n\n").is_empty());
    }
}
