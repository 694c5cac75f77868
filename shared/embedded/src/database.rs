//! One SQLite file: one thread writes it, and a few connections read it.

pub(crate) mod migrate;
mod readers;
#[cfg(test)]
mod tests;
mod writer;

use std::any::Any;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use rdev_domain::ports::{PortError, PortResult};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use crate::error::{Error, NotCommitted};
use migrate::{Migrated, migrate};
use readers::Readers;
pub(crate) use readers::connect;
use writer::{Job, Outcome, Request};

/// A database's name, its schema, and whether its commits are durable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schema {
    /// The database's name in error messages.
    pub(crate) what: &'static str,
    /// The migrations, oldest first.
    pub(crate) migrations: &'static [&'static str],
    /// Whether a commit waits for the disk. Without that, the file is still
    /// consistent after a power cut, but the last commits may be missing.
    pub(crate) durable: bool,
}

/// Why a database cannot be opened.
#[derive(Debug)]
pub(crate) enum CannotOpen {
    /// The file cannot be created or opened.
    File(io::Error),
    Sqlite(rusqlite::Error),
    /// A newer program wrote the file.
    Newer {
        /// The file's version.
        found: usize,
    },
}

/// An open database. Dropping it waits until the writing thread has done all its work.
#[derive(Debug)]
pub(crate) struct Database {
    what: &'static str,
    requests: Option<Sender<Request>>,
    writer: Option<JoinHandle<()>>,
    readers: Arc<Readers>,
}

impl Database {
    /// Opens or creates the file, migrates it to the current schema and starts the
    /// writing thread.
    pub(crate) fn open(
        file: &Path,
        schema: Schema,
        busy_timeout: Duration,
    ) -> Result<Self, CannotOpen> {
        // SQLite gives its side files the mode of this one.
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file)?;
        let conn = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE, busy_timeout)?;
        // A file of a newer version stays exactly as it is: not even its journal mode changes.
        if let Migrated::Newer { found } = migrate(&conn, schema.migrations)? {
            return Err(CannotOpen::Newer { found });
        }
        conn.pragma_update(None, "journal_mode", "wal")?;
        conn.pragma_update(None, "synchronous", if schema.durable { "full" } else { "normal" })?;
        conn.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
        conn.pragma_update(None, "temp_store", "memory")?;
        conn.pragma_update(None, "cache_size", -16 * 1024)?;
        let (requests, received) = mpsc::channel();
        let writer = std::thread::Builder::new()
            .name(format!("rdev-{}", schema.what.replace(' ', "-")))
            .spawn(move || writer::run(&conn, &received))?;
        Ok(Self {
            what: schema.what,
            requests: Some(requests),
            writer: Some(writer),
            readers: Arc::new(Readers::new(file.to_owned(), busy_timeout)),
        })
    }

    /// Runs `work` in a transaction, and returns once it is committed. If `work`
    /// fails, all its changes are rolled back. If the caller is dropped before the
    /// work starts, the work does not run.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> PortResult<T> {
        let (reply, received) = oneshot::channel();
        let what = self.what;
        let job: Job = Box::new(move |conn| {
            let result = match conn {
                Ok(_) if reply.is_closed() => {
                    return Outcome { commit: false, reply: Box::new(|_| ()) };
                }
                Ok(conn) => catch(|| work(conn)),
                Err(error) => Err(Error::NotCommitted(error.clone())),
            };
            let commit = result.is_ok();
            let reply = Box::new(move |not_committed: Option<&NotCommitted>| {
                let result = match (result, not_committed) {
                    (Err(own @ (Error::Sqlite(_) | Error::Panicked(_))), _) => Err(own),
                    (_, Some(error)) => Err(Error::NotCommitted(error.clone())),
                    (result, None) => result,
                };
                // The caller may have been dropped: then the result is not needed.
                let _ = reply.send(result.map_err(|error| error.into_port(what)));
            });
            Outcome { commit, reply }
        });
        self.request(Request::Now(job))?;
        received.await.map_err(|_| self.stopped())?
    }

    /// Runs `work` in the next transaction, within 100 ms, in its order among all
    /// other work. Only for work that may be lost: no caller waits for it.
    pub(crate) fn write_soon(
        &self,
        work: impl FnOnce(&Connection) -> Result<(), Error> + Send + 'static,
    ) -> PortResult<()> {
        let what = self.what;
        let job: Job = Box::new(move |conn| {
            let result = match conn {
                Ok(conn) => catch(|| work(conn)),
                Err(error) => Err(Error::NotCommitted(error.clone())),
            };
            let commit = result.is_ok();
            let reply = Box::new(move |not_committed: Option<&NotCommitted>| {
                let result = match not_committed {
                    Some(error) => Err(Error::NotCommitted(error.clone())),
                    None => result,
                };
                if let Err(error) = result {
                    tracing::warn!(error = %error.into_port(what), "a write was lost");
                }
            });
            Outcome { commit, reply }
        });
        self.request(Request::Soon(job))
    }

    /// Runs `work` on a read-only connection, on a thread that may block.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> PortResult<T> {
        let readers = Arc::clone(&self.readers);
        let permit = readers.permit().await;
        let result = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let conn = readers.take()?;
            let result = catch(|| work(&conn));
            readers.give_back(conn);
            result
        });
        match result.await {
            Ok(result) => result.map_err(|error| error.into_port(self.what)),
            Err(_) => Err(self.stopped()),
        }
    }

    /// Reads on the calling thread, which blocks: only while the database is being opened.
    pub(crate) fn read_blocking<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let conn = self.readers.take()?;
        let result = work(&conn);
        self.readers.give_back(conn);
        result
    }

    fn request(&self, request: Request) -> PortResult<()> {
        let requests = self.requests.as_ref().ok_or_else(|| self.stopped())?;
        requests.send(request).map_err(|_| self.stopped())
    }

    fn stopped(&self) -> PortError {
        PortError::unavailable(self.what, "it was closed")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(what = self.what, "the writing thread has panicked");
        }
    }
}

/// Runs `work`. A panic becomes an error of this work and does not end the thread.
fn catch<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = message(panic.as_ref());
        tracing::error!(message, "a database operation panicked");
        Err(Error::Panicked(message))
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}

impl From<io::Error> for CannotOpen {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

impl From<rusqlite::Error> for CannotOpen {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}
