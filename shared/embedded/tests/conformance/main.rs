//! The conformance suites of the ports, on SQLite. Each case is a test of its own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rdev_domain::retention::Retention;
use rdev_embedded::{Embedded, Options, open};
use rdev_testkit::conformance::queue::{self, QueueSettings, QueueUnderTest};
use rdev_testkit::conformance::store::{self, Damage, StoreUnderTest};
use rdev_testkit::conformance::{AT_ONCE, Keep};
use rdev_testkit::tools::trial;
use rusqlite::Connection;

fn main() -> ExitCode {
    let store = store::trials(async |retention| Ok(open_store(retention)));
    let queue = queue::trials(async |settings| Ok(open_queue(settings)));
    // Without this count no test would notice a case that is no longer listed.
    assert!(store.len() > 215 && queue.len() > 20, "{} and {}", store.len(), queue.len());
    trial::run(Some(AT_ONCE), [store, queue])
}

fn open_store(retention: Retention) -> StoreUnderTest {
    let (data, keep) = open_folder(Options { retention, ..Options::default() });
    let file = data.folder.join("rdev.db");
    StoreUnderTest {
        store: data.store.clone(),
        with_format: {
            let store = data.store.clone();
            Arc::new(move |format| Arc::new(store.with_format(format)))
        },
        replace_record: Arc::new(move |task, kind, body| {
            let file = file.clone();
            Box::pin(async move {
                let sql = "UPDATE tasks SET kind = ?2, body = ?3 WHERE id = ?1";
                assert_eq!(execute(&file, sql, (task.0.to_bytes(), kind, body)), 1);
            })
        }),
        damage: {
            let file = data.folder.join("rdev.db");
            Arc::new(move |task, damage| {
                let file = file.clone();
                Box::pin(async move {
                    let sql = match damage {
                        Damage::Lease => "UPDATE leases SET usage = '?' WHERE task = ?1",
                        Damage::State => "UPDATE tasks SET state = '?' WHERE id = ?1",
                    };
                    assert_eq!(execute(&file, sql, [task.0.to_bytes()]), 1);
                })
            })
        },
        sweep_deletes: true,
        recovers_all: true,
        keep,
    }
}

fn open_queue(settings: QueueSettings) -> QueueUnderTest {
    let QueueSettings { visibility, max_receives } = settings;
    let (data, keep) = open_folder(Options { visibility, max_receives, ..Options::default() });
    let file: PathBuf = data.folder.join("queue.db");
    QueueUnderTest {
        queue: data.queue.clone(),
        // On one machine there is one runner.
        of_codex: None,
        send_raw: Arc::new(move |body| {
            let file = file.clone();
            Box::pin(async move {
                let sql = "INSERT INTO messages (body, sent_at, visible_at, receive_count)
                           VALUES (?1, 1, 1, 0)";
                assert_eq!(execute(&file, sql, [body]), 1);
            })
        }),
        stale_receipts_do_nothing: true,
        keep,
    }
}

/// A data folder, and the value that removes it when it is dropped.
fn open_folder(options: Options) -> (Arc<Embedded>, Keep) {
    let folder = tempfile::tempdir().expect("a folder");
    let data = open(&folder.path().join("data"), options).expect("a data folder");
    let data = Arc::new(data);
    (Arc::clone(&data), Box::new((data, folder)))
}

/// Changes the file as another program could.
fn execute(file: &Path, sql: &str, values: impl rusqlite::Params) -> usize {
    let conn = Connection::open(file).expect("a second connection");
    conn.busy_timeout(Duration::from_secs(30)).expect("a timeout");
    conn.execute(sql, values).expect("it is written")
}
