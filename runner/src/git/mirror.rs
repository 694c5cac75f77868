//! The mirror cache: one bare repository per repository URL, fetched incrementally.
//!
//! Layout: `<hash of the URL>.<n>.git` with `….lock` (shared by whoever borrows the
//! objects, held alone by whoever removes the mirror), `….fetch` (held by the one who
//! downloads) and `….damaged` (a mark). A damaged mirror that is still
//! borrowed is left alone: the next number is used until it is free.
//!
//! A repository in a folder of this machine needs no mirror: it is one.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use git2::{Oid, Repository};
use rdev_domain::git::{Branch, CommitId, OwnRef, Tip};
use rdev_domain::git_url::GitUrl;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::lock::{self, Mode};
use super::transport::Service;
use super::wire::Advertised;
use super::{GitError, OwnTip, Remote, Workdir, checkout, commit_id, local, pack, tip_of};

/// A repository whose objects an attempt borrows. Keep it for as long as the
/// attempt's repository or its checkout is used: it keeps the cache from removing them.
#[derive(Debug, Clone)]
pub struct Mirror {
    folder: PathBuf,
    cached: Option<Arc<Cached>>,
}

#[derive(Debug)]
struct Cached {
    damage_mark: PathBuf,
    /// Locked, shared, until it is dropped.
    _lock: File,
}

impl Mirror {
    /// The bare repository's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Something in it cannot be read: what that means for the caller. A mirror
    /// in the cache is marked, so that the next fetch replaces it.
    pub(super) fn unreadable(&self, error: git2::Error) -> GitError {
        match &self.cached {
            None => GitError::broken("reading the repository", error),
            Some(cached) => {
                warn!(mirror = %self.folder.display(), %error, "a mirror in the cache is damaged");
                if let Err(error) = fs::write(&cached.damage_mark, error.message()) {
                    return GitError::broken("marking a damaged mirror in the cache", error);
                }
                GitError::MirrorDamaged { source: error.into() }
            }
        }
    }
}

/// What a fetch found.
#[derive(Debug)]
pub struct Fetched {
    /// Where the objects are.
    pub mirror: Mirror,
    /// Where the branch is.
    pub tip: Tip,
    /// The commit to build on: the tip; the fallback branch's tip while the
    /// branch is absent; `None` in an empty repository.
    pub start: Option<CommitId>,
    /// rdev's own refs, below `refs/` and below `refs/heads/`.
    pub own: Vec<OwnTip>,
}

/// Looks where `branch` is and brings what a checkout of it (or of `fallback`,
/// while it is absent) needs into the cache below `cache`, which is kept at
/// `max_cache_bytes` as far as nobody uses what is in it.
///
/// # Errors
/// [`GitError::BranchNotFound`] when there are branches, but neither of the two;
/// [`GitError::Auth`], [`GitError::RepositoryNotFound`], [`GitError::Unreachable`],
/// [`GitError::NotAllowed`], [`GitError::Cancelled`].
pub fn fetch(
    cache: &Path,
    max_cache_bytes: u64,
    remote: &Remote,
    branch: &Branch,
    fallback: &Branch,
    cancel: &CancellationToken,
) -> Result<Fetched, GitError> {
    super::init_process();
    let server = local::advertised(remote, Service::UploadPack, cancel)?;
    let tip = server.find(&branch.full_name());
    let start = tip.or_else(|| server.find(&fallback.full_name()));
    let mut own = Vec::new();
    let mut others = false;
    for (name, id) in &server.refs {
        match OwnRef::parse(name) {
            Some(own_ref) => own.push((own_ref, commit_id(*id))),
            None => others |= name.starts_with("refs/heads/"),
        }
    }
    if start.is_none() && others {
        return Err(GitError::BranchNotFound(fallback.to_string()));
    }
    let mirror = match remote.url.to_folder() {
        Some(folder) => Mirror { folder, cached: None },
        None => cached(cache, max_cache_bytes, remote, &server, branch, start, cancel)?,
    };
    Ok(Fetched { mirror, tip: tip_of(tip), start: start.map(commit_id), own })
}

/// Brings one of rdev's own refs into the attempt's repository; its commit.
///
/// # Errors
/// [`GitError::Moved`] to [`Tip::Absent`] when the ref is gone; as [`fetch`].
pub fn fetch_commit(
    dirs: &Workdir,
    remote: &Remote,
    own: OwnRef,
    cancel: &CancellationToken,
) -> Result<CommitId, GitError> {
    let names = [format!("refs/{}", own.path()), format!("refs/heads/{}", own.path())];
    let find = |server: &Advertised| names.iter().find_map(|name| server.find(name));
    let found = bring(dirs, remote, find, "refs/rdev/own", cancel)?;
    found.map(commit_id).ok_or(GitError::Moved { tip: Tip::Absent })
}

/// Brings the branch as it is now into the attempt's repository.
///
/// # Errors
/// As [`fetch`].
pub fn fetch_tip(
    dirs: &Workdir,
    remote: &Remote,
    branch: &Branch,
    cancel: &CancellationToken,
) -> Result<Tip, GitError> {
    let name = branch.full_name();
    let found = bring(dirs, remote, |server| server.find(&name), "refs/rdev/tip", cancel)?;
    Ok(tip_of(found))
}

/// Brings the ref that `find` picks into the attempt's repository, where `note` keeps it.
fn bring(
    dirs: &Workdir,
    remote: &Remote,
    find: impl Fn(&Advertised) -> Option<Oid>,
    note: &str,
    cancel: &CancellationToken,
) -> Result<Option<Oid>, GitError> {
    let server = local::advertised(remote, Service::UploadPack, cancel)?;
    let Some(wanted) = find(&server) else { return Ok(None) };
    let repository = super::open(dirs)?;
    let broken = |error| GitError::broken("fetching into the attempt's repository", error);
    if !repository.odb().map_err(broken)?.exists(wanted) {
        if remote.url.to_folder().is_some() {
            let why = "the attempt does not borrow from the repository that it fetches from";
            return Err(GitError::broken("fetching into the attempt's repository", why));
        }
        if !pack::receive(&repository, remote, &server, &[wanted], cancel)? {
            return Err(GitError::unreachable(format!("it sent a pack without {wanted}")));
        }
    }
    // A later fetch tells the server of it.
    repository.reference(note, wanted, true, "").map_err(broken)?;
    Ok(Some(wanted))
}

/// The cache's mirror of `remote`, with what `start` needs.
fn cached(
    cache: &Path,
    max_cache_bytes: u64,
    remote: &Remote,
    server: &Advertised,
    branch: &Branch,
    start: Option<Oid>,
    cancel: &CancellationToken,
) -> Result<Mirror, GitError> {
    let cache = std::path::absolute(cache)
        .map_err(|error| GitError::broken("reading the mirror cache", error))?;
    fs::create_dir_all(&cache)
        .map_err(|error| GitError::broken("making the mirror cache", error))?;
    let name = cache_name(&remote.url);
    let mut renewed = false;
    let mut number = 0;
    loop {
        let slot = Slot::new(&cache, &format!("{name}.{number}"));
        let Some(mirror) = slot.borrow(cancel)? else {
            number += 1;
            continue;
        };
        match fill(&slot, &mirror, remote, server, branch, start, cancel) {
            Ok(changed) => {
                if changed {
                    evict(&cache, max_cache_bytes);
                }
                return Ok(mirror);
            }
            // Once: what is damaged again at once has another cause.
            Err(GitError::MirrorDamaged { .. }) if !renewed => renewed = true,
            Err(error) => return Err(error),
        }
    }
}

/// Makes sure that `start` can be read from the mirror; whether anything was downloaded.
fn fill(
    slot: &Slot,
    mirror: &Mirror,
    remote: &Remote,
    server: &Advertised,
    branch: &Branch,
    start: Option<Oid>,
    cancel: &CancellationToken,
) -> Result<bool, GitError> {
    if slot.folder.exists() && has(mirror, start)? {
        return Ok(false);
    }
    let fetching = lock::open(&slot.fetch_lock)?;
    lock::lock(&fetching, Mode::Alone, cancel)?;
    if !slot.folder.exists() {
        create(&slot.folder)?;
    }
    // Somebody else may have fetched it while this waited.
    let Some(wanted) = start.filter(|_| !matches!(has(mirror, start), Ok(true))) else {
        return Ok(false);
    };
    let repository =
        Repository::open_bare(&slot.folder).map_err(|error| mirror.unreadable(error))?;
    let received = pack::receive(&repository, remote, server, &[wanted], cancel);
    let whole = received.map_err(|error| match error {
        GitError::Broken { source, doing } => match source.downcast::<git2::Error>() {
            Ok(error) => mirror.unreadable(*error),
            Err(source) => GitError::Broken { doing, source },
        },
        other => other,
    })?;
    if !whole {
        // Most likely a spoiled pack of the same name is in the way.
        let error = git2::Error::from_str("what was fetched into it cannot be found in it");
        return Err(mirror.unreadable(error));
    }
    let note = format!("refs/tips/{}", hash(branch.as_str()));
    // Whoever was killed while holding the lock for fetching left this behind.
    let _ = fs::remove_file(slot.folder.join(format!("{note}.lock")));
    repository.reference(&note, wanted, true, "").map_err(|error| mirror.unreadable(error))?;
    Ok(true)
}

/// Whether the mirror has a commit. One that is there but cannot be read is damage.
fn has(mirror: &Mirror, commit: Option<Oid>) -> Result<bool, GitError> {
    let read = |error| mirror.unreadable(error);
    let repository = Repository::open_bare(&mirror.folder).map_err(read)?;
    let Some(commit) = commit else { return Ok(true) };
    if !repository.odb().map_err(read)?.exists(commit) {
        return Ok(false);
    }
    let tree = repository.find_commit(commit).and_then(|commit| commit.tree()).map_err(read)?;
    drop(tree);
    Ok(true)
}

/// The files of one mirror.
struct Slot {
    folder: PathBuf,
    lock: PathBuf,
    fetch_lock: PathBuf,
    damage_mark: PathBuf,
}

impl Slot {
    fn new(cache: &Path, name: &str) -> Self {
        let path = |end: &str| cache.join(format!("{name}.{end}"));
        Self {
            folder: path("git"),
            lock: path("lock"),
            fetch_lock: path("fetch"),
            damage_mark: path("damaged"),
        }
    }

    /// Shares the mirror's lock. `None` when it is damaged and somebody else still borrows from it.
    fn borrow(&self, cancel: &CancellationToken) -> Result<Option<Mirror>, GitError> {
        let file = lock::open(&self.lock)?;
        lock::lock(&file, Mode::Shared, cancel)?;
        while self.damage_mark.exists() {
            if !lock::lock_unused(&file)? {
                return Ok(None);
            }
            info!(mirror = %self.folder.display(), "removing a damaged mirror");
            self.remove().map_err(|error| GitError::broken("removing a damaged mirror", error))?;
            lock::lock(&file, Mode::Shared, cancel)?;
        }
        lock::touch(&file);
        let cached = Cached { damage_mark: self.damage_mark.clone(), _lock: file };
        Ok(Some(Mirror { folder: self.folder.clone(), cached: Some(Arc::new(cached)) }))
    }

    /// Removes the mirror; only for whoever holds its lock alone.
    fn remove(&self) -> std::io::Result<()> {
        let gone = |result: std::io::Result<()>| match result {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        gone(fs::remove_dir_all(&self.folder))?;
        gone(fs::remove_file(&self.damage_mark))
    }
}

/// Makes an empty mirror; it appears whole or not at all.
fn create(folder: &Path) -> Result<(), GitError> {
    let broken = |error| GitError::broken("making a mirror in the cache", error);
    let making = folder.with_extension("new");
    match fs::remove_dir_all(&making) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(broken(error)),
        _ => {}
    }
    checkout::skeleton(&making, &checkout::Skeleton::bare()).map_err(broken)?;
    fs::rename(&making, folder).map_err(broken)
}

/// Removes the mirrors that were not used for longest until the cache is small
/// enough. One that somebody borrows from stays. Failing, it says so and lets the cache be.
fn evict(cache: &Path, max_bytes: u64) {
    if let Err(error) = try_evict(cache, max_bytes) {
        let error: &dyn std::error::Error = &error;
        warn!(error, "the mirror cache was not made smaller");
    }
}

fn try_evict(cache: &Path, max_bytes: u64) -> Result<(), GitError> {
    let broken = |error| GitError::broken("looking through the mirror cache", error);
    let mut mirrors: Vec<(SystemTime, u64, Slot)> = Vec::new();
    for entry in fs::read_dir(cache).map_err(broken)? {
        let path = entry.map_err(broken)?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".lock"));
        let Some(name) = name else { continue };
        let slot = Slot::new(cache, name);
        let used = fs::metadata(&path).and_then(|data| data.modified()).map_err(broken)?;
        let bytes = size(&slot.folder).map_err(broken)?;
        mirrors.push((used, bytes, slot));
    }
    mirrors.sort_by_key(|(used, _, _)| *used);
    let mut total: u64 = mirrors.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, slot) in mirrors {
        let damaged = slot.damage_mark.exists();
        if (total <= max_bytes && !damaged) || bytes == 0 {
            continue;
        }
        let file = lock::open(&slot.lock)?;
        if lock::lock_unused(&file)? {
            info!(mirror = %slot.folder.display(), bytes, "removing a mirror from the cache");
            slot.remove().map_err(broken)?;
            total -= bytes;
        }
    }
    Ok(())
}

/// The bytes of all files below a folder; 0 when it is not there.
fn size(folder: &Path) -> std::io::Result<u64> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut total = 0;
    for entry in entries {
        let entry = entry?;
        // Something may be removed while this looks: a pack's temporary file.
        match entry.metadata() {
            Ok(data) if data.is_dir() => total += size(&entry.path())?,
            Ok(data) => total += data.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

fn cache_name(url: &GitUrl) -> String {
    hash(url.as_str())
}

/// The first 24 hexadecimal digits of a text's SHA-256.
fn hash(text: &str) -> String {
    let digest = Sha256::digest(text);
    digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}
