//! Packs: a push sends one, a fetch stores one.

use std::collections::HashSet;
use std::io::Write;

use git2::{Oid, PackBuilder, Repository, Sort};
use tokio_util::sync::CancellationToken;

use super::wire::{Advertised, fetch_pack};
use super::{GitError, Remote};

/// The number of the server's refs that are checked to find objects that it has.
const MAX_HIDDEN: usize = 64;

/// The number of commits that a fetch offers to the server.
const MAX_HAVES: usize = 256;

/// How many ancestors are considered for that.
const MAX_WALKED: usize = 2000;

/// Fetches what `wants` need into the repository. Returns false when the objects are not in it
/// afterwards.
pub(super) fn receive(
    repository: &Repository,
    remote: &Remote,
    server: &Advertised,
    wants: &[Oid],
    cancel: &CancellationToken,
) -> Result<bool, GitError> {
    let doing = "storing what was fetched";
    let broken = |error| GitError::broken(doing, error);
    let haves = haves(repository)?;
    let odb = repository.odb().map_err(broken)?;
    let mut writer = odb.packwriter().map_err(broken)?;
    fetch_pack(remote, server, wants, &haves, cancel, |piece| {
        // libgit2 has the reason, not the I/O error.
        writer.write_all(piece).map_err(|_| broken(git2::Error::last_error(-1)))
    })?;
    writer.commit().map_err(broken)?;
    drop(writer);
    odb.refresh().map_err(broken)?;
    Ok(wants.iter().all(|want| odb.exists(*want)))
}

/// Commits that the repository has, so that the server does not send them: the tips of its refs
/// and some of their ancestors, fewer and fewer.
fn haves(repository: &Repository) -> Result<Vec<Oid>, GitError> {
    let broken = |error| GitError::broken("looking for what is there already", error);
    let mut walk = repository.revwalk().map_err(broken)?;
    walk.set_sorting(Sort::TIME).map_err(broken)?;
    let mut found = Vec::new();
    for reference in repository.references().map_err(broken)? {
        if let Some(id) = reference.map_err(broken)?.target()
            && walk.push(id).is_ok()
            && found.len() < MAX_HAVES
        {
            found.push(id);
        }
    }
    let mut seen: HashSet<Oid> = found.iter().copied().collect();
    let mut next = 0;
    for (n, id) in walk.take(MAX_WALKED).enumerate() {
        // Damage in the history is reported when that part of it is needed.
        let Ok(id) = id else { break };
        if found.len() >= MAX_HAVES {
            break;
        }
        if n >= next {
            next = if n < 32 { n + 1 } else { n + n / 16 };
            if seen.insert(id) {
                found.push(id);
            }
        }
    }
    Ok(found)
}

/// A pack with `commit` and the objects it needs, without those that the server has.
pub(super) fn to_send<'a>(
    repository: &'a Repository,
    commit: Oid,
    server: &Advertised,
    first: &[Option<Oid>],
) -> Result<PackBuilder<'a>, GitError> {
    let broken = |error| GitError::broken("packing the commit", error);
    let mut pack = repository.packbuilder().map_err(broken)?;
    if server.refs.iter().any(|(_, id)| *id == commit) {
        return Ok(pack);
    }
    let odb = repository.odb().map_err(broken)?;
    let mut walk = repository.revwalk().map_err(broken)?;
    walk.set_sorting(Sort::TIME).map_err(broken)?;
    walk.push(commit).map_err(broken)?;
    let parents: Vec<Oid> = repository.find_commit(commit).map_err(broken)?.parent_ids().collect();
    let is_parent = |id: &Oid| parents.contains(id);
    let known = server.refs.iter().map(|(_, id)| *id);
    let candidates = first
        .iter()
        .flatten()
        .copied()
        .chain(known.clone().filter(is_parent))
        .chain(known.filter(|id| !is_parent(id)).take(MAX_HIDDEN));
    for id in candidates.collect::<HashSet<_>>() {
        if odb.exists(id) {
            // Tags of trees and the like cannot be hidden, and need not be.
            let _ = walk.hide(id);
        }
    }
    pack.insert_walk(&mut walk).map_err(broken)?;
    Ok(pack)
}
