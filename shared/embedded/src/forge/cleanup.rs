//! Removing what a killed process has left in the folder of repositories.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Removes the repositories whose name begins with `unfinished`, and stale lock files.
pub(super) fn run(folder: &Path, unfinished: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(unfinished) {
            fs::remove_dir_all(entry.path())?;
        } else if name.ends_with(".git") && entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes `*.lock` files. The processes that created them are dead: this process has
/// the data folder's lock. No ref and no loose object can have such a name.
///
/// The locks of a push that rdev has left half done stay: they alone say whether it has landed. The
/// runner ends it when it looks at the repository next.
fn unlock(repository: &Path) -> io::Result<()> {
    let mut half_done = Vec::new();
    find_half_done(repository, &repository.join("refs/rdev"), &mut half_done)?;
    unlock_below(repository, &half_done)?;
    for entry in fs::read_dir(repository)? {
        let entry = entry?;
        // A lock before it has its name.
        if entry.file_name().to_string_lossy().starts_with("rdev-lock-") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The locks of tickets that say what they are for, each with the lock of the ref that was to move.
fn find_half_done(repository: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find_half_done(repository, &path, found)?;
        } else if path.extension().is_some_and(|end| end == "lock") {
            // `rdev <stage> <commit> <ref>`; other contents are no text of ours.
            let text = fs::read_to_string(&path).unwrap_or_default();
            let words: Vec<&str> = text.split_whitespace().collect();
            if let ["rdev", _, commit, target] = words[..] {
                let target = repository.join(format!("{target}.lock"));
                if fs::read_to_string(&target).is_ok_and(|text| text.trim_end() == commit) {
                    found.push(target);
                }
                found.push(path);
            }
        }
    }
    Ok(())
}

fn unlock_below(folder: &Path, kept: &[PathBuf]) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            let loose_objects = name.len() == 2
                && folder.ends_with("objects")
                && name.bytes().all(|b| b.is_ascii_hexdigit());
            if !loose_objects {
                unlock_below(&entry.path(), kept)?;
            }
        } else if name.ends_with(".lock") && !kept.contains(&entry.path()) {
            tracing::warn!(file = %entry.path().display(), "removed a stale lock file");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
