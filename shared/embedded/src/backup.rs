//! Backup of a data folder that is in use, and its restoration.
//!
//! A backup has the store, the repositories, and `unpushed/`. The store comes first: what the
//! repositories have beyond it, a restored task finds on its branch, whereas a commit that the
//! store knows and the repository lacks would be lost. The queue is left out, since it holds only
//! hints; so are mirrors, workspaces and agent sessions, the configuration, and the text of the
//! local admin key.
//!
//! ```text
//! manifest.json                which rdev made it, and when
//! rdev.db                      the store, by SQLite's online backup
//! repos/<project>.git          the repositories ([`repository`])
//! unpushed/                    finished commits that no server has yet
//! ```

mod archive;
mod repository;
mod restore;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rdev_domain::time::Timestamp;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use crate::database::connect;
use crate::forge::UNFINISHED;
use crate::open::Options;
use crate::store::schema::SCHEMA;
use archive::Writer;

pub use restore::{Restored, restore};

/// How often a backup begins again when what it copies is removed meanwhile.
const MAX_TRIES: u32 = 5;

const MANIFEST: &str = "manifest.json";
const STORE: &str = "rdev.db";
const REPOSITORIES: &str = "repos";
const UNPUSHED: &str = "unpushed";

/// What the archive says about itself.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    /// The version of rdev that made it.
    rdev: String,
    created_at: Timestamp,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// How many repositories it has.
    pub repositories: u64,
    /// The size of the file in bytes.
    pub bytes: u64,
}

/// Why a backup cannot be made or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("cannot {doing}")]
    Io {
        doing: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot {doing}")]
    Database {
        doing: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is nothing to back up.
    #[error("there is no data of rdev in {}; name the data folder with --data-dir", folder.display())]
    NoData { folder: PathBuf },
    /// The file is not overwritten.
    #[error("{} exists already; name another file, or remove it", file.display())]
    Exists { file: PathBuf },
    /// Something was removed while it was copied, or never stood still.
    #[error("{} changed all the time while it was copied; try again", path.display())]
    Changed { path: PathBuf },
    /// The file is something else.
    #[error("{} is not a backup of rdev", file.display())]
    Foreign { file: PathBuf },
    /// The file is not as it was written.
    #[error("{} is damaged or cut short; use another copy of it", file.display())]
    Damaged { file: PathBuf },
    /// A newer rdev wrote it.
    #[error(
        "{} has version {found}, and this rdev knows versions up to {known}; use the newer rdev that wrote it",
        file.display()
    )]
    Newer { file: PathBuf, found: usize, known: usize },
    /// A folder with something in it is not replaced.
    #[error(
        "{} is not an empty folder; restore into one that is empty or does not exist (--data-dir)",
        folder.display()
    )]
    NotEmpty { folder: PathBuf },
}

impl BackupError {
    fn io(doing: String, source: io::Error) -> Self {
        Self::Io { doing, source }
    }

    fn writing(source: io::Error) -> Self {
        Self::io("write the backup".to_owned(), source)
    }

    fn database(doing: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Database { doing: doing.to_owned(), source: source.into() }
    }
}

/// Backs the data folder up to `file`, which must not exist; another process may use the folder
/// meanwhile. The file appears when it is complete, with mode 0600. `version` is the program's.
/// Blocks the calling thread.
///
/// # Errors
/// See [`BackupError`]; nothing remains of the file then.
pub fn backup(
    data_dir: &Path,
    file: &Path,
    version: &str,
    now: Timestamp,
) -> Result<Made, BackupError> {
    let store = data_dir.join(STORE);
    if !store.is_file() {
        return Err(BackupError::NoData { folder: data_dir.to_owned() });
    }
    if fs::symlink_metadata(file).is_ok() {
        return Err(BackupError::Exists { file: file.to_owned() });
    }
    let manifest = Manifest { rdev: version.to_owned(), created_at: now };
    let mut tries = 0;
    loop {
        tries += 1;
        match attempt(data_dir, file, &manifest) {
            Err(BackupError::Changed { .. }) if tries < MAX_TRIES => {}
            other => return other,
        }
    }
}

fn attempt(data_dir: &Path, file: &Path, manifest: &Manifest) -> Result<Made, BackupError> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let temporary = || {
        let made = tempfile::Builder::new().prefix(".rdev-backup-").tempfile_in(folder);
        made.map_err(|error| BackupError::io(format!("write to {}", folder.display()), error))
    };
    let (snapshot, made) = (temporary()?, temporary()?);
    copy_store(&data_dir.join(STORE), snapshot.path())?;
    let output = made.as_file().try_clone().map_err(BackupError::writing)?;
    let mut archive = Writer::new(output).map_err(BackupError::writing)?;
    let manifest = serde_json::to_vec(manifest).map_err(io::Error::from);
    manifest
        .and_then(|text| archive.bytes(Path::new(MANIFEST), &text))
        // SQLite has its own open file, and may have replaced this one's content.
        .and_then(|()| archive.file(Path::new(STORE), &File::open(snapshot.path())?))
        .map_err(BackupError::writing)?;
    let repositories =
        copy_repositories(&mut archive, &data_dir.join(REPOSITORIES), Path::new(REPOSITORIES))?;
    copy_folder(&mut archive, &data_dir.join(UNPUSHED), Path::new(UNPUSHED))?;
    archive.finish().map_err(BackupError::writing)?;
    let bytes = made.as_file().metadata().map_err(BackupError::writing)?.len();
    made.persist_noclobber(file).map_err(|error| match error.error.kind() {
        ErrorKind::AlreadyExists => BackupError::Exists { file: file.to_owned() },
        _ => BackupError::writing(error.error),
    })?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(BackupError::writing)?;
    Ok(Made { repositories, bytes })
}

/// Copies the store as it is at one moment. Its process may write meanwhile.
fn copy_store(from: &Path, to: &Path) -> Result<(), BackupError> {
    let doing = "copy the store";
    let failed = |error: rusqlite::Error| BackupError::database(doing, error);
    let timeout = Options::default().busy_timeout;
    let source = connect(from, OpenFlags::SQLITE_OPEN_READ_WRITE, timeout).map_err(failed)?;
    check_version(&source, from)?;
    let mut copy = Connection::open(to).map_err(failed)?;
    // In one step, which is one read transaction: it holds no writer up.
    let step = Backup::new(&source, &mut copy).and_then(|backup| backup.step(-1));
    if step.map_err(failed)? != StepResult::Done {
        // For longer than the time-out.
        return Err(BackupError::database(doing, "another program has locked it"));
    }
    copy.pragma_update(None, "journal_mode", "delete").map_err(failed)?;
    copy.close().map_err(|(_, error)| failed(error))
}

/// Refuses a database of a newer rdev.
fn check_version(store: &Connection, file: &Path) -> Result<(), BackupError> {
    let found = store.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    let found = found.map_err(|error| BackupError::database("read the store", error))?;
    let (found, known) = (usize::try_from(found).unwrap_or(usize::MAX), SCHEMA.migrations.len());
    if found > known {
        return Err(BackupError::Newer { file: file.to_owned(), found, known });
    }
    Ok(())
}

/// Copies the repositories below a folder. Returns how many.
fn copy_repositories(archive: &mut Writer, from: &Path, to: &Path) -> Result<u64, BackupError> {
    let mut count = 0;
    archive.folder(to).map_err(BackupError::writing)?;
    for entry in entries(from)? {
        let name = entry.file_name().unwrap_or_default();
        if name.to_string_lossy().starts_with(UNFINISHED) || !entry.is_dir() {
            continue;
        }
        let to = to.join(name);
        if repository::is_repository(&entry) {
            repository::copy(archive, &entry, &to)?;
            count += 1;
        } else {
            count += copy_repositories(archive, &entry, &to)?;
        }
    }
    Ok(count)
}

/// Copies a folder whose files nobody changes; they may only be removed with it.
fn copy_folder(archive: &mut Writer, from: &Path, to: &Path) -> Result<(), BackupError> {
    let changed = || BackupError::Changed { path: from.to_owned() };
    archive.folder(to).map_err(BackupError::writing)?;
    for entry in entries(from)? {
        let to = to.join(entry.file_name().unwrap_or_default());
        let file = match fs::symlink_metadata(&entry) {
            Ok(metadata) if metadata.is_dir() => {
                copy_folder(archive, &entry, &to)?;
                // A folder that is gone has no entries either.
                if !entry.exists() {
                    return Err(changed());
                }
                continue;
            }
            Ok(metadata) if metadata.is_file() => File::open(&entry),
            Ok(_) => continue,
            Err(error) => Err(error),
        };
        match file {
            Ok(file) => archive.file(&to, &file).map_err(BackupError::writing)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(changed()),
            Err(error) => {
                return Err(BackupError::io(format!("read {}", entry.display()), error));
            }
        }
    }
    Ok(())
}

/// The paths in a folder, sorted; nothing if it does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let reading = |error| BackupError::io(format!("read {}", folder.display()), error);
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(reading)?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>().map_err(reading)?;
    paths.sort();
    Ok(paths)
}
