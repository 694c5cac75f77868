//! One SQLite file: a thread that writes it, and a few connections that read it.

use std::any::Any;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdev_domain::ports::{PortError, PortResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Semaphore, oneshot};

use crate::failed::{Failed, Lost};
use crate::migrate::{Migrated, migrate};
use crate::writer::{self, Job, Order, Ran};

/// How many reads run at once.
const READERS: usize = 4;

/// How many statements a connection keeps prepared: more than we have.
const STATEMENTS: usize = 200;

/// Which database it is, and how it is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// What errors call it.
    pub(crate) what: &'static str,
    /// Its schema, oldest migration first.
    pub(crate) migrations: &'static [&'static str],
    /// Whether a commit waits for the disk. Without it the file stays whole
    /// after a power cut, but may lack the last commits.
    pub(crate) durable: bool,
}

/// Why a file cannot be opened.
#[derive(Debug)]
pub(crate) enum CannotOpen {
    /// The file itself cannot be made.
    File(io::Error),
    /// SQLite said no.
    Sqlite(rusqlite::Error),
    /// A newer program wrote it.
    Newer {
        /// The file's version.
        found: usize,
    },
}

/// An open database. Dropping it waits until everything asked for is written.
#[derive(Debug)]
pub(crate) struct Database {
    what: &'static str,
    orders: Option<Sender<Order>>,
    writer: Option<JoinHandle<()>>,
    readers: Arc<Readers>,
}

#[derive(Debug)]
struct Readers {
    file: PathBuf,
    busy_timeout: Duration,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Database {
    /// Opens (or makes) the file, brings its schema up to date and starts its thread.
    pub(crate) fn open(
        file: &Path,
        kind: Kind,
        busy_timeout: Duration,
    ) -> Result<Self, CannotOpen> {
        // SQLite makes its side files with the mode of this one.
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file)?;
        let conn = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE, busy_timeout)?;
        // A file of a newer version is not even switched to WAL.
        if let Migrated::Newer { found } = migrate(&conn, kind.migrations)? {
            return Err(CannotOpen::Newer { found });
        }
        conn.pragma_update(None, "journal_mode", "wal")?;
        conn.pragma_update(None, "synchronous", if kind.durable { "full" } else { "normal" })?;
        conn.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
        conn.pragma_update(None, "temp_store", "memory")?;
        conn.pragma_update(None, "cache_size", -16 * 1024)?;
        let (orders, waiting) = mpsc::channel();
        let writer = std::thread::Builder::new()
            .name(format!("rdev-{}", kind.what.replace(' ', "-")))
            .spawn(move || writer::run(&conn, &waiting))?;
        Ok(Self {
            what: kind.what,
            orders: Some(orders),
            writer: Some(writer),
            readers: Arc::new(Readers {
                file: file.to_owned(),
                busy_timeout,
                idle: Mutex::new(Vec::new()),
                permits: Arc::new(Semaphore::new(READERS)),
            }),
        })
    }

    /// Runs `work` in a transaction, and answers once it is committed. When
    /// `work` fails nothing of it is kept. Work that was not begun when its
    /// caller went away is left out.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failed> + Send + 'static,
    ) -> PortResult<T> {
        let (reply, answer) = oneshot::channel();
        let what = self.what;
        let job: Job = Box::new(move |conn| {
            let outcome = match conn {
                Ok(_) if reply.is_closed() => return Ran { keep: false, answer: Box::new(|_| ()) },
                Ok(conn) => catch(|| work(conn)),
                Err(lost) => Err(Failed::Lost(lost.clone())),
            };
            let keep = outcome.is_ok();
            let answer = Box::new(move |lost: Option<&Lost>| {
                let outcome = match (outcome, lost) {
                    (Err(own @ (Failed::Sqlite(_) | Failed::Panicked(_))), _) => Err(own),
                    (_, Some(lost)) => Err(Failed::Lost(lost.clone())),
                    (outcome, None) => outcome,
                };
                // The caller may have gone away; then nobody wants to know.
                let _ = reply.send(outcome.map_err(|failed| failed.into_port(what)));
            });
            Ran { keep, answer }
        });
        self.order(Order::Now(job))?;
        answer.await.map_err(|_| self.stopped())?
    }

    /// Leaves `work` to be done with the next transaction, in its order among
    /// all others, within 100 ms. Only for work that may also be lost.
    pub(crate) fn write_soon(
        &self,
        work: impl FnOnce(&Connection) -> Result<(), Failed> + Send + 'static,
    ) -> PortResult<()> {
        let what = self.what;
        let job: Job = Box::new(move |conn| {
            let outcome = match conn {
                Ok(conn) => catch(|| work(conn)),
                Err(lost) => Err(Failed::Lost(lost.clone())),
            };
            let keep = outcome.is_ok();
            let answer = Box::new(move |lost: Option<&Lost>| {
                let outcome = match lost {
                    Some(lost) => Err(Failed::Lost(lost.clone())),
                    None => outcome,
                };
                if let Err(failed) = outcome {
                    tracing::warn!(error = %failed.into_port(what), "a write was lost");
                }
            });
            Ran { keep, answer }
        });
        self.order(Order::Soon(job))
    }

    /// Runs `work` on a connection that can only read, on a thread that may block.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failed> + Send + 'static,
    ) -> PortResult<T> {
        let readers = Arc::clone(&self.readers);
        let permit = Arc::clone(&readers.permits).acquire_owned().await;
        let outcome = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let conn = readers.take()?;
            let outcome = catch(|| work(&conn));
            readers.give_back(conn);
            outcome
        });
        match outcome.await {
            Ok(outcome) => outcome.map_err(|failed| failed.into_port(self.what)),
            Err(_) => Err(self.stopped()),
        }
    }

    /// Reads while nothing else is under way yet, on this thread.
    pub(crate) fn at_start<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let conn = self.readers.take()?;
        let outcome = work(&conn);
        self.readers.give_back(conn);
        outcome
    }

    fn order(&self, order: Order) -> PortResult<()> {
        let orders = self.orders.as_ref().ok_or_else(|| self.stopped())?;
        orders.send(order).map_err(|_| self.stopped())
    }

    fn stopped(&self) -> PortError {
        PortError::unavailable(self.what, "it was closed")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(what = self.what, "the writing thread has panicked");
        }
    }
}

impl Readers {
    fn take(&self) -> rusqlite::Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(conn) => Ok(conn),
            None => connect(&self.file, OpenFlags::SQLITE_OPEN_READ_ONLY, self.busy_timeout),
        }
    }

    fn give_back(&self, conn: Connection) {
        // A panic may have left a snapshot open, which would hold back checkpoints.
        if conn.is_autocommit() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        }
    }
}

fn connect(file: &Path, mode: OpenFlags, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(file, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(busy_timeout)?;
    // One plan per statement. Without this SQLite plans again for each new value.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(conn)
}

/// Runs `work`; a panic in it is its own failure and not the thread's.
fn catch<T>(work: impl FnOnce() -> Result<T, Failed>) -> Result<T, Failed> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = message(panic.as_ref());
        tracing::error!(message, "a database operation panicked");
        Err(Failed::Panicked(message))
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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use rdev_domain::ports::Conflict;

    use super::*;

    const KIND: Kind = Kind {
        what: "the test",
        migrations: &["CREATE TABLE numbers (n INTEGER PRIMARY KEY) STRICT"],
        durable: true,
    };

    type Work = Box<dyn FnOnce(&Connection) -> Result<(), Failed> + Send>;

    fn open() -> (tempfile::TempDir, Arc<Database>) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("test.db");
        let database = Database::open(&file, KIND, Duration::from_millis(50)).expect("a database");
        (folder, Arc::new(database))
    }

    fn insert(conn: &Connection, n: i64) -> Result<(), Failed> {
        conn.prepare_cached("INSERT INTO numbers (n) VALUES (?1)")?.execute([n])?;
        Ok(())
    }

    #[tokio::test]
    async fn what_is_durable_is_synced_at_every_commit_and_the_rest_is_not() {
        // 2 is FULL, 1 is NORMAL.
        for (durable, expected) in [(true, 2), (false, 1)] {
            let folder = tempfile::tempdir().expect("a folder");
            let file = folder.path().join("test.db");
            let kind = Kind { durable, ..KIND };
            let database = Database::open(&file, kind, Duration::from_millis(50)).expect("opened");
            let look = |conn: &Connection| {
                let journal: String =
                    conn.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
                let synchronous: i64 =
                    conn.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
                Ok((journal, synchronous))
            };
            let found = database.write(look).await.expect("an answer");
            assert_eq!(found, ("wal".to_owned(), expected));
        }
    }

    async fn numbers(database: &Database) -> Vec<i64> {
        let read = |conn: &Connection| {
            let mut all = conn.prepare_cached("SELECT n FROM numbers ORDER BY n")?;
            let all = all.query_map([], |row| row.get(0))?;
            Ok(all.collect::<rusqlite::Result<_>>()?)
        };
        database.read(read).await.expect("numbers")
    }

    /// Holds the writer until `n` more pieces of work wait for it, so that they
    /// become one batch; then starts them, in order.
    async fn as_one_batch<T: Send + 'static>(
        database: &Arc<Database>,
        work: Vec<impl FnOnce(&Connection) -> Result<T, Failed> + Send + 'static>,
    ) -> Vec<PortResult<T>> {
        let gate = Arc::new(Barrier::new(2));
        let held = {
            let (database, gate) = (Arc::clone(database), Arc::clone(&gate));
            tokio::spawn(async move {
                let wait = move |_: &Connection| {
                    gate.wait();
                    Ok(())
                };
                database.write(wait).await
            })
        };
        tokio::task::yield_now().await;
        let mut calls: Vec<_> =
            work.into_iter().map(|work| Box::pin(database.write(work))).collect();
        // One poll of each sends its order.
        for call in &mut calls {
            let sent = std::future::poll_fn(|context| {
                std::task::Poll::Ready(call.as_mut().poll(context).is_pending())
            });
            assert!(sent.await, "the writer is held");
        }
        tokio::task::spawn_blocking(move || gate.wait()).await.expect("the gate opens");
        held.await.expect("no panic").expect("the gate's own write");
        let mut answers = Vec::new();
        for call in calls {
            answers.push(call.await);
        }
        answers
    }

    #[tokio::test]
    async fn one_that_fails_in_a_batch_hurts_no_other() {
        let (_folder, database) = open();
        let work: Vec<Work> = vec![
            Box::new(|conn| insert(conn, 1)),
            Box::new(|conn| {
                insert(conn, 2)?;
                Err(Conflict::Contended.into())
            }),
            Box::new(|conn| insert(conn, 1)),
            Box::new(|conn| {
                insert(conn, 3)?;
                panic!("a defect")
            }),
            Box::new(|conn| insert(conn, 4)),
        ];
        let answers = as_one_batch(&database, work).await;
        assert!(answers[0].is_ok() && answers[4].is_ok(), "{answers:?}");
        assert!(matches!(answers[1], Err(PortError::Conflict(Conflict::Contended))));
        assert!(matches!(answers[2], Err(PortError::Broken { .. })), "a constraint: {answers:?}");
        assert!(matches!(answers[3], Err(PortError::Broken { .. })), "a panic: {answers:?}");
        assert_eq!(numbers(&database).await, [1, 4]);
    }

    #[tokio::test]
    async fn a_batch_is_one_transaction() {
        let (folder, database) = open();
        let other = Connection::open(folder.path().join("test.db")).expect("a second connection");
        let seen = |other: &Connection| {
            other
                .query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0))
                .expect("a number")
        };
        let before = seen(&other);
        let work: Vec<_> = (0..50).map(|n| move |conn: &Connection| insert(conn, n)).collect();
        let answers = as_one_batch(&database, work).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert_eq!(numbers(&database).await.len(), 50);
        // It counts the commits of others.
        assert_eq!(seen(&other), before + 1);
    }

    #[tokio::test]
    async fn when_a_batch_cannot_be_committed_all_its_callers_hear_of_it() {
        let (folder, database) = open();
        let other = Connection::open(folder.path().join("test.db")).expect("a second connection");
        other.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
        let answer = database.write(|conn| insert(conn, 1)).await;
        assert!(matches!(answer, Err(PortError::Unavailable { .. })), "{answer:?}");
        other.execute_batch("ROLLBACK").expect("the lock is free");
        database.write(|conn| insert(conn, 2)).await.expect("it goes on");
        assert_eq!(numbers(&database).await, [2]);
    }

    #[tokio::test]
    async fn a_full_disk_is_told_as_such_and_passes() {
        let (_folder, database) = open();
        let limit = |pages: i64| {
            move |conn: &Connection| {
                conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
                Ok(())
            }
        };
        database.write(limit(3)).await.expect("a small disk");
        let fill = |from: i64| {
            move |conn: &Connection| (from..from + 400).try_for_each(|n| insert(conn, n))
        };
        let mut full = None;
        for from in 0..40 {
            if let Err(error) = database.write(fill(from * 400)).await {
                full = Some(error);
                break;
            }
        }
        assert!(matches!(full, Some(PortError::Unavailable { .. })), "{full:?}");
        assert_eq!(numbers(&database).await.len() % 400, 0, "half a piece of work was kept");
        database.write(limit(1000)).await.expect("space again");
        database.write(fill(1_000_000)).await.expect("it goes on");
    }

    #[tokio::test]
    async fn work_that_may_wait_is_done_before_what_comes_after_it_and_at_the_end() {
        let (folder, database) = open();
        database.write_soon(|conn| insert(conn, 1)).expect("an open database");
        let seen = database.write(|conn| {
            Ok(conn.query_row("SELECT count(*) FROM numbers", [], |row| row.get::<_, i64>(0))?)
        });
        assert_eq!(seen.await.expect("a count"), 1);
        database.write_soon(|conn| insert(conn, 2)).expect("an open database");
        drop(database);
        let file = folder.path().join("test.db");
        let again = Database::open(&file, KIND, Duration::from_millis(50)).expect("a database");
        assert_eq!(numbers(&again).await, [1, 2]);
    }

    #[tokio::test]
    async fn a_reader_cannot_write() {
        let (_folder, database) = open();
        database.read(|conn| insert(conn, 1)).await.expect_err("it is read-only");
        assert!(numbers(&database).await.is_empty());
    }
}
