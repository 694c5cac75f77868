//! Opening a data folder: lock, versions, modes.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rdev_domain::ports::Store;
use rdev_domain::wake_up::WakeUp;
use rdev_embedded::{OpenError, Options, open};
use rusqlite::Connection;

use crate::scene::{NOW, Scene, claim, create, enqueue};

#[tokio::test]
async fn a_folder_in_use_is_refused_with_the_pid_of_its_process() {
    let scene = Scene::new();
    let folder = scene.data.folder.clone();
    let refused = open(&folder, Options::default()).expect_err("it is in use");
    let OpenError::InUse { pid, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(*pid, Some(std::process::id()));
    let text = refused.to_string();
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    assert!(text.contains(folder.to_str().expect("UTF-8")), "{text}");

    // The folder stays locked until its last part is dropped.
    let forge = scene.data.forge.clone();
    let _files = scene.into_files();
    assert!(matches!(open(&folder, Options::default()), Err(OpenError::InUse { .. })));
    drop(forge);
    open(&folder, Options::default()).expect("it is free");
}

#[test]
fn child_processes_do_not_inherit_the_lock() {
    let scene = Scene::new();
    let folder = scene.data.folder.clone();
    let mut child = Command::new("sleep").arg("60").spawn().expect("a child");
    let reopened = scene.reopened();
    assert_eq!(reopened.data.folder, folder);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

#[test]
fn a_lock_that_a_killed_process_has_left_to_a_dying_child_is_waited_for() {
    let files = Scene::new().into_files();
    let folder = files.path().join("data");
    let lock = File::options().write(true).open(folder.join("lock")).expect("a lock file");
    lock.lock().expect("nobody has it");
    let mut killed = Command::new("true").spawn().expect("a process");
    killed.wait().expect("it ends");
    fs::write(folder.join("lock"), format!("{}\n", killed.id())).expect("its pid");
    let child = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(lock);
    });
    open(&folder, Options::default()).expect("the child ends");
    child.join().expect("the child does not panic");
}

#[tokio::test]
async fn written_records_exist_when_the_folder_is_opened_again() {
    let scene = Scene::new();
    let project = create(&*scene.data.store, "site").await;
    let task = enqueue(&*scene.data.store, &project).await;
    let scene = scene.reopened();
    assert_eq!(scene.data.store.task(task.id).await.expect("it exists").task, task);
    assert_eq!(version(&scene.path("rdev.db")), 8);
    assert_eq!(version(&scene.path("queue.db")), 1);
}

#[tokio::test]
async fn a_database_of_the_first_version_is_migrated_with_its_records() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("data");
    fs::create_dir(&path).expect("a folder");
    let first = Connection::open(path.join("rdev.db")).expect("a database");
    first.execute_batch(include_str!("../../migrations/store-1.sql")).expect("version 1");
    first
        .execute_batch(
            r#"PRAGMA user_version = 1;
            INSERT INTO projects VALUES ('site', zeroblob(16), 'ready', 1, '{"id": "site",
                "description": "", "template": null, "git_url": null, "default_branch": "main",
                "build_limit": 1, "state": "ready", "created_at": "2026-01-01T00:00:00Z",
                "updated_at": "2026-01-01T00:00:00Z", "nonce": "00000000000000000000000000"}');
            INSERT INTO marks VALUES (1, zeroblob(16), 'site');"#,
        )
        .expect("a project");
    drop(first);

    let data = open(&path, Options::default()).expect("it is brought up to date");
    let site = "site".parse().expect("a slug");
    let project = data.store.project(&site).await.expect("it exists");
    assert_eq!((project.webhook_url, project.ci_id), (None, None));
    let [entry] = &data.store.sweep(NOW).await.expect("a sweep").outbox[..] else { panic!("one") };
    assert_eq!(entry.wake_up(), WakeUp { project_id: project.id, agent: None });
    let queued = enqueue(&*data.store, &site).await;
    let claimed = claim(&*data.store, &site).await;
    assert_eq!((claimed.task.id, claimed.task.notify), (queued.id, false));
    assert_eq!(version(&path.join("rdev.db")), 8);
}

#[test]
fn a_database_of_a_newer_version_is_refused_and_not_changed() {
    for (name, latest) in [("rdev.db", 8), ("queue.db", 1)] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data");
        drop(open(&path, Options::default()).expect("a data folder"));
        let file = path.join(name);
        let newer = Connection::open(&file).expect("a database");
        newer.execute_batch("PRAGMA user_version = 9").expect("a newer version");
        drop(newer);
        let before = fs::read(&file).expect("bytes");

        let refused = open(&path, Options::default()).expect_err("it is newer");
        let OpenError::Newer { found: 9, known, .. } = &refused else { panic!("{refused:?}") };
        assert_eq!(*known, latest);
        let text = refused.to_string();
        assert!(text.contains(name) && text.contains("version 9"), "{text}");
        assert_eq!(fs::read(&file).expect("bytes"), before);
    }
}

#[test]
fn a_file_that_is_not_a_database_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(
        folder.path().join("queue.db"),
        "not a database, and longer than its header".repeat(9),
    )
    .expect("a file");
    let refused = open(folder.path(), Options::default()).expect_err("it is no database");
    let text = refused.to_string();
    assert!(text.contains("queue.db") && text.contains("may be deleted"), "{text}");
}

#[test]
fn files_are_for_their_owner_alone() {
    let scene = Scene::new();
    let mode = |path: &Path| fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
    assert_eq!(mode(&scene.data.folder), 0o700);
    for name in ["rdev.db", "rdev.db-wal", "rdev.db-shm", "queue.db", "lock"] {
        assert_eq!(mode(&scene.path(name)), 0o600, "{name}");
    }
    assert_eq!(mode(&scene.path("repos")), 0o700);
}

fn version(file: &Path) -> i64 {
    let conn = Connection::open(file).expect("a database");
    conn.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a number")
}
