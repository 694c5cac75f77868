//! The conformance suites of the ports, on SQLite.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rdev_domain::retention::Retention;
use rdev_embedded::Options;
use rdev_testkit::conformance::queue::{
    QueueSettings, QueueUnderTest, exercise_queue, queue_cases,
};
use rdev_testkit::conformance::store::{StoreUnderTest, exercise_store, store_cases};
use rusqlite::Connection;

use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn the_store_keeps_the_protocol() {
    let open = |retention: Retention| async move {
        let scene = Scene::with(Options { retention, ..Options::default() });
        let file = scene.path("rdev.db");
        StoreUnderTest {
            store: scene.data.store.clone(),
            corrupt: Some(Arc::new(move |task| {
                let file = file.clone();
                Box::pin(async move {
                    let sql =
                        "UPDATE tasks SET body = '{\"from\": \"another version\"}' WHERE id = ?1";
                    assert_eq!(execute(&file, sql, task.0.to_bytes()), 1);
                })
            })),
            sweep_deletes: true,
            recovers_all: true,
            keep: Box::new(scene),
        }
    };
    let passed = exercise_store(open).await.expect("every case holds");
    assert_eq!((passed.ran(), passed.left_out()), (store_cases().len(), &[][..]));
    assert!(passed.ran() > 215, "{passed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_keeps_its_promises() {
    let open = |settings: QueueSettings| async move {
        let QueueSettings { visibility, max_receives } = settings;
        let scene = Scene::with(Options { visibility, max_receives, ..Options::default() });
        let file = scene.path("queue.db");
        QueueUnderTest {
            queue: scene.data.queue.clone(),
            send_raw: Arc::new(move |body| {
                let file = file.clone();
                Box::pin(async move {
                    let sql = "INSERT INTO messages (body, sent_at, visible_at, receive_count)
                               VALUES (?1, 1, 1, 0)";
                    assert_eq!(execute(&file, sql, body), 1);
                })
            }),
            stale_receipts_do_nothing: true,
            keep: Box::new(scene),
        }
    };
    let passed = exercise_queue(open).await.expect("every case holds");
    assert_eq!((passed.ran(), passed.left_out()), (queue_cases().len(), &[][..]));
    assert!(passed.ran() > 20, "{passed}");
}

/// Does what another program with access to the file could do.
fn execute(file: &PathBuf, sql: &str, value: impl rusqlite::ToSql) -> usize {
    let conn = Connection::open(file).expect("a second connection");
    conn.busy_timeout(Duration::from_secs(30)).expect("a timeout");
    conn.execute(sql, [value]).expect("it is written")
}
