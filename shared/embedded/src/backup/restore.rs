//! Restores a backup: wholly or not at all.
//!
//! The file is read to its end and checked before anything is written. Then it is unpacked beside
//! the data folder, and the finished folder gets its name in one step: no process can open it half
//! restored.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rdev_domain::time::Timestamp;
use rusqlite::Connection;
use rustix::fs::syncfs;
use tar::EntryType;

use super::{
    BackupError, MANIFEST, Manifest, REPOSITORIES, STORE, UNPUSHED, archive, check_version,
};
use crate::database::migrate::migrate;
use crate::store::restored::{self, Marked};
use crate::store::schema::SCHEMA;

/// A backup that was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The data folder, as an absolute path.
    pub folder: PathBuf,
    /// When the backup was made.
    pub made_at: Timestamp,
    /// The version of rdev that made it.
    pub made_by: String,
    /// How many tasks had not ended when it was made.
    pub unfinished: u64,
}

/// Restores a backup into a data folder that is empty or does not exist. Blocks the calling thread.
///
/// # Errors
/// See [`BackupError`]. The data folder is as it was then. A process that is killed may leave a
/// folder `.rdev-restore-…` beside it.
pub fn restore(file: &Path, data_dir: &Path, now: Timestamp) -> Result<Restored, BackupError> {
    let mut archive = archive::open(file)?;
    let folder = std::path::absolute(data_dir)
        .map_err(|error| BackupError::io(format!("use {}", data_dir.display()), error))?;
    check_empty(&folder)?;
    let using = |error| BackupError::io(format!("use {}", folder.display()), error);
    let beside = folder.parent().ok_or_else(|| BackupError::NotEmpty { folder: folder.clone() })?;
    DirBuilder::new().recursive(true).mode(0o700).create(beside).map_err(using)?;
    // It is removed again unless it gets its name.
    let new = tempfile::Builder::new()
        .prefix(".rdev-restore-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(beside)
        .map_err(using)?;
    let manifest = unpack(&mut archive, new.path(), file)?;
    let marked = mark(&new.path().join(STORE), file, now)?;
    sync(new.path()).map_err(using)?;
    match fs::rename(new.path(), &folder) {
        Ok(()) => {}
        Err(error)
            if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) =>
        {
            return Err(BackupError::NotEmpty { folder });
        }
        Err(error) => {
            let doing = format!(
                "replace {}; where a file system is mounted, restore into a new folder below it",
                folder.display()
            );
            return Err(BackupError::io(doing, error));
        }
    }
    // Under its old name it is no more.
    drop(new.keep());
    sync(beside).map_err(using)?;
    Ok(Restored {
        folder,
        made_at: manifest.created_at,
        made_by: manifest.rdev,
        unfinished: marked.unfinished,
    })
}

fn check_empty(folder: &Path) -> Result<(), BackupError> {
    let not_empty = || BackupError::NotEmpty { folder: folder.to_owned() };
    match fs::read_dir(folder) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(not_empty()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => Err(not_empty()),
        Err(error) => Err(BackupError::io(format!("use {}", folder.display()), error)),
    }
}

/// Unpacks the archive. Whoever made the file, nothing is written outside of `into`.
fn unpack(
    archive: &mut tar::Archive<impl Read>,
    into: &Path,
    file: &Path,
) -> Result<Manifest, BackupError> {
    let reading = |error| BackupError::io(format!("read {}", file.display()), error);
    let foreign = || BackupError::Foreign { file: file.to_owned() };
    let mut manifest = None;
    for entry in archive.entries().map_err(reading)? {
        let mut entry = entry.map_err(reading)?;
        let path = entry.path().map_err(reading)?.into_owned();
        if !is_expected(&path) {
            return Err(foreign());
        }
        let to = into.join(&path);
        let writing = |error| BackupError::io(format!("write {}", to.display()), error);
        match entry.header().entry_type() {
            EntryType::Directory => {
                DirBuilder::new().mode(0o700).create(&to).map_err(writing)?;
            }
            EntryType::Regular if path == Path::new(MANIFEST) => {
                let mut text = String::new();
                entry.read_to_string(&mut text).map_err(reading)?;
                let read: Manifest = serde_json::from_str(&text).map_err(|_| foreign())?;
                manifest = Some(read);
            }
            EntryType::Regular => {
                let executable = entry.header().mode().map_err(reading)? & 0o100 != 0;
                let mode = if executable { 0o700 } else { 0o600 };
                let options = OpenOptions::new().write(true).create_new(true).mode(mode).open(&to);
                let mut output = options.map_err(writing)?;
                io::copy(&mut entry, &mut output).map_err(writing)?;
            }
            _ => return Err(foreign()),
        }
    }
    manifest.filter(|_| into.join(STORE).is_file()).ok_or_else(foreign)
}

/// Whether the archive of a backup may have this path.
fn is_expected(path: &Path) -> bool {
    let mut parts = path.components();
    let first = match parts.next() {
        Some(Component::Normal(first)) => Path::new(first),
        _ => return false,
    };
    let below = parts.all(|part| matches!(part, Component::Normal(_)));
    let is_folder = [REPOSITORIES, UNPUSHED].map(Path::new).contains(&first);
    below && (is_folder || path == Path::new(MANIFEST) || path == Path::new(STORE))
}

/// Prepares the store for its new life.
fn mark(store: &Path, file: &Path, now: Timestamp) -> Result<Marked, BackupError> {
    let doing = "prepare the restored store";
    let failed = |error: rusqlite::Error| BackupError::database(doing, error);
    let conn = Connection::open(store).map_err(failed)?;
    check_version(&conn, file)?;
    let sound: String =
        conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if sound != "ok" {
        return Err(BackupError::database(doing, sound));
    }
    migrate(&conn, SCHEMA.migrations).map_err(failed)?;
    let marked = restored::mark(&conn, now);
    let marked =
        marked.map_err(|error| BackupError::database(doing, error.into_port(SCHEMA.what)))?;
    conn.close().map_err(|(_, error)| failed(error))?;
    Ok(marked)
}

/// Writes everything on a folder's file system to the disk.
fn sync(folder: &Path) -> io::Result<()> {
    Ok(syncfs(File::open(folder)?)?)
}
