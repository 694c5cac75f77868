//! The lock files by which a runner moves a branch and deletes a ticket in one step
//! (`runner/src/git/ref_locks.rs`). They say whether the commit of a process that was killed has
//! landed, so they must not be removed as stale, nor left out of a backup. The runner ends what
//! they say when it next lists the refs.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where rdev's own refs are.
const OWN_REFS: &str = "refs/rdev";

/// Whether a name is that of a lock file.
pub(crate) fn is_lock(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "lock")
}

/// The lock that belongs to the lock of a ticket: that of the ref that moves.
pub(crate) struct Partner {
    /// Relative to the repository.
    pub(crate) name: PathBuf,
    /// The commit that the ref is to get. A lock with another content is somebody else's.
    commit: String,
}

impl Partner {
    /// Whether a file of that name, with this content, is the lock.
    pub(crate) fn is(&self, content: &[u8]) -> bool {
        content.trim_ascii_end() == self.commit.as_bytes()
    }
}

/// The partner of a ticket's lock. `None`: the file is no such lock. `name` is relative to the
/// repository.
pub(crate) fn partner(name: &Path, content: &[u8]) -> Option<Partner> {
    if !is_lock(name) || !name.starts_with(OWN_REFS) {
        return None;
    }
    let mut words = std::str::from_utf8(content).ok()?.strip_prefix("rdev ")?.split_whitespace();
    let (_stage, commit, target) = (words.next()?, words.next()?, words.next()?);
    Some(Partner { name: PathBuf::from(format!("{target}.lock")), commit: commit.to_owned() })
}

/// The locks in a repository that are to stay, relative to it.
pub(super) fn of_moves(repository: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![PathBuf::from(OWN_REFS)];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(repository.join(&folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let name = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(name);
            } else if is_lock(&name)
                && let Some(partner) = partner(&name, &fs::read(entry.path())?)
            {
                found.insert(name);
                if fs::read(repository.join(&partner.name)).is_ok_and(|lock| partner.is(&lock)) {
                    found.insert(partner.name);
                }
            }
        }
    }
    Ok(found)
}
