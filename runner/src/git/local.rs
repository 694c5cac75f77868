//! Repositories in a folder of this machine, read and written without a server.
//!
//! A ref moves by comparing and swapping under git's own lock, so that any number
//! of processes (and people with `git push`) may race. Hooks of such a
//! repository do not run: what must be enforced for rdev is enforced before.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use git2::{ErrorCode, ObjectType, Odb, OdbLookupFlags, Oid, Repository};
use rdev_domain::git::{Branch, CommitId};
use tokio_util::sync::CancellationToken;

use super::ref_locks::{self, Exchange};
use super::transport::Service;
use super::wire::{self, Advertised};
use super::{Expect, GitError, Remote, tip_of};

/// Up to this many objects are stored one by one, more of them as a pack, as git does.
const LOOSE_LIMIT: usize = 100;

/// How long to wait for a ref's lock. Its holder only writes one small file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

fn writing(error: git2::Error) -> GitError {
    GitError::broken("writing to the local repository", error)
}

/// The remote's refs, on a server or in a folder.
pub(super) fn advertised(
    remote: &Remote,
    service: Service,
    cancel: &CancellationToken,
) -> Result<Advertised, GitError> {
    let Some(folder) = remote.url.to_folder() else {
        return wire::advertised(remote, service, cancel);
    };
    super::init_process();
    remote.url.check(&remote.policy)?;
    let repository = open(&folder)?;
    ref_locks::recover(repository.path());
    let mut found = Advertised::default();
    let reading = |error| GitError::broken("reading the local repository", error);
    for reference in repository.references().map_err(reading)? {
        let reference = reference.map_err(reading)?;
        if let (Ok(name), Some(id)) = (reference.name(), reference.target()) {
            found.refs.push((name.to_owned(), id));
        }
    }
    for (name, id) in ref_locks::held_back(repository.path()) {
        if found.refs.iter().all(|(other, _)| *other != name) {
            found.refs.push((name, id));
        }
    }
    Ok(found)
}

/// Which of `commits` the log of a branch of a repository in a folder names. On a server nobody can
/// tell: `None`.
///
/// # Errors
/// [`GitError::Broken`] when the log cannot be read.
pub fn in_log(
    remote: &Remote,
    branch: &Branch,
    commits: &[CommitId],
) -> Result<Option<CommitId>, GitError> {
    let Some(folder) = remote.url.to_folder() else { return Ok(None) };
    let ids = commits.iter().map(super::oid).collect::<Result<Vec<_>, _>>()?;
    Ok(ref_locks::logged(&folder, &branch.full_name(), &ids)?.map(super::commit_id))
}

fn open(folder: &Path) -> Result<Repository, GitError> {
    Repository::open_bare(folder).map_err(|error| match error.code() {
        ErrorCode::NotFound => GitError::RepositoryNotFound,
        _ => GitError::broken("opening the local repository", error),
    })
}

/// Copies what a commit needs from `source`, then moves the one ref and deletes the other, all or
/// nothing.
pub(super) fn exchange(
    source: &Repository,
    folder: &Path,
    exchange: &Exchange<'_>,
) -> Result<(), GitError> {
    let repository = open(folder)?;
    copy_objects(source, &repository, exchange.to)?;
    sync(folder)?;
    if let Some(other) = in_the_way(&repository, exchange.target) {
        let reason = format!("{other} is in the way of {}", exchange.target);
        return Err(GitError::Rejected { reason });
    }
    ref_locks::exchange(&repository, exchange)?;
    sync(folder).map_err(|error| GitError::Unreachable {
        reason: format!("{} has moved, but it may not be on disk: {error}", exchange.target),
        in_doubt: true,
    })
}

/// Copies what `commit` needs from `source`, then points `target` at it.
pub(super) fn push(
    source: &Repository,
    folder: &Path,
    target: &str,
    expect: &Expect,
    commit: Oid,
) -> Result<(), GitError> {
    let repository = open(folder)?;
    copy_objects(source, &repository, commit)?;
    // A delivered commit must survive a power cut, as its record in the store does: objects are on
    // disk before a ref points at them, and a branch before anybody is notified.
    sync(folder)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        let moved = match expect {
            Expect::Any => repository.reference(target, commit, true, "push"),
            Expect::Exactly(tip) | Expect::Forward(tip) => {
                let old = match tip {
                    rdev_domain::git::Tip::Absent => Oid::ZERO_SHA1,
                    rdev_domain::git::Tip::Commit(id) => super::oid(id)?,
                };
                repository.reference_matching(target, commit, true, old, "push")
            }
        };
        let Err(error) = moved else {
            return if *expect == Expect::Any { Ok(()) } else { sync(folder) };
        };
        let now = tip_of(repository.refname_to_id(target).ok());
        match expect {
            Expect::Exactly(tip) | Expect::Forward(tip) if now != *tip => {
                return Err(GitError::Moved { tip: now });
            }
            _ => {}
        }
        match error.code() {
            ErrorCode::Locked | ErrorCode::Modified if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            ErrorCode::Locked | ErrorCode::Modified => {
                return Err(GitError::unreachable(format!("{target} stays locked")));
            }
            _ => {
                return Err(match in_the_way(&repository, target) {
                    Some(other) => {
                        GitError::Rejected { reason: format!("{other} is in the way of {target}") }
                    }
                    None => writing(error),
                });
            }
        }
    }
}

/// Waits until everything that was written to the folder's file system is on disk.
fn sync(folder: &Path) -> Result<(), GitError> {
    let failed = |error| GitError::broken("writing the local repository to disk", error);
    let folder = std::fs::File::open(folder).map_err(failed)?;
    rustix::fs::syncfs(&folder).map_err(|error| failed(error.into()))
}

/// A ref whose name conflicts with `target`: there cannot be both `a` and `a/b`.
fn in_the_way(repository: &Repository, target: &str) -> Option<String> {
    let below = |short: &str, long: &str| {
        long.strip_prefix(short).is_some_and(|rest| rest.starts_with('/'))
    };
    let names = repository.references().ok()?.flatten();
    let mut names = names.filter_map(|reference| Some(reference.name().ok()?.to_owned()));
    names.find(|name| below(name, target) || below(target, name))
}

/// Removes a ref if it exists.
pub(super) fn delete(folder: &Path, name: &str) -> Result<(), GitError> {
    let repository = open(folder)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        let deleted = repository.find_reference(name).and_then(|mut reference| reference.delete());
        match deleted.map_err(|error| (error.code(), error)) {
            Ok(()) | Err((ErrorCode::NotFound, _)) => return Ok(()),
            Err((ErrorCode::Locked | ErrorCode::Modified, _)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err((ErrorCode::Locked | ErrorCode::Modified, _)) => {
                return Err(GitError::unreachable(format!("{name} stays locked")));
            }
            Err((_, error)) => return Err(writing(error)),
        }
    }
}

/// Copies the objects of `commit` that `to` lacks. An object is copied after those that it refers
/// to, so that every object there is complete, also after a crash.
fn copy_objects(from: &Repository, to: &Repository, commit: Oid) -> Result<(), GitError> {
    let (source, sink) = (from.odb().map_err(writing)?, to.odb().map_err(writing)?);
    let missing = missing(from, &sink, commit)?;
    if missing.len() <= LOOSE_LIMIT {
        for id in missing {
            let object = source.read(id).map_err(writing)?;
            sink.write(object.kind(), object.data()).map_err(writing)?;
        }
        return Ok(());
    }
    let mut pack = from.packbuilder().map_err(writing)?;
    for id in missing {
        pack.insert_object(id, None).map_err(writing)?;
    }
    let mut writer = sink.packwriter().map_err(writing)?;
    let mut failed = None;
    let packed = pack.foreach(|piece| match writer.write_all(piece) {
        Ok(()) => true,
        Err(_) => {
            // libgit2 has the reason, not the I/O error.
            failed = Some(git2::Error::last_error(-1));
            false
        }
    });
    if let Some(error) = failed {
        return Err(writing(error));
    }
    packed.map_err(writing)?;
    writer.commit().map_err(writing)?;
    Ok(())
}

/// The objects that `commit` needs and `sink` lacks, each after those that it refers to.
fn missing(from: &Repository, sink: &Odb<'_>, commit: Oid) -> Result<Vec<Oid>, GitError> {
    enum Visit {
        Enter(Oid, ObjectType),
        Leave(Oid),
    }
    let mut found = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut stack = vec![Visit::Enter(commit, ObjectType::Commit)];
    while let Some(visit) = stack.pop() {
        let (id, kind) = match visit {
            Visit::Leave(id) => {
                found.push(id);
                continue;
            }
            Visit::Enter(id, kind) => (id, kind),
        };
        if !seen.insert(id) || sink.exists_ext(id, OdbLookupFlags::NO_REFRESH) {
            continue;
        }
        stack.push(Visit::Leave(id));
        match kind {
            ObjectType::Commit => {
                let commit = from.find_commit(id).map_err(writing)?;
                stack.extend(commit.parent_ids().map(|id| Visit::Enter(id, ObjectType::Commit)));
                stack.push(Visit::Enter(commit.tree_id(), ObjectType::Tree));
            }
            ObjectType::Tree => {
                let tree = from.find_tree(id).map_err(writing)?;
                let below = tree.iter().filter_map(|entry| Some((entry.id(), entry.kind()?)));
                // A submodule's commit lives in another repository.
                let below = below.filter(|(_, kind)| *kind != ObjectType::Commit);
                stack.extend(below.map(|(id, kind)| Visit::Enter(id, kind)));
            }
            _ => {}
        }
    }
    Ok(found)
}
