//! Makes, reads, copies and removes folders, also folders that an agent has changed.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Creates a folder that only its owner can enter.
pub(super) fn private_folder(folder: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot create {}", folder.display()))
}

/// Removes a folder if it exists, also when an agent has made folders in it read-only.
pub(super) fn remove(folder: &Path) -> Result<()> {
    let ignore_missing = |outcome: io::Result<()>| match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    if ignore_missing(fs::remove_dir_all(folder)).is_ok() {
        return Ok(());
    }
    make_writable(folder);
    ignore_missing(fs::remove_dir_all(folder))
        .with_context(|| format!("cannot remove {}", folder.display()))
}

pub(super) fn read_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let read =
        || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    read().with_context(|| format!("cannot read {}", folder.display()))
}

/// Copies the files that `to` does not have yet. Symbolic links are copied as links; sockets and
/// devices are not copied.
pub(super) fn copy_missing(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_missing(&entry.path(), &target)?;
        } else if fs::symlink_metadata(&target).is_ok() {
            continue;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

fn make_writable(folder: &Path) {
    let is_folder = fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir());
    if !is_folder {
        return;
    }
    // If this fails, the removal that follows reports it.
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in read_folder(folder).unwrap_or_default() {
        make_writable(&entry);
    }
}
