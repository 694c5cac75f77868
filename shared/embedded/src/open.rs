//! Opening a data folder.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rdev_domain::ports::{MAX_RECEIVES, VISIBILITY};
use rdev_domain::retention::Retention;

use crate::database::{CannotOpen, Database, Schema};
use crate::forge::{Author, LocalForge};
use crate::lock::{self, Acquired};
use crate::queue::{self, SqliteQueue};
use crate::store::place::Place;
use crate::store::{self, SqliteStore};

/// Settings of a data folder.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long records are kept.
    pub retention: Retention,
    /// How long a received message stays invisible.
    pub visibility: Duration,
    /// How many times a message is received before it becomes a dead letter.
    pub max_receives: u32,
    /// The author of the first commit of a repository.
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

/// An open data folder. It is unlocked once store, queue and forge are dropped.
#[derive(Debug, Clone)]
pub struct Embedded {
    pub store: Arc<SqliteStore>,
    pub queue: Arc<SqliteQueue>,
    pub forge: Arc<LocalForge>,
    /// The absolute path of the folder, without symbolic links.
    pub folder: PathBuf,
}

/// Why a data folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be created or entered.
    #[error("cannot use the data folder {}", folder.display())]
    Folder {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Another process uses the folder.
    #[error(
        "the data folder {} is in use by another rdev{}; stop that one, or name another folder with --data-dir",
        folder.display(),
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        folder: PathBuf,
        /// The id of that process, if it is known.
        pid: Option<u32>,
    },
    /// A database was written by a newer rdev.
    #[error(
        "{} has version {found}, and this rdev knows versions up to {known}; run the newer rdev that wrote it",
        file.display()
    )]
    Newer {
        file: PathBuf,
        found: usize,
        /// The newest version that this program knows.
        known: usize,
    },
    /// A database cannot be opened.
    #[error("cannot open the database {}{hint}", file.display())]
    Database {
        file: PathBuf,
        /// What the user can do about it: a part of the message, or empty.
        hint: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Opens the data folder for this process alone. Creates the folder if it does not exist.
///
/// Migrates the databases, and removes what a killed git process has left in the
/// repositories. Blocks the calling thread.
///
/// # Errors
/// See [`OpenError`]. In that case nothing was changed but the folder itself, its
/// lock file and migrations that were completed.
pub fn open(data_dir: &Path, options: Options) -> Result<Embedded, OpenError> {
    let unusable = |source| OpenError::Folder { folder: data_dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(unusable)?;
    let folder = fs::canonicalize(data_dir).map_err(unusable)?;
    let lock = match lock::acquire(&folder.join("lock")).map_err(unusable)? {
        Acquired::Lock(lock) => Arc::new(lock),
        Acquired::HeldBy(pid) => return Err(OpenError::InUse { folder, pid }),
    };
    let rdev = open_database(&folder.join("rdev.db"), store::schema::SCHEMA, &options, "")?;
    let wake_ups = open_database(
        &folder.join("queue.db"),
        queue::SCHEMA,
        &options,
        " (it may be deleted while rdev is stopped: it contains only hints, which rdev sends again)",
    )?;
    let place = Place::of(&folder.join("repos")).map_err(|invalid| {
        unusable(io::Error::new(io::ErrorKind::InvalidInput, invalid.to_string()))
    })?;
    let store =
        SqliteStore::new(rdev, options.retention, place, Arc::clone(&lock)).map_err(|source| {
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
    schema: Schema,
    options: &Options,
    hint: &'static str,
) -> Result<Database, OpenError> {
    Database::open(file, schema, options.busy_timeout).map_err(|error| {
        let file = file.to_owned();
        match error {
            CannotOpen::Newer { found } => {
                OpenError::Newer { file, found, known: schema.migrations.len() }
            }
            CannotOpen::File(source) => {
                OpenError::Database { file, hint: "", source: source.into() }
            }
            CannotOpen::Sqlite(source) => OpenError::Database { file, hint, source: source.into() },
        }
    })
}
