//! Which git servers take no refs outside `refs/heads`, remembered below the cache folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rdev_domain::git_url::GitUrl;
use sha2::{Digest, Sha256};
use tracing::warn;

/// The repositories whose server takes no refs outside `refs/heads`;
/// remembered below the cache folder.
pub(crate) struct HeadsOnly {
    folder: PathBuf,
    known: Mutex<BTreeSet<String>>,
}

impl HeadsOnly {
    pub(crate) fn new(folder: PathBuf) -> Self {
        let names = fs::read_dir(&folder).into_iter().flatten().flatten();
        let known = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        Self { folder, known: Mutex::new(known) }
    }

    pub(crate) fn contains(&self, url: &GitUrl) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&mark(url))
    }

    pub(crate) fn insert(&self, url: &GitUrl) {
        let mark = mark(url);
        let path = self.folder.join(&mark);
        let noted = fs::create_dir_all(&self.folder).and_then(|()| fs::write(path, url.as_str()));
        if let Err(error) = noted {
            warn!(%error, "the next process will not know that this server takes only branches");
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(mark);
    }
}

/// A file name for a URL.
fn mark(url: &GitUrl) -> String {
    let digest = Sha256::digest(url.as_str());
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
