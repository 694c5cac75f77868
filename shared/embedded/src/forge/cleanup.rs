//! Removing what a killed process has left in the folder of repositories.

use std::fs;
use std::io;
use std::path::Path;

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
fn unlock(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            let loose_objects = name.len() == 2
                && folder.ends_with("objects")
                && name.bytes().all(|b| b.is_ascii_hexdigit());
            if !loose_objects {
                unlock(&entry.path())?;
            }
        } else if name.ends_with(".lock") {
            tracing::warn!(file = %entry.path().display(), "removed a stale lock file");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
