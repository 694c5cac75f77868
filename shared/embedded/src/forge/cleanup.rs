//! Removing what a killed process has left in the folder of repositories.

use std::fs;
use std::io;
use std::path::Path;

use rdev_domain::chain;
use rdev_removal::remove_tree;

use super::locks;

/// Removes the repositories whose name begins with `unfinished`, and stale lock files. What people
/// and builds have put into a repository is no reason not to start.
pub(super) fn run(folder: &Path, unfinished: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(unfinished) {
            remove(&entry.path());
        } else if name.ends_with(".git") && entry.file_type()?.is_dir() {
            let path = entry.path();
            if let Err(error) = unlock(&path) {
                tracing::warn!(repository = %path.display(), %error, "stale lock files may be left in a repository: it cannot be looked through");
            }
        }
    }
    Ok(())
}

/// Removes a repository that has lost its name already.
pub(super) fn remove(repository: &Path) {
    if let Err(error) = remove_tree(repository) {
        tracing::warn!(repository = %repository.display(), error = chain(&error), "a deleted repository cannot be removed; the next start tries again");
    }
}

/// Removes the `*.lock` files of a repository but for those that tell of a move. The processes that
/// created them are dead: this process has the data folder's lock. No ref and no loose object can
/// have such a name.
fn unlock(repository: &Path) -> io::Result<()> {
    for entry in fs::read_dir(repository)? {
        let entry = entry?;
        // A lock before it has its name.
        if entry.file_name().to_string_lossy().starts_with("rdev-lock-") {
            fs::remove_file(entry.path())?;
        }
    }
    let moves = locks::of_moves(repository)?;
    let mut folders = vec![repository.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let (name, path) = (entry.file_name(), entry.path());
            if entry.file_type()?.is_dir() {
                let name = name.to_string_lossy();
                let loose_objects = name.len() == 2
                    && folder.ends_with("objects")
                    && name.bytes().all(|b| b.is_ascii_hexdigit());
                if !loose_objects {
                    folders.push(path);
                }
            } else if locks::is_lock(&path)
                && !path.strip_prefix(repository).is_ok_and(|name| moves.contains(name))
            {
                tracing::warn!(file = %path.display(), "removed a stale lock file");
                fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}
