//! Batches, durability, and what failing work does to its neighbours.

use std::sync::Barrier;

use rdev_domain::ports::Conflict;

use super::*;

const SCHEMA: Schema = Schema {
    what: "the test",
    migrations: &["CREATE TABLE numbers (n INTEGER PRIMARY KEY) STRICT"],
    durable: true,
};

type Work = Box<dyn FnOnce(&Connection) -> Result<(), Error> + Send>;

fn open() -> (tempfile::TempDir, Arc<Database>) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("test.db");
    let database = Database::open(&file, SCHEMA, Duration::from_millis(50)).expect("a database");
    (folder, Arc::new(database))
}

fn insert(conn: &Connection, n: i64) -> Result<(), Error> {
    conn.prepare_cached("INSERT INTO numbers (n) VALUES (?1)")?.execute([n])?;
    Ok(())
}

#[tokio::test]
async fn a_durable_database_is_synced_at_every_commit_and_another_is_not() {
    // 2 is FULL, 1 is NORMAL.
    for (durable, expected) in [(true, 2), (false, 1)] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("test.db");
        let schema = Schema { durable, ..SCHEMA };
        let database = Database::open(&file, schema, Duration::from_millis(50)).expect("opened");
        let settings = |conn: &Connection| {
            let journal: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
            let synchronous: i64 = conn.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
            Ok((journal, synchronous))
        };
        let found = database.write(settings).await.expect("an answer");
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

/// Blocks the writing thread until all pieces of work wait for it, so that they
/// become one batch; then lets it run them, in order.
async fn as_one_batch<T: Send + 'static>(
    database: &Arc<Database>,
    work: Vec<impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static>,
) -> Vec<PortResult<T>> {
    let gate = Arc::new(Barrier::new(2));
    let blocked = {
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
    let mut calls: Vec<_> = work.into_iter().map(|work| Box::pin(database.write(work))).collect();
    // The first poll of each call sends its request.
    for call in &mut calls {
        let sent = std::future::poll_fn(|context| {
            std::task::Poll::Ready(call.as_mut().poll(context).is_pending())
        });
        assert!(sent.await, "the writing thread is blocked");
    }
    tokio::task::spawn_blocking(move || gate.wait()).await.expect("the gate opens");
    blocked.await.expect("no panic").expect("the gate's own write");
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await);
    }
    answers
}

#[tokio::test]
async fn work_that_fails_in_a_batch_does_not_affect_the_rest() {
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
    let commits = |other: &Connection| {
        other.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0)).expect("a number")
    };
    let before = commits(&other);
    let work: Vec<_> = (0..50).map(|n| move |conn: &Connection| insert(conn, n)).collect();
    let answers = as_one_batch(&database, work).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(numbers(&database).await.len(), 50);
    // It counts the commits of others.
    assert_eq!(commits(&other), before + 1);
}

#[tokio::test]
async fn when_a_batch_cannot_be_committed_all_its_callers_get_an_error() {
    let (folder, database) = open();
    let other = Connection::open(folder.path().join("test.db")).expect("a second connection");
    other.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    let answer = database.write(|conn| insert(conn, 1)).await;
    assert!(matches!(answer, Err(PortError::Unavailable { .. })), "{answer:?}");
    other.execute_batch("ROLLBACK").expect("the lock is free");
    database.write(|conn| insert(conn, 2)).await.expect("writes work again");
    assert_eq!(numbers(&database).await, [2]);
}

#[tokio::test]
async fn a_full_disk_is_reported_as_unavailable_and_writes_work_again_with_space() {
    let (_folder, database) = open();
    let limit = |pages: i64| {
        move |conn: &Connection| {
            conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
            Ok(())
        }
    };
    database.write(limit(3)).await.expect("a small disk");
    let fill =
        |from: i64| move |conn: &Connection| (from..from + 400).try_for_each(|n| insert(conn, n));
    let mut full = None;
    for from in 0..40 {
        if let Err(error) = database.write(fill(from * 400)).await {
            full = Some(error);
            break;
        }
    }
    assert!(matches!(full, Some(PortError::Unavailable { .. })), "{full:?}");
    assert_eq!(numbers(&database).await.len() % 400, 0, "a part of one piece of work was kept");
    database.write(limit(1000)).await.expect("space again");
    database.write(fill(1_000_000)).await.expect("writes work again");
}

#[tokio::test]
async fn deferred_work_runs_before_later_work_and_before_the_database_closes() {
    let (folder, database) = open();
    database.write_soon(|conn| insert(conn, 1)).expect("an open database");
    let count = database.write(|conn| {
        Ok(conn.query_row("SELECT count(*) FROM numbers", [], |row| row.get::<_, i64>(0))?)
    });
    assert_eq!(count.await.expect("a count"), 1);
    database.write_soon(|conn| insert(conn, 2)).expect("an open database");
    drop(database);
    let file = folder.path().join("test.db");
    let again = Database::open(&file, SCHEMA, Duration::from_millis(50)).expect("a database");
    assert_eq!(numbers(&again).await, [1, 2]);
}

#[tokio::test]
async fn a_reader_cannot_write() {
    let (_folder, database) = open();
    database.read(|conn| insert(conn, 1)).await.expect_err("it is read-only");
    assert!(numbers(&database).await.is_empty());
}
