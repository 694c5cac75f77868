//! Makes, reads and copies folders, also folders that an agent has changed.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// More than any note of the runner has.
const LONGEST_NOTE: u64 = 1024;

/// Creates a folder that only its owner can enter.
pub(super) fn private_folder(folder: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot create {}", folder.display()))
}

pub(super) fn read_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let read =
        || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    read().with_context(|| format!("cannot read {}", folder.display()))
}

/// Reads a file with a few words of the runner's own. An agent may have put anything in its place:
/// a pipe that nobody writes to, a link, a file without an end.
pub(super) fn read_note(path: &Path) -> io::Result<String> {
    let mut options = fs::File::options();
    let file = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = String::new();
    file.take(LONGEST_NOTE).read_to_string(&mut text)?;
    Ok(text)
}

/// Copies the files that `to` does not have yet. Symbolic links are copied as links; sockets and
/// devices are not copied. Folders that lie deeper than a path can name are an error.
pub(super) fn copy_missing(from: &Path, to: &Path) -> io::Result<()> {
    let mut folders = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = folders.pop() {
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push((entry.path(), target));
            } else if fs::symlink_metadata(&target).is_ok() {
                continue;
            } else if kind.is_symlink() {
                std::os::unix::fs::symlink(fs::read_link(entry.path())?, &target)?;
            } else if kind.is_file() {
                fs::copy(entry.path(), &target)?;
            }
        }
    }
    Ok(())
}
