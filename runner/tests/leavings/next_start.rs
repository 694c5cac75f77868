//! Leavings of any size and form, and the next start of the runner.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat};

use crate::child::{Child, Scenes, a_build_works, entries, until_trash_is_seen_to};
use crate::world::{PATIENCE, World, ulid};

rdev_testkit::trials! {
    fn whatever_builds_leave_the_next_start_removes_it_beside_the_next_build;
    fn what_a_killed_runner_was_removing_is_removed_by_the_next_one;
    fn the_runtime_goes_on_while_a_large_workspace_is_removed;
}

pub(crate) const SCENES: Scenes = &[
    ("start among leavings", |folder| Box::pin(start_among_leavings(folder))),
    ("start and wait", |folder| Box::pin(start_and_wait(folder))),
];

/// The number of files that a build leaves here; `RDEV_TEST_FILES` for more.
fn many() -> u64 {
    std::env::var("RDEV_TEST_FILES").map_or(100_000, |text| text.parse().expect("a number"))
}

pub(crate) fn workspace(place: &Path) -> PathBuf {
    let root = place.join("work").join(ulid().to_string());
    fs::create_dir_all(root.join("checkout")).expect("a workspace");
    root
}

/// Makes a thousand files in each folder.
fn fill(folder: &Path, count: u64) {
    for n in 0..count {
        let within = folder.join(format!("{}", n / 1000));
        if n % 1000 == 0 {
            fs::create_dir(&within).expect("a folder");
        }
        fs::write(within.join(n.to_string()), "").expect("a file");
    }
}

fn nest(folder: &Path, depth: usize) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at: OwnedFd = openat(CWD, folder, flags, Mode::empty()).expect("a folder");
    for _ in 0..depth {
        mkdirat(&at, c"d", Mode::RWXU).expect("a folder");
        at = openat(&at, c"d", flags, Mode::empty()).expect("the folder");
    }
}

fn whatever_builds_leave_the_next_start_removes_it_beside_the_next_build() {
    let folder = tempfile::tempdir().expect("a folder");
    let (place, outside) = (folder.path().join("place"), folder.path().join("outside"));
    fs::create_dir_all(outside.join("folder")).expect("a folder");
    fs::write(outside.join("file"), "precious").expect("a file");
    nest(&workspace(&place).join("checkout"), 20_000);
    fill(&workspace(&place).join("checkout"), many());
    let odd = workspace(&place);
    symlink(&outside, odd.join("link")).expect("a link");
    fs::write(odd.join(OsStr::from_bytes(b"\xff\xfe")), "").expect("a file");
    // What the runner itself reads in a workspace: a pipe without a writer, and a file without an
    // end.
    let (pipe, endless) = (workspace(&place), workspace(&place));
    mknodat(CWD, pipe.join("finished"), FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
    symlink("/dev/zero", endless.join("finished")).expect("a link");
    // Beside the workspaces.
    let work = place.join("work");
    fs::write(work.join("file"), "").expect("a file");
    fs::create_dir_all(work.join(OsStr::from_bytes(b"\xff")).join("x")).expect("a folder");
    symlink(&outside, work.join("link")).expect("a link");
    symlink(&outside, place.join("trash")).expect("a link where the trash is to be");
    // A mirror that a killed process was making, and one that it was removing.
    for name in ["0123.0.new", "0123.0.gone-0123"] {
        fs::create_dir_all(place.join("cache").join(name).join("objects")).expect("a folder");
    }

    let log = Child::new("start among leavings", &place).log();
    assert!(!log.contains("what a build has left"), "{log}");
    assert_eq!(fs::read_to_string(outside.join("file")).expect("still there"), "precious");
    assert_eq!(entries(&outside).len(), 2, "nothing went out through a link");
}

async fn start_among_leavings(place: PathBuf) {
    let mut world = World::new();
    world.elsewhere = Some(place.clone());
    let begun = Instant::now();
    let running = world.run();
    tracing::info!(elapsed = ?begun.elapsed(), "the runner has started");
    a_build_works(&world).await;
    tracing::info!(elapsed = ?begun.elapsed(), left = entries(&place.join("trash")).len(), "a build has ended");
    running.stop().await;
    until_trash_is_seen_to().await;
    tracing::info!(elapsed = ?begun.elapsed(), "the trash is empty");
    assert_eq!(entries(&place.join("trash")), Vec::<PathBuf>::new());
    assert_eq!(entries(&place.join("work")), Vec::<PathBuf>::new());
    let mirrors = entries(&place.join("cache"));
    assert!(mirrors.iter().all(|path| !path.join("objects").exists()), "{mirrors:?}");
}

fn what_a_killed_runner_was_removing_is_removed_by_the_next_one() {
    let place = tempfile::tempdir().expect("a folder");
    let root = workspace(place.path());
    // The names are listed in no order, so the walk is among these for long.
    fill(&root.join("checkout"), many());
    let total = entries(&root.join("checkout")).len();
    let mut child = Child::new("start and wait", place.path()).start();
    let trash = place.path().join("trash");
    let left = || {
        let root = entries(&trash).pop()?;
        Some(entries(&root.join("checkout")).len())
    };
    let end = Instant::now() + PATIENCE;
    while left().is_none_or(|left| left == total) {
        assert!(Instant::now() < end, "nothing is removed");
        std::thread::yield_now();
    }
    child.kill().expect("killed");
    child.wait().expect("it has ended");
    assert!(left().is_some_and(|left| left > 0), "it was killed too late to tell anything");
    assert_eq!(entries(&place.path().join("work")), Vec::<PathBuf>::new());
    let log = Child::new("start among leavings", place.path()).log();
    assert!(!log.contains("what a build has left"), "{log}");
}

async fn start_and_wait(place: PathBuf) {
    let mut world = World::new();
    world.elsewhere = Some(place);
    let _running = world.run();
    std::future::pending::<()>().await;
}

fn the_runtime_goes_on_while_a_large_workspace_is_removed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let world = World::new();
        let site = world.project("site", &[("a", "1\n"), (".gitignore", "/made/\n")]).await;
        let running = world.run();
        let turns = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&turns);
        tokio::spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let script = format!(
            "mkdir -p made; cd made; for n in $(seq 100); do mkdir $n; (cd $n; seq {} | xargs touch); done; echo 2 > ../a",
            many() / 100
        );
        let id = world.build(&site, &script).await;
        world.succeeded(id).await;
        let trash = world.folders().work.with_file_name("trash");
        let (end, before) = (Instant::now() + PATIENCE, turns.load(Ordering::Relaxed));
        let mut meanwhile = 0;
        while !entries(&trash).is_empty() {
            meanwhile = turns.load(Ordering::Relaxed) - before;
            assert!(Instant::now() < end, "the trash is never empty");
            tokio::task::yield_now().await;
        }
        assert!(meanwhile > 0, "nothing else ran while the workspace was removed");
        running.stop().await;
        assert_eq!(entries(&world.folders().work), Vec::<PathBuf>::new());
    });
}
