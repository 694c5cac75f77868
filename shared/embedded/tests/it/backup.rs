//! Backups: what they have, what is refused, and what a restored folder forgets.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rdev_domain::audit::Actor;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::ids::Fence;
use rdev_domain::lease::Holder;
use rdev_domain::page::Page;
use rdev_domain::ports::{AuditFilter, Claimed, Forge, NewRepository, Record, Start, Store};
use rdev_domain::project::Project;
use rdev_domain::step::{Event, retry};
use rdev_domain::task::{Task, TaskState};
use rdev_domain::worker::{Worker, WorkerStatus};
use rdev_embedded::{BackupError, Embedded, Options, backup, open, restore};
use rdev_testkit::servers::git_http::git;
use rusqlite::Connection;
use tempfile::TempDir;
use ulid::Ulid;

use crate::scene::{NOW, Scene, claim, create, enqueue, project, task};

/// A backup of a scene, in a folder of its own.
struct Backup {
    folder: TempDir,
    file: PathBuf,
}

impl Backup {
    fn of(scene: &Scene) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("rdev.backup");
        backup(&scene.data.folder, &file, "0.0.0", NOW).expect("a backup");
        Self { folder, file }
    }

    /// Restores it into a new folder.
    fn restored(&self) -> PathBuf {
        let into = self.folder.path().join(Ulid::generate().to_string());
        restore(&self.file, &into, NOW).expect("it is restored").folder
    }

    fn opened(&self) -> Embedded {
        open(&self.restored(), Options::default()).expect("a restored folder opens")
    }

    /// What restoring a file with this content answers. Nothing must be written.
    fn refused(&self, content: &[u8]) -> BackupError {
        let (file, into) = (self.folder.path().join("bad"), self.folder.path().join("into"));
        fs::write(&file, content).expect("a file");
        let before = names(self.folder.path());
        let refused = restore(&file, &into, NOW).expect_err("it is refused");
        assert_eq!(names(self.folder.path()), before, "{refused}");
        refused
    }
}

/// A project with a repository in the folder.
async fn with_repository(scene: &Scene, id: &str) -> Project {
    let new = NewRepository {
        project: id.parse().expect("a slug"),
        nonce: Ulid::generate(),
        description: String::new(),
        branch: "main".parse().expect("a branch"),
        start: Start::Seed(vec![rdev_domain::ports::SeedFile {
            path: "a".to_owned(),
            content: b"1\n".to_vec(),
        }]),
    };
    let made = scene.data.forge.create_repository(&new).await.expect("a repository");
    let project = Project { git_url: Some(made.git_url), ..project(id) };
    let by = Actor::maintenance();
    scene.data.store.create_project(&project, &by, NOW).await.expect("a project")
}

async fn advance(store: &dyn Store, claimed: &Claimed, event: impl FnOnce(Holder) -> Event) {
    let holder = Holder { fence: claimed.lease.fence, owner: claimed.lease.owner.clone() };
    let by = Actor::maintenance();
    let advanced = store.advance(claimed.task.id, event(holder), Record::default(), &by, NOW).await;
    advanced.expect("it holds the task");
}

fn failed(holder: Holder) -> Event {
    let failure = Failure::new(FailureClass::Invalid, "no");
    Event::Fail { holder, failure, usage: None, revoked: false }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_backup_of_a_folder_in_use_has_its_records_and_repositories() {
    let scene = Scene::new();
    let site = with_repository(&scene, "site").await;
    let queued = enqueue(&*scene.data.store, &site.id).await;
    fs::create_dir_all(scene.path("unpushed/x/1/git")).expect("a folder");
    fs::write(scene.path("unpushed/x/1/finished"), "x 1 abc").expect("a file");
    fs::create_dir_all(scene.path("repos/.half-done-x")).expect("a folder");
    let repository = scene.path("repos/site.git");
    let hook = repository.join("hooks/pre-receive");
    fs::create_dir_all(repository.join("hooks")).expect("a folder");
    fs::write(&hook, "#!/bin/sh\n").expect("a hook");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("a mode");
    git(&repository, &["gc", "-q"]);
    git(&repository, &["update-ref", "refs/heads/other", "main"]);

    let backup = Backup::of(&scene);
    let mode = |path: &Path| fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
    assert_eq!(mode(&backup.file), 0o600);
    assert_eq!(names(backup.folder.path()), ["rdev.backup"], "nothing else remains");
    let restored = backup.opened();
    assert_eq!(mode(&restored.folder), 0o700);
    assert_eq!(mode(&restored.folder.join("rdev.db")), 0o600);
    let copy = restored.folder.join("repos/site.git");
    assert_eq!(mode(&copy.join("hooks/pre-receive")), 0o700);
    git(&copy, &["fsck", "--strict"]);
    for name in ["main", "other"] {
        assert_eq!(git(&copy, &["rev-parse", name]), git(&repository, &["rev-parse", "main"]));
    }
    assert!(restored.folder.join("unpushed/x/1/git").is_dir());
    let finished = fs::read_to_string(restored.folder.join("unpushed/x/1/finished"));
    assert_eq!(finished.expect("a file"), "x 1 abc");
    assert!(!restored.folder.join("repos/.half-done-x").exists());

    let here = restored.store.project(&site.id).await.expect("it is there");
    assert_eq!(here.git_url.as_ref().and_then(|url| url.to_folder()), Some(copy));
    assert_eq!(Project { git_url: site.git_url.clone(), ..here }, site);
    let there = restored.store.task(queued.id).await.expect("it is there").task;
    assert_eq!(there, Task { restored: true, fence: Fence(1000), ..queued });
    let swept = restored.store.sweep(NOW).await.expect("a sweep");
    let woken: Vec<_> = swept.outbox.iter().map(|entry| &entry.project_id).collect();
    assert_eq!(woken, [&site.id], "its wake-up is sent again at once");
    // As tar reads it, without rdev.
    let listed = std::process::Command::new("tar").arg("-tzf").arg(&backup.file).output();
    let listed = listed.expect("tar is installed");
    let text = String::from_utf8_lossy(&listed.stdout);
    assert!(listed.status.success() && text.contains("repos/site.git/HEAD"), "{text}");
}

#[tokio::test]
async fn a_restored_folder_marks_its_tasks_and_forgets_workers_and_leases() {
    let scene = Scene::new();
    let store = &*scene.data.store;
    let site = create(store, "site").await;
    let old = enqueue(store, &site).await;
    let failing = claim(store, &site).await;
    advance(store, &failing, failed).await;
    let running = enqueue(store, &site).await;
    claim(store, &site).await;
    let worker = Worker {
        id: "w1".parse().expect("an id"),
        hostname: "h".to_owned(),
        version: "1".to_owned(),
        status: WorkerStatus::ALL[0],
        slots: 1,
        running: vec![],
        agents: vec![],
        started_at: NOW,
        last_heartbeat_at: NOW,
    };
    store.heartbeat(&worker, NOW).await.expect("a worker");
    store.set_drain(&worker.id, true, &Actor::maintenance(), NOW).await.expect("it drains");

    let backup = Backup::of(&scene);
    let restored = backup.opened();
    let store = &*restored.store;
    assert_eq!(store.workers().await.expect("a list"), []);
    assert!(!store.heartbeat(&worker, NOW).await.expect("a new worker"), "it does not drain");
    let held = store.task(running.id).await.expect("it is there");
    assert_eq!((held.task.fence, held.task.restored), (Fence(1001), true));
    store.recover_all(NOW).await.expect("recovered, as at every start");
    let again = store.task(running.id).await.expect("it is there");
    assert_eq!((again.task.state, again.lease), (TaskState::Queued, None));
    let claimed = claim(store, &site).await;
    assert_eq!((claimed.task.id, claimed.task.fence), (running.id, Fence(1003)));
    assert!(claimed.task.restored, "the mark stays");

    let ended = store.task(old.id).await.expect("it is there").task;
    assert_eq!((ended.state, ended.fence), (TaskState::Failed, Fence(1)));
    let retry = retry(&ended, rdev_domain::ids::TaskId(Ulid::generate()), NOW).expect("a retry");
    assert!(retry.restored, "a retry inherits the mark");
    let page = Page { limit: 10, before: None };
    let audit = store.audit(&AuditFilter::default(), &page).await.expect("a log").items;
    assert!(audit.iter().any(|event| event.action == "installation.restored"), "{audit:?}");
    // The first folder is as it was.
    assert!(!scene.data.store.task(running.id).await.expect("it is there").task.restored);
}

#[tokio::test]
async fn a_damaged_or_foreign_file_is_refused_before_anything_is_written() {
    let scene = Scene::new();
    with_repository(&scene, "site").await;
    let backup = Backup::of(&scene);
    let good = fs::read(&backup.file).expect("bytes");
    let step = good.len() / 300 + 1;
    let ends = (0..40).chain(good.len() - 120..good.len());
    for at in ends.chain((0..good.len()).step_by(step)) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        let refused = backup.refused(&bad);
        assert!(
            matches!(refused, BackupError::Damaged { .. } | BackupError::Foreign { .. }),
            "byte {at}: {refused:?}"
        );
        let refused = backup.refused(&good[..at]);
        assert!(
            matches!(refused, BackupError::Damaged { .. } | BackupError::Foreign { .. }),
            "{at} bytes: {refused:?}"
        );
    }
    for more in [&[0][..], &good] {
        let refused = backup.refused(&[&good[..], more].concat());
        assert!(matches!(refused, BackupError::Damaged { .. }), "{refused:?}");
    }
    let gzip = archive(&[], "something else", |_| ());
    for foreign in [&b""[..], b"x", b"SQLite format 3\0", &good[30..], &gzip] {
        let refused = backup.refused(foreign);
        assert!(matches!(refused, BackupError::Foreign { .. }), "{refused:?}");
        assert!(refused.to_string().contains("not a backup"), "{refused}");
    }
    let refused = backup.refused(&archive(&[], "rdev backup 2", |_| ()));
    assert!(matches!(refused, BackupError::Newer { found: 2, known: 1, .. }), "{refused:?}");
    restore(&backup.file, &backup.folder.path().join("into"), NOW).expect("the whole one is good");
}

/// A file with a valid digest: a gzip member with this comment, and an archive.
fn archive(
    files: &[(&str, &[u8])],
    comment: &str,
    more: impl FnOnce(&mut tar::Builder<Vec<u8>>),
) -> Vec<u8> {
    use sha2::Digest;
    use std::io::Write;
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        // Written as it is: the library would refuse a path that leads out of the folder.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        tar.append(&header, *content).expect("an entry");
    }
    more(&mut tar);
    let member = |comment: &str| {
        let head = [0x1f, 0x8b, 8, 0x10, 0, 0, 0, 0, 0, 0xff];
        [&head[..], comment.as_bytes(), &[0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat()
    };
    let mut gzip = flate2::write::GzEncoder::new(member(comment), flate2::Compression::fast());
    gzip.write_all(&tar.into_inner().expect("an archive")).expect("written");
    let mut file = gzip.finish().expect("written");
    let digest: String =
        sha2::Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
    file.extend(member(&format!("sha256 {digest}")));
    file
}

#[tokio::test]
async fn an_archive_that_somebody_made_writes_nothing_outside_of_the_folder() {
    let scene = Scene::new();
    let backup = Backup::of(&scene);
    let made = |path: &str| archive(&[(path, b"x")], "rdev backup 1", |_| ());
    for path in ["../evil", "/evil", "repos/../../evil", "evil", "lock", "rdev.db/x", "rdev.json"] {
        let refused = backup.refused(&made(path));
        assert!(matches!(refused, BackupError::Foreign { .. }), "{path}: {refused:?}");
    }
    let link = archive(&[], "rdev backup 1", |tar| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "repos", "/tmp").expect("an entry");
    });
    assert!(matches!(backup.refused(&link), BackupError::Foreign { .. }));
    let manifest = br#"{"rdev":"1","created_at":"2026-01-01T12:00:00.000Z"}"#;
    let parts: [&[(&str, &[u8])]; 3] =
        [&[], &[("manifest.json", manifest)], &[("manifest.json", b"[]"), ("rdev.db", b"")]];
    for files in parts {
        let refused = backup.refused(&archive(files, "rdev backup 1", |_| ()));
        assert!(matches!(refused, BackupError::Foreign { .. }), "{refused:?}");
    }
    let files: [(&str, &[u8]); 2] = [
        ("manifest.json", manifest),
        ("rdev.db", &b"no database, and longer than a header".repeat(9)),
    ];
    let refused = backup.refused(&archive(&files, "rdev backup 1", |_| ()));
    assert!(matches!(refused, BackupError::Database { .. }), "{refused:?}");
}

#[test]
fn only_an_empty_folder_is_restored_into_and_no_file_is_overwritten() {
    let scene = Scene::new();
    let backup = Backup::of(&scene);
    let into = backup.folder.path().join("a/b");
    fs::create_dir_all(&into).expect("a folder");
    fs::write(into.join("x"), "").expect("a file");
    for path in [&into, &into.join("x"), &scene.data.folder] {
        let refused = restore(&backup.file, path, NOW).expect_err("refused");
        assert!(matches!(refused, BackupError::NotEmpty { .. }), "{refused:?}");
        assert!(refused.to_string().contains("--data-dir"), "{refused}");
    }
    assert_eq!(
        (names(&into), names(&backup.folder.path().join("a"))),
        (vec!["x".into()], vec!["b".into()])
    );
    fs::remove_file(into.join("x")).expect("removed");
    let restored = restore(&backup.file, &into, NOW).expect("it is empty");
    assert_eq!((restored.folder, restored.made_by), (into.clone(), "0.0.0".to_owned()));
    assert_eq!(names(&into), ["rdev.db", "repos", "unpushed"]);

    let before = fs::read(&backup.file).expect("bytes");
    let refused = rdev_embedded::backup(&into, &backup.file, "0.0.0", NOW).expect_err("it exists");
    assert!(matches!(refused, BackupError::Exists { .. }), "{refused:?}");
    assert_eq!(fs::read(&backup.file).expect("bytes"), before);
    let nothing = backup.folder.path().join("nothing");
    let refused = rdev_embedded::backup(&nothing, &nothing.join("x"), "0.0.0", NOW);
    assert!(matches!(refused, Err(BackupError::NoData { .. })), "{refused:?}");
    assert!(!nothing.exists());
}

#[test]
fn a_store_of_a_newer_version_is_neither_backed_up_nor_restored() {
    let scene = Scene::new();
    let backup = Backup::of(&scene);
    let folder = backup.restored();
    let newer = Connection::open(folder.join("rdev.db")).expect("a database");
    newer.execute_batch("PRAGMA user_version = 9").expect("a newer version");
    drop(newer);
    let file = backup.folder.path().join("newer");
    let refused = rdev_embedded::backup(&folder, &file, "0.0.0", NOW).expect_err("it is newer");
    assert!(matches!(refused, BackupError::Newer { found: 9, .. }), "{refused:?}");
    assert!(!file.exists());
}

#[tokio::test]
async fn a_moved_folder_and_one_of_an_older_version_keep_their_repositories() {
    let scene = Scene::new();
    let site = with_repository(&scene, "site").await;
    let spec = rdev_domain::spec::BuildSpec {
        git_url: site.git_url.clone(),
        ..rdev_domain::spec::BuildSpec::of("x")
    };
    let work = rdev_domain::spec::Work::Build(spec);
    let named = Task { work, ..task(&site.id) };
    let by = Actor::maintenance();
    scene.data.store.enqueue(&named, &by, NOW).await.expect("a task");
    let absolute = scene.data.folder.clone();
    let files = scene.into_files();
    let moved = files.path().join("some where else");
    fs::rename(&absolute, &moved).expect("moved");

    let conn = Connection::open(moved.join("rdev.db")).expect("a database");
    let stored: String =
        conn.query_row("SELECT body FROM projects", [], |row| row.get(0)).expect("a record");
    assert!(!stored.contains(absolute.to_str().expect("UTF-8")), "{stored}");
    let repository = |data: &Embedded| data.folder.join("repos/site.git");
    let check = async |data: &Embedded| {
        let url = data.store.project(&site.id).await.expect("it is there").git_url;
        assert_eq!(url.and_then(|url| url.to_folder()), Some(repository(data)));
        let task = data.store.task(named.id).await.expect("it is there").task;
        let rdev_domain::spec::Work::Build(spec) = task.work else { panic!("a build") };
        assert_eq!(spec.git_url.and_then(|url| url.to_folder()), Some(repository(data)));
    };
    check(&open(&moved, Options::default()).expect("it opens")).await;

    // As a version before this one wrote them.
    for table in ["projects", "tasks"] {
        let old = format!("file://{}/repos/", absolute.display());
        let changed = conn.execute(
            &format!("UPDATE {table} SET body = replace(body, 'file:///$data/repos/', ?1)"),
            [old],
        );
        assert_eq!(changed.expect("it is written"), 1);
    }
    drop(conn);
    let again = files.path().join("again");
    fs::rename(&moved, &again).expect("moved");
    check(&open(&again, Options::default()).expect("it opens")).await;
}

#[tokio::test]
async fn locks_that_tell_of_a_move_survive_a_backup_and_a_start_and_no_other_does() {
    let scene = Scene::new();
    with_repository(&scene, "site").await;
    let repository = scene.path("repos/site.git");
    let (a, b) = ("1".repeat(40), "2".repeat(40));
    let ticket = "refs/rdev/wip/01JZ0000000000000000000000/1.lock";
    let moves = [
        (ticket, format!("rdev landing   {a} refs/heads/main\n")),
        ("refs/heads/main.lock", format!("{a}\n")),
    ];
    let stale = [
        ("refs/rdev/wip/01JZ0000000000000000000000/2.lock", String::new()),
        ("refs/heads/other.lock", format!("{b}\n")),
        ("packed-refs.lock", String::new()),
        ("config.lock", String::new()),
    ];
    for (name, content) in moves.iter().chain(&stale) {
        let path = repository.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, content).expect("a file");
    }
    let copy = Backup::of(&scene);
    let restored = copy.restored().join("repos/site.git");
    let scene = scene.reopened();
    for repository in [restored, scene.path("repos/site.git")] {
        for (name, content) in &moves {
            let found = fs::read_to_string(repository.join(name));
            assert_eq!(&found.expect("it stays"), content, "{name}");
        }
        for (name, _) in &stale {
            assert!(!repository.join(name).exists(), "{name}");
        }
    }
}

#[tokio::test]
async fn a_repository_that_is_pushed_to_and_repacked_meanwhile_is_whole_in_each_backup() {
    let scene = Scene::new();
    with_repository(&scene, "site").await;
    let repository = scene.path("repos/site.git");
    let tree = git(&repository, &["rev-parse", "main^{tree}"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for count in 0..2_000 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let text = format!("commit {count}");
                let commit = git(&repository, &["commit-tree", &tree, "-p", "main", "-m", &text]);
                git(&repository, &["update-ref", "refs/heads/main", &commit]);
            }
        });
        scope.spawn(|| {
            for _ in 0..2_000 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                git(&repository, &["pack-refs", "--all"]);
                git(&repository, &["repack", "-a", "-d", "-q"]);
            }
        });
        let mut tips = std::collections::BTreeSet::new();
        for _ in 0..12 {
            let copy = Backup::of(&scene);
            let restored = copy.restored().join("repos/site.git");
            git(&restored, &["fsck", "--strict"]);
            assert_eq!(git(&restored, &["for-each-ref", "--format=%(refname)"]), "refs/heads/main");
            tips.insert(git(&restored, &["rev-parse", "main"]));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(tips.len() > 1, "it was pushed to meanwhile");
    });
}
