//! The files of refs and of their locks.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{LOCK_TIMEOUT, PAUSE};

/// Deletes a ref whose lock the caller has, first where it is packed: its file alone would uncover
/// an older value. All of it under the lock of `packed-refs`: a program that packs refs at this
/// moment may have read the file and would bring the ref back.
pub(super) fn delete(folder: &Path, name: &str) -> std::io::Result<()> {
    let lock = folder.join("packed-refs.lock");
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match OpenOptions::new().write(true).create_new(true).open(&lock) {
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::AlreadyExists && Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    let unpacked = unpack(folder, name);
    let deleted = unpacked.and_then(|()| remove_file(&folder.join(name)));
    let unlocked = remove_file(&lock);
    deleted.and(unlocked)
}

/// Removes a ref from `packed-refs` if it is there.
fn unpack(folder: &Path, name: &str) -> std::io::Result<()> {
    // The name that git uses as well, under the same lock.
    let (packed, new_path) = (folder.join("packed-refs"), folder.join("packed-refs.new"));
    let text = match fs::read_to_string(&packed) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !text.lines().any(|line| names(line, name)) {
        return Ok(());
    }
    let mut new = File::create(&new_path)?;
    let mut dropping = false;
    for line in text.lines() {
        // A line that begins with `^` belongs to the one before it.
        dropping = if line.starts_with('^') { dropping } else { names(line, name) };
        if !dropping {
            writeln!(new, "{line}")?;
        }
    }
    new.sync_all()?;
    fs::rename(new_path, packed)
}

/// Whether a line of `packed-refs` is this ref's.
fn names(line: &str, name: &str) -> bool {
    line.split_once(' ').is_some_and(|(id, other)| other == name && !id.starts_with('#'))
}

pub(super) fn lock_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.lock"))
}

pub(super) fn remove_file(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What a folder contains; nothing when there is none.
pub(super) fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
