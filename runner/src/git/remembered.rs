//! Remembers what was learned about repositories: that their server accepts no refs outside
//! `refs/heads`, or lets no ref be deleted.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rdev_domain::git_url::GitUrl;
use sha2::{Digest, Sha256};
use tracing::warn;

/// A set of repositories. Files below the cache folder keep them for the next process.
pub(crate) struct Remembered {
    folder: PathBuf,
    known: Mutex<BTreeSet<String>>,
}

/// Where the repositories are remembered whose pushes are not atomic: one file each below a cache
/// folder, with the URL in it.
pub fn not_atomic_folder(cache: &Path) -> PathBuf {
    cache.join("not-atomic")
}

impl Remembered {
    pub(crate) fn new(folder: PathBuf) -> Self {
        let names = fs::read_dir(&folder).into_iter().flatten().flatten();
        let known = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        Self { folder, known: Mutex::new(known) }
    }

    pub(crate) fn contains(&self, url: &GitUrl) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&file_name(url))
    }

    pub(crate) fn insert(&self, url: &GitUrl) {
        if self.contains(url) {
            return;
        }
        let name = file_name(url);
        let path = self.folder.join(&name);
        let written = fs::create_dir_all(&self.folder).and_then(|()| fs::write(path, url.as_str()));
        if let Err(error) = written {
            warn!(%error, "what was learned about a git server was not recorded; the next process learns it again");
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
    }
}

/// A file name for a URL.
fn file_name(url: &GitUrl) -> String {
    let digest = Sha256::digest(url.as_str());
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
