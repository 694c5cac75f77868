//! The thread that writes a database: what waits is committed together.
//!
//! A commit costs one sync of the disk however much it holds. So the thread
//! takes all the work that has gathered while the last sync ran, runs each
//! piece in a savepoint of one transaction, commits once, and only then answers.
//! A piece that fails takes back its own savepoint and nothing else.

use std::mem;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::failed::Lost;

/// The most pieces of work in one transaction.
const MAX_BATCH: usize = 512;

/// How long work that nobody waits for may wait for company.
const SOON: Duration = Duration::from_millis(100);

/// A piece of work. It is given the connection, inside a transaction, or the
/// reason why there is none.
pub(crate) type Job = Box<dyn FnOnce(Result<&Connection, &Lost>) -> Ran + Send>;

/// Answers a caller; with why, when what its work did was lost.
pub(crate) type Answer = Box<dyn FnOnce(Option<&Lost>)>;

/// What a piece of work did.
pub(crate) struct Ran {
    /// Its changes are to be kept.
    pub(crate) keep: bool,
    /// Tells its caller, once the transaction was committed or lost. Losing it
    /// spoils failures and refusals too: they may rest on what was lost.
    pub(crate) answer: Answer,
}

/// What is sent to the thread.
pub(crate) enum Order {
    /// Somebody waits for it.
    Now(Job),
    /// Nobody does: it may go with the next one.
    Soon(Job),
}

/// Works until every sender is gone and everything sent is done.
pub(crate) fn run(conn: &Connection, orders: &Receiver<Order>) {
    let mut batch: Vec<Job> = Vec::new();
    let mut deadline: Option<Instant> = None;
    loop {
        let order = match deadline {
            None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => orders.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        match order {
            Ok(Order::Now(job)) => batch.push(job),
            Ok(Order::Soon(job)) => {
                batch.push(job);
                if batch.len() < MAX_BATCH {
                    deadline.get_or_insert_with(|| Instant::now() + SOON);
                    continue;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return commit_all(conn, mem::take(&mut batch)),
        }
        while batch.len() < MAX_BATCH
            && let Ok(Order::Now(job) | Order::Soon(job)) = orders.try_recv()
        {
            batch.push(job);
        }
        deadline = None;
        commit_all(conn, mem::take(&mut batch));
    }
}

/// Runs every job of a batch: in one transaction, unless SQLite itself gives
/// that up half-way (a full disk); then the jobs after it get another.
fn commit_all(conn: &Connection, batch: Vec<Job>) {
    let mut jobs = batch.into_iter();
    while jobs.len() > 0 {
        let alone = jobs.len() == 1;
        if let Err(error) = execute(conn, "BEGIN IMMEDIATE") {
            let lost = Lost::by(&error);
            for job in jobs {
                (job(Err(&lost)).answer)(None);
            }
            return;
        }
        let (answers, lost) = match run_in_transaction(conn, &mut jobs, alone) {
            (answers, None) => match execute(conn, "COMMIT") {
                Ok(()) => (answers, None),
                Err(error) => (answers, Some(Lost::by(&error))),
            },
            lost => lost,
        };
        if lost.is_some() && !conn.is_autocommit() {
            // What is not committed is gone in any case once the connection is;
            // when even this fails, the next BEGIN does, and says why.
            if let Err(error) = execute(conn, "ROLLBACK") {
                tracing::error!(%error, "cannot roll back");
            }
        }
        for answer in answers {
            answer(lost.as_ref());
        }
    }
}

fn run_in_transaction(
    conn: &Connection,
    jobs: &mut impl Iterator<Item = Job>,
    alone: bool,
) -> (Vec<Answer>, Option<Lost>) {
    let mut answers = Vec::new();
    for job in jobs {
        // One that is alone is its transaction's only content.
        if !alone && let Err(error) = execute(conn, "SAVEPOINT job") {
            answers.push(job(Err(&Lost::by(&error))).answer);
            return (answers, Some(Lost::by(&error)));
        }
        let Ran { keep, answer } = job(Ok(conn));
        answers.push(answer);
        if conn.is_autocommit() {
            return (answers, Some(Lost::rolled_back()));
        }
        let ended = match (alone, keep) {
            (true, true) => Ok(()),
            (true, false) => execute(conn, "ROLLBACK").and_then(|()| execute(conn, "BEGIN")),
            (false, true) => execute(conn, "RELEASE job"),
            (false, false) => {
                execute(conn, "ROLLBACK TO job").and_then(|()| execute(conn, "RELEASE job"))
            }
        };
        if let Err(error) = ended {
            return (answers, Some(Lost::by(&error)));
        }
    }
    (answers, None)
}

fn execute(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    conn.prepare_cached(sql)?.execute([]).map(drop)
}
