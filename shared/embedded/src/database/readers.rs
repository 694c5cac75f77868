//! Connections that only read: a few, which are opened when needed and used again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// How many reads run at once.
const MAX_READS: usize = 4;

/// How many prepared statements a connection caches: more than the program has.
const CACHED_STATEMENTS: usize = 200;

#[derive(Debug)]
pub(super) struct Readers {
    file: PathBuf,
    busy_timeout: Duration,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(file: PathBuf, busy_timeout: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(MAX_READS));
        Self { file, busy_timeout, idle: Mutex::new(Vec::new()), permits }
    }

    /// Waits until one more read may run.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.permits).acquire_owned().await
    }

    /// An idle connection, or else a new one.
    pub(super) fn take(&self) -> rusqlite::Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(conn) => Ok(conn),
            None => connect(&self.file, OpenFlags::SQLITE_OPEN_READ_ONLY, self.busy_timeout),
        }
    }

    pub(super) fn give_back(&self, conn: Connection) {
        // After a panic a read transaction may still be open, which would hold back
        // checkpoints. Such a connection is closed.
        if conn.is_autocommit() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        }
    }
}

/// Opens a connection with the settings that all connections have.
pub(crate) fn connect(
    file: &Path,
    mode: OpenFlags,
    busy_timeout: Duration,
) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(file, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(busy_timeout)?;
    // One plan per statement. Without this SQLite plans again for each new value.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    Ok(conn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_was_given_back_is_taken_again_unless_it_is_in_a_transaction() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.db");
        drop(Connection::open(&file).expect("a database"));
        let readers = Readers::new(file, Duration::from_secs(1));
        let idle = || readers.idle.lock().expect("no panic").len();
        let conn = readers.take().expect("a connection");
        readers.give_back(conn);
        assert_eq!(idle(), 1);
        let conn = readers.take().expect("the same one");
        assert_eq!(idle(), 0);
        conn.execute_batch("BEGIN").expect("a transaction");
        readers.give_back(conn);
        assert_eq!(idle(), 0);
    }
}
