//! Builds on a disk without room: they fail as `infra`, and the next build works.

use std::fs;
use std::path::{Path, PathBuf};

use rdev_domain::ids::TaskId;
use rdev_domain::ports::TaskRecord;
use rdev_domain::project::Project;
use rdev_domain::spec::{BuildSpec, Work};
use rdev_domain::task::Task;
use rdev_testkit::tools::trial::Outcome;
use rustix::fs::statvfs;

use crate::child::{Child, Scenes, entries, mount_disk, until_trash_is_seen_to};
use crate::world::{World, git, now, ulid};

rdev_testkit::trials! {
    fn an_agent_that_fills_the_disk_fails_its_build_and_leaves_nothing;
    fn a_disk_that_is_full_at_the_checkout_fails_the_build_and_later_delays_it;
    fn a_store_on_a_full_disk_loses_nothing_of_a_build;
}

pub(crate) const SCENES: Scenes = &[
    ("an agent fills the disk", |folder| Box::pin(an_agent_fills_the_disk(folder))),
    ("full in other phases", |folder| Box::pin(full_in_other_phases(folder))),
    ("the store's disk is full", |folder| Box::pin(the_store_s_disk_is_full(folder))),
];

const NO_SPACE: &str = "No space left on device";

fn played(scene: &str) -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    Child::with_mounts(scene, folder.path())?.log();
    Ok(())
}

fn an_agent_that_fills_the_disk_fails_its_build_and_leaves_nothing() -> Outcome {
    played("an agent fills the disk")
}

fn a_disk_that_is_full_at_the_checkout_fails_the_build_and_later_delays_it() -> Outcome {
    played("full in other phases")
}

fn a_store_on_a_full_disk_loses_nothing_of_a_build() -> Outcome {
    played("the store's disk is full")
}

/// A build with one attempt.
async fn build(world: &World, project: &Project, spec: BuildSpec) -> TaskId {
    let task = Task::new(TaskId(ulid()), project.id.clone(), Work::Build(spec), now());
    let nonce = project.nonce;
    world.enqueue(Task { project_nonce: nonce, max_attempts: 1, ..task }).await
}

fn free(folder: &Path) -> u64 {
    let disk = statvfs(folder).expect("a disk");
    disk.f_bavail * disk.f_frsize
}

/// A world whose runner works on a small disk of its own.
fn small(folder: &Path) -> World {
    let mut world = World::new();
    world.elsewhere = Some(folder.join("disk"));
    mount_disk(world.place(), 16);
    world
}

async fn an_agent_fills_the_disk(folder: PathBuf) {
    let world = small(&folder);
    let site = world.project("site", &[("a", "1\n"), (".gitignore", "ignored\n")]).await;
    let before = git(&world.repository(&site), &["rev-parse", "main"]);
    let running = world.run();
    let unused = free(world.place());
    let fill = |name: &str| format!("head -c 100000000 /dev/urandom > {name}");
    let cases = [
        // It says that it has failed.
        (fill("big"), "agent_failed"),
        (fill("ignored"), "agent_failed"),
        // It says that all is well, with a part of a file, or with a change beside it.
        (format!("{}; echo 2 > a; true", fill("big")), "infra"),
        (format!("echo 2 > a; {}; true", fill("ignored")), "infra"),
        (format!("echo 2 > a; {}; true", fill("$HOME/big")), "infra"),
        (format!("echo 2 > a; {}; true", fill("$TMPDIR/big")), "infra"),
    ];
    for (n, (script, class)) in cases.iter().enumerate() {
        let id = build(&world, &site, BuildSpec::of(script)).await;
        let (failed, message) = world.failed(id).await;
        assert_eq!(failed, *class, "{script}: {message}");
        assert!(message.contains(NO_SPACE), "{script}: {message}");
        // At once, beside the removal: with the attempts that every build has.
        let next = world.build(&site, &format!("echo {n} > b")).await;
        world.succeeded(next).await;
    }
    let log = git(&world.repository(&site), &["log", "--format=%s", &format!("{before}..main")]);
    assert_eq!(log.lines().count(), 6, "only the good builds landed: {log}");
    running.stop().await;
    until_trash_is_seen_to().await;
    for name in ["work", "trash", "unpushed"] {
        assert_eq!(entries(&world.place().join(name)), Vec::<PathBuf>::new());
    }
    assert!(free(world.place()) + 100_000 > unused, "{unused} were free");
}

async fn full_in_other_phases(folder: PathBuf) {
    let world = small(&folder);
    let site = world.project("site", &[("a", "1\n")]).await;
    let running = world.run();
    let ballast = world.place().join("ballast");
    let mut all = fs::File::create(&ballast).expect("a file");
    // Until nothing more fits.
    std::io::copy(&mut fs::File::open("/dev/zero").expect("zeros"), &mut all).expect_err("full");
    drop(all);
    let id = build(&world, &site, BuildSpec::of("echo 2 > a")).await;
    let (class, message) = world.failed(id).await;
    assert_eq!(class, "infra", "{message}");
    assert!(message.contains(NO_SPACE), "{message}");
    fs::remove_file(&ballast).expect("room again");

    // Once the ticket is there the work is safe: it waits for room, at most.
    let tickets = world.repository(&site).join("refs/rdev/wip");
    let fill = format!(
        "until ls {}/*/1; do sleep 0.02; done; head -c 100000000 /dev/zero > {}; true",
        tickets.display(),
        ballast.display()
    );
    let spec = BuildSpec { verify: vec![fill], ..BuildSpec::of("echo 3 > a") };
    let id = build(&world, &site, spec).await;
    let met =
        |record: &TaskRecord| record.task.failure.is_some() || record.task.state.is_terminal();
    world.until(id, "without room", met).await;
    fs::remove_file(&ballast).expect("room again");
    world.succeeded(id).await;
    assert_eq!(git(&world.repository(&site), &["show", "main:a"]), "3");
    assert_eq!(git(&world.repository(&site), &["rev-list", "--count", "main"]), "2");

    let id = world.build(&site, "echo 4 > a").await;
    world.succeeded(id).await;
    running.stop().await;
    until_trash_is_seen_to().await;
    for name in ["work", "trash", "unpushed"] {
        assert_eq!(entries(&world.place().join(name)), Vec::<PathBuf>::new());
    }
}

async fn the_store_s_disk_is_full(folder: PathBuf) {
    let disk = folder.join("disk");
    mount_disk(&disk, 32);
    let mut world = World::below(&disk);
    world.elsewhere = Some(folder.join("place"));
    let site = world.project("site", &[("a", "1\n")]).await;
    let running = world.run();
    let ballast = disk.join("ballast");
    // The lines after the first wait for room in the store, and so does the end of the build.
    let script = format!(
        "echo before; head -c 100000000 /dev/zero > {0}; for n in $(seq 1000); do echo line $n; done; sleep 1; rm {0}; echo 2 > a",
        ballast.display()
    );
    let id = build(&world, &site, BuildSpec::of(&script)).await;
    world.succeeded(id).await;
    let log = world.log(id).await;
    for line in ["before", "line 1\"", "line 500\"", "line 1000\""] {
        assert!(log.contains(line), "{line}:\n{log}");
    }
    running.stop().await;
}
