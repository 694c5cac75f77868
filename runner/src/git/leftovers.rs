//! Mirrors on their way out of the cache: renamed at once, then removed.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rdev_domain::chain;
use rdev_removal::remove_tree;
use tracing::warn;

/// The end of the name of a mirror that is being made.
pub(super) const UNFINISHED: &str = "new";

/// The end of the name of a mirror that is being removed begins like this.
const GONE: &str = "gone-";

/// Removes a mirror that nobody uses, if it is there. Whoever looks for it finds all of it or
/// nothing, also when the process is killed meanwhile.
pub(super) fn remove_mirror(folder: &Path) -> io::Result<()> {
    let gone = folder.with_extension(format!("{GONE}{:016x}", rand::random::<u64>()));
    match fs::rename(folder, &gone) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    // The mirror is gone from its place all the same.
    if let Err(error) = remove_tree(&gone) {
        warn!(folder = %gone.display(), error = chain(&error), "a mirror cannot be removed; the next start tries again");
    }
    Ok(())
}

/// Before any mirror is used: discards what killed processes have left of mirrors that they were
/// making or removing.
pub(crate) fn discard_leftovers(cache: &Path, discard: impl Fn(&Path) -> Result<()>) {
    let left = |path: &PathBuf| {
        let end = path.extension().map(OsStr::to_string_lossy).unwrap_or_default();
        end == UNFINISHED || end.starts_with(GONE)
    };
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(left) {
        if let Err(error) = discard(&path) {
            warn!(folder = %path.display(), error = format!("{error:#}"), "a part of a mirror stays where it is");
        }
    }
}
