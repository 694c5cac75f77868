//! Opening a data folder.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rdev_domain::ports::{MAX_RECEIVES, VISIBILITY};
use rdev_domain::retention::Retention;

use crate::database::{CannotOpen, Database, Kind};
use crate::forge::{Author, LocalForge};
use crate::lock::{self, Taken};
use crate::queue::{self, SqliteQueue};
use crate::store::{self, SqliteStore};

/// How a data folder is used.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long records are kept.
    pub retention: Retention,
    /// How long a received message stays invisible.
    pub visibility: Duration,
    /// How often a message is received before it is a dead letter.
    pub max_receives: u32,
    /// Who signs the first commit of a repository.
    pub author: Author,
    /// How long to wait for a database that another program has locked.
    pub busy_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retention: Retention::default(),
            visibility: VISIBILITY,
            max_receives: MAX_RECEIVES,
            author: Author::default(),
            busy_timeout: Duration::from_secs(5),
        }
    }
}

/// An open data folder. Its lock is free again once all three are dropped.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// Registry, task state, audit.
    pub store: Arc<SqliteStore>,
    /// Wake-ups.
    pub queue: Arc<SqliteQueue>,
    /// Repositories.
    pub forge: Arc<LocalForge>,
    /// The folder, as an absolute path without links.
    pub folder: PathBuf,
}

/// Why a data folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be made or entered.
    #[error("cannot use the data folder {}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process uses it.
    #[error(
        "the data folder {} is in use by another rdev{}; stop that one, or name another folder with --data-dir",
        folder.display(),
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// That process, if it is known.
        pid: Option<u32>,
    },
    /// A database was written by a newer rdev.
    #[error(
        "{} has version {found}, and this rdev knows versions up to {known}; run the newer rdev that wrote it",
        file.display()
    )]
    Newer {
        /// The database.
        file: PathBuf,
        /// Its version.
        found: usize,
        /// The latest version that this program knows.
        known: usize,
    },
    /// A database cannot be opened.
    #[error("cannot open the database {}{hint}", file.display())]
    Database {
        /// The database.
        file: PathBuf,
        /// What can be done about it, if anything.
        hint: &'static str,
        /// What SQLite or the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Opens the data folder, which is made when it is not there, for this process alone.
///
/// Brings the databases up to date, and removes what a killed git left behind
/// in the repositories. Blocks meanwhile.
///
/// # Errors
/// See [`OpenError`]; nothing was changed then but for the folder itself, its
/// lock file and migrations that were completed.
pub fn open(data_dir: &Path, options: Options) -> Result<Embedded, OpenError> {
    let unusable = |source| OpenError::Folder { folder: data_dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(unusable)?;
    let folder = fs::canonicalize(data_dir).map_err(unusable)?;
    let lock = match lock::take(&folder.join("lock")).map_err(unusable)? {
        Taken::Ours(lock) => Arc::new(lock),
        Taken::HeldBy(pid) => return Err(OpenError::InUse { folder, pid }),
    };
    let rdev = open_database(&folder.join("rdev.db"), store::KIND, &options, "")?;
    let wake_ups = open_database(
        &folder.join("queue.db"),
        queue::KIND,
        &options,
        " (it may be deleted while rdev is stopped: it holds only hints that are made anew)",
    )?;
    let store = SqliteStore::new(rdev, options.retention, Arc::clone(&lock)).map_err(|source| {
        OpenError::Database { file: folder.join("rdev.db"), hint: "", source: source.into() }
    })?;
    let queue =
        SqliteQueue::new(wake_ups, options.visibility, options.max_receives, Arc::clone(&lock));
    let forge = LocalForge::open(folder.join("repos"), options.author, lock)
        .map_err(|(folder, source)| OpenError::Folder { folder, source })?;
    Ok(Embedded { store: Arc::new(store), queue: Arc::new(queue), forge: Arc::new(forge), folder })
}

fn open_database(
    file: &Path,
    kind: Kind,
    options: &Options,
    hint: &'static str,
) -> Result<Database, OpenError> {
    Database::open(file, kind, options.busy_timeout).map_err(|error| {
        let file = file.to_owned();
        match error {
            CannotOpen::Newer { found } => {
                OpenError::Newer { file, found, known: kind.migrations.len() }
            }
            CannotOpen::File(source) => {
                OpenError::Database { file, hint: "", source: source.into() }
            }
            CannotOpen::Sqlite(source) => OpenError::Database { file, hint, source: source.into() },
        }
    })
}
