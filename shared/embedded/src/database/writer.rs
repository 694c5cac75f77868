//! The thread that writes a database. It commits all waiting work together.
//!
//! A commit costs one sync of the disk, whatever its size. So the thread takes
//! all the work that arrived during the last sync, runs each piece in a savepoint
//! of one transaction, commits once, and only then replies to the callers. If a
//! piece fails, only its own savepoint is rolled back.

use std::mem;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::error::NotCommitted;

/// The most pieces of work in one transaction.
const MAX_BATCH: usize = 512;

/// How long deferred work may wait for other work to be committed with.
const SOON: Duration = Duration::from_millis(100);

/// A piece of work. It gets the connection, inside a transaction, or the error
/// because of which no transaction could begin.
pub(super) type Job = Box<dyn FnOnce(Result<&Connection, &NotCommitted>) -> Outcome + Send>;

/// Sends the result to the caller. The argument is the error if the transaction was
/// not committed.
pub(super) type Reply = Box<dyn FnOnce(Option<&NotCommitted>)>;

/// The outcome of one piece of work.
pub(super) struct Outcome {
    /// Whether its changes are to be committed.
    pub(super) commit: bool,
    /// Called once the transaction was committed or lost. If it was lost, the
    /// caller gets that error even where its own work was refused: the refusal
    /// may depend on changes that were lost with it.
    pub(super) reply: Reply,
}

/// What callers send to the thread.
pub(super) enum Request {
    /// A caller waits for this job.
    Now(Job),
    /// No caller waits: the job may wait for the next transaction.
    Soon(Job),
}

/// Runs jobs until every sender is dropped and every job is done.
pub(super) fn run(conn: &Connection, requests: &Receiver<Request>) {
    let mut batch: Vec<Job> = Vec::new();
    let mut deadline: Option<Instant> = None;
    loop {
        let request = match deadline {
            None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => requests.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        match request {
            Ok(Request::Now(job)) => batch.push(job),
            Ok(Request::Soon(job)) => {
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
            && let Ok(Request::Now(job) | Request::Soon(job)) = requests.try_recv()
        {
            batch.push(job);
        }
        deadline = None;
        commit_all(conn, mem::take(&mut batch));
    }
}

/// Runs every job of a batch in one transaction. If SQLite itself rolls that back
/// in the middle (a full disk), the jobs that are left get another transaction.
fn commit_all(conn: &Connection, batch: Vec<Job>) {
    let mut jobs = batch.into_iter();
    while jobs.len() > 0 {
        let alone = jobs.len() == 1;
        if let Err(error) = execute(conn, "BEGIN IMMEDIATE") {
            let error = NotCommitted::because_of(&error);
            for job in jobs {
                (job(Err(&error)).reply)(None);
            }
            return;
        }
        let (replies, error) = match run_in_transaction(conn, &mut jobs, alone) {
            (replies, None) => match execute(conn, "COMMIT") {
                Ok(()) => (replies, None),
                Err(error) => (replies, Some(NotCommitted::because_of(&error))),
            },
            failed => failed,
        };
        if error.is_some() && !conn.is_autocommit() {
            // If the rollback fails too, the next BEGIN fails and reports why.
            if let Err(error) = execute(conn, "ROLLBACK") {
                tracing::error!(%error, "cannot roll back");
            }
        }
        for reply in replies {
            reply(error.as_ref());
        }
    }
}

fn run_in_transaction(
    conn: &Connection,
    jobs: &mut impl Iterator<Item = Job>,
    alone: bool,
) -> (Vec<Reply>, Option<NotCommitted>) {
    let mut replies = Vec::new();
    for job in jobs {
        // A job that is alone needs no savepoint: it is the whole transaction.
        if !alone && let Err(error) = execute(conn, "SAVEPOINT job") {
            replies.push(job(Err(&NotCommitted::because_of(&error))).reply);
            return (replies, Some(NotCommitted::because_of(&error)));
        }
        let Outcome { commit, reply } = job(Ok(conn));
        replies.push(reply);
        if conn.is_autocommit() {
            return (replies, Some(NotCommitted::rolled_back()));
        }
        let ended = match (alone, commit) {
            (true, true) => Ok(()),
            (true, false) => execute(conn, "ROLLBACK").and_then(|()| execute(conn, "BEGIN")),
            (false, true) => execute(conn, "RELEASE job"),
            (false, false) => {
                execute(conn, "ROLLBACK TO job").and_then(|()| execute(conn, "RELEASE job"))
            }
        };
        if let Err(error) = ended {
            return (replies, Some(NotCommitted::because_of(&error)));
        }
    }
    (replies, None)
}

fn execute(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    conn.prepare_cached(sql)?.execute([]).map(drop)
}
