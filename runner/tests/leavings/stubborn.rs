//! Leavings that cannot be removed, or not even moved: they are set aside, and the runner works.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use rdev_domain::ids::TaskId;
use rdev_domain::spec::{BuildSpec, Work};
use rdev_domain::task::Task;
use rdev_testkit::tools::needs::NotRun;
use rdev_testkit::tools::trial::Outcome;

use crate::child::{
    Child, SOMEBODY, Scenes, a_build_works, entries, mount, mount_disk, root,
    until_trash_is_seen_to,
};
use crate::next_start::workspace;
use crate::world::{World, now};

rdev_testkit::trials! {
    fn files_of_another_user_are_set_aside_and_read_only_folders_are_removed;
    fn immutable_files_are_set_aside_and_the_task_of_an_immutable_folder_fails;
    fn what_is_mounted_in_a_workspace_is_left_alone;
}

pub(crate) const SCENES: Scenes = &[
    ("start as somebody else", |folder| Box::pin(start_as_somebody_else(folder))),
    ("start with immutable files", |folder| Box::pin(start_with_immutable_files(folder))),
    ("start with mounts", |folder| Box::pin(start_with_mounts(folder))),
];

/// What a runner says of something that it cannot remove.
const SET_ASIDE: &str =
    "what a build has left cannot be removed, so it is set aside until the next start";

fn names(folder: &Path) -> Vec<String> {
    let of = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    entries(folder).into_iter().filter_map(of).collect()
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

fn lines<'a>(log: &'a str, word: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains("WARN") && line.contains(word)).collect()
}

fn files_of_another_user_are_set_aside_and_read_only_folders_are_removed() -> Outcome {
    root()?;
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("place");
    let give = |path: &Path| chown(path, Some(SOMEBODY), Some(SOMEBODY)).expect("given away");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("another mode");
    };
    // A folder of root's with a file, in a workspace; beside it a file of root's, and folders
    // of the runner's user that may not be read, entered or changed.
    let mixed = workspace(&place);
    let theirs = mixed.join("checkout/theirs");
    fs::create_dir_all(theirs.join("below")).expect("a folder");
    for file in [theirs.join("file"), mixed.join("checkout/file")] {
        fs::write(file, "").expect("a file");
    }
    let own = mixed.join("checkout/own");
    for (name, access) in [("read-only", 0o500), ("closed", 0o000), ("blind", 0o300)] {
        fs::create_dir_all(own.join(name).join("below")).expect("a folder");
        fs::write(own.join(name).join("file"), "").expect("a file");
        for path in [own.join(name).join("below"), own.join(name)] {
            give(&path);
            mode(&path, access);
        }
    }
    // A workspace that is read-only itself, and one that is not even the runner's own.
    let (read_only, foreign) = (workspace(&place), workspace(&place));
    for path in [&read_only, &read_only.join("checkout"), &mixed, &mixed.join("checkout"), &own] {
        give(path);
    }
    mode(&read_only, 0o500);
    mode(&own, 0o500);
    for path in [folder.path().to_owned(), place.clone(), place.join("work")] {
        give(&path);
    }

    let log = Child::new("start as somebody else", &place).of_somebody().log();
    let (work, trash) = (names(&place.join("work")), names(&place.join("trash")));
    assert_eq!((work.len(), trash.len()), (1, 1), "{work:?} {trash:?}\n{log}");
    assert!(work[0].starts_with(&format!("set-aside-{}-", name(&foreign))), "{work:?}");
    assert!(trash[0].starts_with(&name(&mixed)), "{trash:?}");
    let checkout = place.join("trash").join(&trash[0]).join("checkout");
    assert_eq!(names(&checkout), ["theirs"], "everything else is removed");
    let told = lines(&log, SET_ASIDE);
    assert_eq!(told.len(), 2, "each is told of once, and not tried again:\n{log}");
    let reason = format!("{}/checkout/theirs/", trash[0]);
    assert!(told.iter().any(|line| line.contains(&reason) && line.contains("ermission")), "{log}");
    assert_eq!(lines(&log, "cannot be moved to the trash, so it is set aside").len(), 1, "{log}");

    // The same again: nothing is moved from one name to the next. Then somebody has helped.
    Child::new("start as somebody else", &place).of_somebody().log();
    assert_eq!((names(&place.join("work")), names(&place.join("trash"))), (work.clone(), trash));
    let foreign = place.join("work").join(&work[0]);
    for path in [checkout.join("theirs"), checkout.join("theirs/below")] {
        give(&path);
    }
    for path in [foreign.join("checkout"), foreign] {
        give(&path);
    }
    let log = Child::new("start as somebody else", &place).of_somebody().log();
    assert_eq!(lines(&log, "what a build has left"), Vec::<&str>::new());
    assert!(names(&place.join("work")).is_empty() && names(&place.join("trash")).is_empty());
    Ok(())
}

async fn start_as_somebody_else(place: PathBuf) {
    let mut world = World::below(place.parent().expect("a folder of its own"));
    world.elsewhere = Some(place);
    let running = world.run();
    a_build_works(&world).await;
    running.stop().await;
    until_trash_is_seen_to().await;
}

fn immutable_files_are_set_aside_and_the_task_of_an_immutable_folder_fails() -> Outcome {
    root()?;
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("place");
    let (mixed, whole) = (workspace(&place), workspace(&place));
    fs::write(mixed.join("checkout/removable"), "").expect("a file");
    fs::write(mixed.join("checkout/immutable"), "").expect("a file");
    fs::write(whole.join("checkout/of the first attempt"), "").expect("a file");
    let chattr = |flag: &str, path: &Path| {
        let output = Command::new("chattr").arg(flag).arg(path).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !chattr("+i", &whole) {
        return Err(NotRun::needs("chattr, and a file system with immutable files"));
    }
    assert!(chattr("+i", &mixed.join("checkout/immutable")));

    // Caught, so that the flags are taken off again in any case.
    let played =
        std::panic::catch_unwind(|| Child::new("start with immutable files", &place).log());
    let trash = entries(&place.join("trash"));
    let left: Vec<_> = trash.iter().map(|path| names(&path.join("checkout"))).collect();
    assert!(chattr("-i", &whole));
    for path in &trash {
        assert!(chattr("-i", &path.join("checkout/immutable")));
    }
    let log = played.expect("the scene was played");
    assert_eq!(left, [["immutable"]], "everything else is removed:\n{log}");
    assert!(name(&trash[0]).starts_with(&name(&mixed)), "{trash:?}");
    assert_eq!(lines(&log, SET_ASIDE).len(), 1, "{log}");
    assert_eq!(lines(&log, "what a build has left stays where it is").len(), 1, "{log}");
    let log = Child::new("start with immutable files", &place).log();
    assert_eq!(lines(&log, "what a build has left"), Vec::<&str>::new());
    assert!(names(&place.join("work")).is_empty() && names(&place.join("trash")).is_empty());
    Ok(())
}

/// Also builds each task whose workspace is still there: it must not see the files of before.
async fn start_with_immutable_files(place: PathBuf) {
    let mut world = World::new();
    world.elsewhere = Some(place.clone());
    let running = world.run();
    a_build_works(&world).await;
    let site = world.project("site", &[("a", "1\n")]).await;
    for left in names(&place.join("work")) {
        let id: TaskId = left.parse().expect("a workspace that could not be moved");
        let build = Work::Build(BuildSpec::of("echo 2 > a"));
        let task = Task::new(id, site.id.clone(), build, now());
        world.enqueue(Task { project_nonce: site.nonce, max_attempts: 1, ..task }).await;
        let (class, message) = world.failed(id).await;
        assert_eq!(class, "infra", "{message}");
        assert!(message.contains(&left) && message.contains("cannot rename"), "{message}");
    }
    running.stop().await;
    until_trash_is_seen_to().await;
}

fn what_is_mounted_in_a_workspace_is_left_alone() -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Child::with_mounts("start with mounts", folder.path())?.log();
    assert_eq!(lines(&log, SET_ASIDE).len(), 1, "{log}");
    assert_eq!(lines(&log, "what a build has left stays where it is").len(), 1, "{log}");
    Ok(())
}

async fn start_with_mounts(folder: PathBuf) {
    let (place, outside) = (folder.join("place"), folder.join("outside"));
    fs::create_dir(&outside).expect("a folder");
    fs::write(outside.join("file"), "precious").expect("a file");
    let (within, whole) = (workspace(&place), workspace(&place));
    fs::write(within.join("checkout/file"), "").expect("a file");
    let bound = within.join("checkout/bound");
    fs::create_dir(&bound).expect("a folder");
    mount(&["--bind", &outside.display().to_string()], &bound);
    mount_disk(&within.join("checkout/disk"), 1);
    fs::write(within.join("checkout/disk/file"), "precious").expect("a file");
    mount_disk(&whole, 1);

    let mut world = World::new();
    world.elsewhere = Some(place.clone());
    let running = world.run();
    a_build_works(&world).await;
    running.stop().await;
    until_trash_is_seen_to().await;
    assert_eq!(names(&outside), ["file"]);
    let trash = entries(&place.join("trash"));
    assert_eq!(trash.len(), 1, "{trash:?}");
    let mut left = names(&trash[0].join("checkout"));
    left.sort_unstable();
    assert_eq!(left, ["bound", "disk"], "everything else is removed");
    assert_eq!(names(&trash[0].join("checkout/disk")), ["file"]);
    assert_eq!(names(&place.join("work")), [name(&whole)]);

    for mounted in [trash[0].join("checkout/bound"), trash[0].join("checkout/disk"), whole] {
        let status = Command::new("umount").arg(mounted).status().expect("umount runs");
        assert!(status.success());
    }
    let running = world.run();
    a_build_works(&world).await;
    running.stop().await;
    until_trash_is_seen_to().await;
    assert!(names(&place.join("work")).is_empty() && names(&place.join("trash")).is_empty());
    assert_eq!(names(&outside), ["file"]);
}
