//! What every operation of the store needs: the table, this process's memory, and time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use rdev_domain::audit::Actor;
use rdev_domain::record::Format;
use rdev_domain::retention::Retention;
use rdev_domain::time::Timestamp;
use ulid::Ulid;

use super::item::ulid_time;
use super::lease_cache::LeaseCache;
use super::table::Table;
use crate::clock::Clock;

/// What all operations share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) table: Table,
    pub(super) retention: Retention,
    pub(super) format: Format,
    pub(super) clock: Clock,
    pub(super) leases: LeaseCache,
    /// Which of several equal projects a claim is for.
    pub(super) chance: fn() -> u32,
    latest: AtomicI64,
    last_id: Mutex<Ulid>,
}

/// One change: who makes it, and when.
pub(super) struct Change<'a> {
    pub(super) context: &'a Context,
    pub(super) by: &'a Actor,
    pub(super) now: Timestamp,
}

impl Context {
    pub(super) fn new(table: Table, retention: Retention, clock: Clock) -> Self {
        Self {
            table,
            retention,
            format: Format::CURRENT,
            clock,
            leases: LeaseCache::default(),
            chance: rand::random,
            latest: AtomicI64::new(i64::MIN),
            last_id: Mutex::new(Ulid::nil()),
        }
    }

    /// A change by `by` at the caller's `now`.
    pub(super) fn change<'a>(&'a self, by: &'a Actor, now: Timestamp) -> Change<'a> {
        let now = self.clock.correct(now);
        self.latest.fetch_max(now.as_millis(), Ordering::Relaxed);
        Change { context: self, by, now }
    }

    /// Readers do not see records that had expired at this time.
    pub(super) fn latest(&self) -> Timestamp {
        Timestamp::from_millis(self.latest.load(Ordering::Relaxed)).max(self.clock.now())
    }

    /// A new ULID of `now`, greater than every one that this process has created: its part of
    /// the audit log is in the order of its transactions.
    pub(super) fn next_id(&self, now: Timestamp) -> Ulid {
        let fresh = Ulid::from_parts(ulid_time(now), Ulid::generate().random());
        let mut last = self.last_id.lock().unwrap_or_else(PoisonError::into_inner);
        *last = if fresh > *last { fresh } else { last.increment().unwrap_or(fresh) };
        *last
    }
}
