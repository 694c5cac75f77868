//! What every writing transaction needs, and what outlives it.

use std::fmt::Display;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdev_domain::audit::Actor;
use rdev_domain::chain;
use rdev_domain::record::Format;
use rdev_domain::retention::Retention;
use rdev_domain::time::Timestamp;
use rusqlite::Connection;
use ulid::Ulid;

use crate::error::Error;

/// One writing transaction: who changes the store, and when.
pub(super) struct Tx<'a> {
    pub(super) conn: &'a Connection,
    pub(super) context: &'a Context,
    pub(super) by: &'a Actor,
    pub(super) now: Timestamp,
}

impl Tx<'_> {
    /// Does something with one record among many. If that fails because of this record, nothing
    /// of it remains, it is logged, and the result is `None`: the other records go on.
    pub(super) fn alone<T>(
        &self,
        record: impl Display,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let run = |sql| self.conn.prepare_cached(sql)?.execute([]);
        run("SAVEPOINT alone")?;
        match work() {
            Ok(done) => {
                run("RELEASE alone")?;
                Ok(Some(done))
            }
            Err(error) if error.is_of_one_record() => {
                run("ROLLBACK TO alone")?;
                run("RELEASE alone")?;
                let error = chain(&error.into_port("the store"));
                tracing::error!(%record, error, "a record is left as it is");
                Ok(None)
            }
            // The whole transaction is rolled back.
            Err(error) => Err(error),
        }
    }
}

/// What all transactions share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) retention: Retention,
    pub(super) format: Format,
    latest: AtomicI64,
    last_id: Arc<Mutex<Ulid>>,
}

impl Context {
    /// `last_id` is the newest id in the audit log.
    pub(super) fn new(retention: Retention, last_id: Ulid) -> Self {
        let (latest, last_id) = (AtomicI64::new(i64::MIN), Arc::new(Mutex::new(last_id)));
        Self { retention, format: Format::CURRENT, latest, last_id }
    }

    /// Another one for the same database: no id is given twice.
    pub(super) fn with_format(&self, format: Format) -> Self {
        let latest = AtomicI64::new(i64::MIN);
        Self { retention: self.retention, format, latest, last_id: Arc::clone(&self.last_id) }
    }

    pub(super) fn note_time(&self, now: Timestamp) {
        self.latest.fetch_max(now.as_millis(), Ordering::Relaxed);
    }

    /// The latest time that any caller has passed.
    pub(super) fn latest(&self) -> Timestamp {
        Timestamp::from_millis(self.latest.load(Ordering::Relaxed))
    }

    /// A new ULID of `now`, greater than every one before: the audit log is in the order of
    /// its transactions.
    pub(super) fn next_id(&self, now: Timestamp) -> Ulid {
        const LATEST: i64 = (1 << 48) - 1;
        let millis = u64::try_from(now.as_millis().clamp(0, LATEST)).unwrap_or(0);
        let fresh = Ulid::from_parts(millis, Ulid::generate().random());
        let mut last = self.last_id.lock().unwrap_or_else(PoisonError::into_inner);
        *last = if fresh > *last { fresh } else { last.increment().unwrap_or(fresh) };
        *last
    }
}
