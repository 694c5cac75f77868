//! The mirror cache: one bare repository per repository URL, fetched incrementally.
//!
//! Layout: `<hash of the URL>.<n>.git` with `….lock` (shared by everyone who borrows the
//! objects, exclusive for removing the mirror), `….fetch` (exclusive for downloading) and
//! `….damaged` (a mark). A damaged mirror that is still borrowed stays: the next number is used
//! until it is free.
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
use rdev_removal::remove_tree;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::lock::{self, Mode};
use super::transport::Service;
use super::wire::Advertised;
use super::{
    GitError, OwnTip, Remote, Workdir, checkout, commit_id, leftovers, local, pack, tip_of,
};

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
    /// A repository in a folder that no cache removes: it is its own mirror.
    pub fn of_folder(folder: PathBuf) -> Self {
        Self { folder, cached: None }
    }

    /// The bare repository's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The error for a repository that cannot be read. A mirror in the cache is marked as damaged,
    /// so that the next fetch replaces it.
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

/// The result of a fetch.
#[derive(Debug)]
pub struct Fetched {
    /// Has the objects.
    pub mirror: Mirror,
    /// The tip of the branch.
    pub tip: Tip,
    /// The commit to start from: the tip of the branch, or the tip of the base branch while the
    /// branch does not exist. `None`: the repository is empty.
    pub start: Option<CommitId>,
    /// rdev's own refs, below `refs/` and below `refs/heads/`.
    pub own: Vec<OwnTip>,
    /// Those of them that are branches: the server accepts no other refs.
    pub own_branches: Vec<OwnRef>,
    /// Whether the repository has any branch.
    pub has_branches: bool,
}

impl Fetched {
    /// Itself, if there is something to start from or the repository is empty.
    ///
    /// # Errors
    /// [`GitError::BranchNotFound`] when there are branches, but neither the wanted one nor `base`.
    pub fn with_start(self, base: &Branch) -> Result<Self, GitError> {
        if self.start.is_none() && self.has_branches {
            return Err(GitError::BranchNotFound(base.to_string()));
        }
        Ok(self)
    }
}

/// Finds the tip of `branch` and fetches what a checkout of it needs into the cache below `cache`.
/// While the branch does not exist, `base` takes its place. Mirrors that nobody uses are removed
/// until the cache has at most `max_cache_bytes`.
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
    base: &Branch,
    cancel: &CancellationToken,
) -> Result<Fetched, GitError> {
    fetch_if_there(cache, max_cache_bytes, remote, branch, base, cancel)?.with_start(base)
}

/// As [`fetch`], but it is no error when there are branches and neither of the two.
///
/// # Errors
/// As [`fetch`], but for [`GitError::BranchNotFound`].
pub fn fetch_if_there(
    cache: &Path,
    max_cache_bytes: u64,
    remote: &Remote,
    branch: &Branch,
    base: &Branch,
    cancel: &CancellationToken,
) -> Result<Fetched, GitError> {
    super::init_process();
    let server = local::advertised(remote, Service::UploadPack, cancel)?;
    let tip = server.find(&branch.full_name());
    let start = tip.or_else(|| server.find(&base.full_name()));
    let own = own_refs(&server);
    let branches = server.refs.iter().filter(|(name, _)| name.starts_with("refs/heads/"));
    let own_branches = branches.filter_map(|(name, _)| OwnRef::parse(name)).collect();
    let has_branches = server
        .refs
        .iter()
        .any(|(name, _)| name.starts_with("refs/heads/") && OwnRef::parse(name).is_none());
    let mirror = match remote.url.to_folder() {
        Some(folder) => Mirror::of_folder(folder),
        None => {
            let download = Download { remote, server: &server, branch, start, cancel };
            cached(cache, max_cache_bytes, &download)?
        }
    };
    let (tip, start) = (tip_of(tip), start.map(commit_id));
    Ok(Fetched { mirror, tip, start, own, own_branches, has_branches })
}

/// Fetches one of rdev's own refs into the attempt's repository and returns its commit.
///
/// # Errors
/// [`GitError::Moved`] to [`Tip::Absent`] when the ref is gone; as [`fetch`].
pub fn fetch_commit(
    dirs: &Workdir,
    remote: &Remote,
    own: OwnRef,
    cancel: &CancellationToken,
) -> Result<CommitId, GitError> {
    let names = super::own_names(own);
    let find = |server: &Advertised| names.iter().find_map(|name| server.find(name));
    let found = fetch_ref(dirs, remote, find, "refs/rdev/own", cancel)?;
    found.map(commit_id).ok_or(GitError::Moved { tip: Tip::Absent })
}

/// The branch and rdev's own refs at one moment.
#[derive(Debug)]
pub struct Seen {
    /// The tip of the branch; its commit is in the attempt's repository.
    pub tip: Tip,
    /// rdev's own refs, below `refs/` and below `refs/heads/`.
    pub own: Vec<OwnTip>,
}

/// Looks at a branch and at rdev's own refs, in one list, and fetches the branch into the attempt's
/// repository.
///
/// # Errors
/// As [`fetch`].
pub fn look(
    dirs: &Workdir,
    remote: &Remote,
    branch: &Branch,
    cancel: &CancellationToken,
) -> Result<Seen, GitError> {
    let (name, mut own) = (branch.full_name(), Vec::new());
    let find = |server: &Advertised| {
        own = own_refs(server);
        server.find(&name)
    };
    let tip = tip_of(fetch_ref(dirs, remote, find, "refs/rdev/tip", cancel)?);
    Ok(Seen { tip, own })
}

/// Lists rdev's own refs of a repository.
///
/// # Errors
/// As [`fetch`].
pub fn list_own(remote: &Remote, cancel: &CancellationToken) -> Result<Vec<OwnTip>, GitError> {
    Ok(own_refs(&local::advertised(remote, Service::UploadPack, cancel)?))
}

/// rdev's own refs on a server.
fn own_refs(server: &Advertised) -> Vec<OwnTip> {
    let of = |(name, id): &(String, Oid)| Some((OwnRef::parse(name)?, commit_id(*id)));
    server.refs.iter().filter_map(of).collect()
}

/// Fetches the ref that `find` picks into the attempt's repository. The ref `note` keeps it there.
fn fetch_ref(
    dirs: &Workdir,
    remote: &Remote,
    find: impl FnOnce(&Advertised) -> Option<Oid>,
    note: &str,
    cancel: &CancellationToken,
) -> Result<Option<Oid>, GitError> {
    let server = local::advertised(remote, Service::UploadPack, cancel)?;
    let Some(id) = find(&server) else { return Ok(None) };
    let repository = super::open(dirs)?;
    let broken = |error| GitError::broken("fetching into the attempt's repository", error);
    if !repository.odb().map_err(broken)?.exists(id) {
        if remote.url.to_folder().is_some() {
            let reason = "the attempt does not borrow from the repository that it fetches from";
            return Err(GitError::broken("fetching into the attempt's repository", reason));
        }
        if !pack::receive(&repository, remote, &server, &[id], cancel)? {
            return Err(GitError::unreachable(format!("it sent a pack without {id}")));
        }
    }
    // A later fetch offers it to the server.
    repository.reference(note, id, true, "").map_err(broken)?;
    Ok(Some(id))
}

/// What a mirror has to contain, and where it comes from.
#[derive(Clone, Copy)]
struct Download<'a> {
    remote: &'a Remote,
    server: &'a Advertised,
    branch: &'a Branch,
    /// The commit to fetch; `None` in an empty repository.
    start: Option<Oid>,
    cancel: &'a CancellationToken,
}

/// The mirror of a remote in the cache, with what `start` needs.
fn cached(cache: &Path, max_cache_bytes: u64, download: &Download<'_>) -> Result<Mirror, GitError> {
    let cache = std::path::absolute(cache)
        .map_err(|error| GitError::broken("reading the mirror cache", error))?;
    fs::create_dir_all(&cache)
        .map_err(|error| GitError::broken("making the mirror cache", error))?;
    let name = cache_name(&download.remote.url);
    let mut renewed = false;
    let mut number = 0;
    loop {
        let slot = Slot::new(&cache, &format!("{name}.{number}"));
        let Some(mirror) = slot.borrow(download.cancel)? else {
            number += 1;
            continue;
        };
        match fill(&slot, &mirror, download) {
            Ok(changed) => {
                if changed {
                    evict(&cache, max_cache_bytes);
                }
                return Ok(mirror);
            }
            // Only once: a mirror that is damaged again at once has another cause.
            Err(GitError::MirrorDamaged { .. }) if !renewed => renewed = true,
            Err(error) => return Err(error),
        }
    }
}

/// Downloads `start` into the mirror unless it is there. Returns whether it downloaded anything.
fn fill(slot: &Slot, mirror: &Mirror, download: &Download<'_>) -> Result<bool, GitError> {
    let Download { remote, server, branch, start, cancel } = *download;
    if slot.folder.exists() && has(mirror, start)? {
        return Ok(false);
    }
    let fetching = lock::open(&slot.fetch_lock)?;
    lock::lock(&fetching, Mode::Exclusive, cancel)?;
    if !slot.folder.exists() {
        create(&slot.folder)?;
    }
    // Another process may have fetched it meanwhile.
    let Some(id) = start.filter(|_| !matches!(has(mirror, start), Ok(true))) else {
        return Ok(false);
    };
    let repository =
        Repository::open_bare(&slot.folder).map_err(|error| mirror.unreadable(error))?;
    let received = pack::receive(&repository, remote, server, &[id], cancel);
    let whole = received.map_err(|error| match error {
        GitError::Broken { source, doing } => match source.downcast::<git2::Error>() {
            Ok(error) => mirror.unreadable(*error),
            Err(source) => GitError::Broken { doing, source },
        },
        other => other,
    })?;
    if !whole {
        // Most likely a damaged pack of the same name is in the way.
        let error = git2::Error::from_str("what was fetched into it cannot be found in it");
        return Err(mirror.unreadable(error));
    }
    let note = format!("refs/tips/{}", hash(branch.as_str()));
    // A process that was killed while it fetched has left this file.
    let _ = fs::remove_file(slot.folder.join(format!("{note}.lock")));
    repository.reference(&note, id, true, "").map_err(|error| mirror.unreadable(error))?;
    Ok(true)
}

/// Whether the mirror has a commit. A commit that is there but cannot be read means damage.
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

    /// Shares the mirror's lock. `None`: it is damaged and another attempt still borrows from it.
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

    /// Removes the mirror. The caller must have its lock exclusively.
    fn remove(&self) -> std::io::Result<()> {
        let ignore_missing = |result: std::io::Result<()>| match result {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        leftovers::remove_mirror(&self.folder)?;
        ignore_missing(fs::remove_file(&self.damage_mark))
    }
}

/// Makes an empty mirror, atomically.
fn create(folder: &Path) -> Result<(), GitError> {
    let broken = |error| GitError::broken("making a mirror in the cache", error);
    let making = folder.with_extension(leftovers::UNFINISHED);
    remove_tree(&making).map_err(|error| broken(error.into()))?;
    checkout::skeleton(&making, &checkout::Skeleton::bare()).map_err(broken)?;
    fs::rename(&making, folder).map_err(broken)
}

/// Removes the least recently used mirrors until the cache is small enough. Mirrors that are in use
/// stay. A failure is logged and does not stop the build.
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
        // Files may disappear meanwhile, such as the temporary file of a pack.
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
    digest[..12].iter().map(|byte| format!("{byte:02x}")).collect()
}
