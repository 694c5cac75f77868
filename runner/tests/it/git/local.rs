//! Repositories in a folder of this machine.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdev_domain::git::OwnRef;
use rdev_domain::ids::{Fence, TaskId};

use super::*;

/// The repository `site` of a world, as a folder.
pub(super) fn local(world: &World) -> Remote {
    let folder = world.server.folder("site");
    Remote {
        url: GitUrl::from_folder(&folder).expect("a folder's URL"),
        credentials: None,
        policy: UrlPolicy { allow_private: false, file_root: folder.parent().map(Path::to_owned) },
        timeout: Duration::from_secs(120),
    }
}

fn build(
    world: &World,
    remote: &Remote,
    name: &str,
    content: &str,
) -> (Fetched, Workdir, CommitId) {
    let fetched = git::fetch(&world.cache(), 0, remote, &branch("main"), &branch("main"), &go())
        .expect("a fetch");
    let dirs = world.dirs(name);
    git::checkout(&fetched.mirror, fetched.start.as_ref(), &branch("main"), &dirs, &go())
        .expect("a checkout");
    write(&dirs, &format!("{name}.txt"), content);
    let commit = committed(&dirs, fetched.start.as_ref(), name);
    (fetched, dirs, commit)
}

#[test]
fn a_local_repository_needs_no_server_and_no_mirror() {
    let world = World::new();
    let remote = local(&world);
    let (fetched, dirs, commit) = build(&world, &remote, "build", "x\n");
    assert!(!world.cache().exists());
    let task: TaskId = "01JDGZ2V9QK8M3T5X7Y9ABCDEF".parse().expect("a task id");
    let own = OwnRef::Wip(task, Fence(1));
    let wip = format!("refs/{}", own.path());
    let push = |target: &str, expect| push(&dirs, &remote, &commit, target, &expect);
    assert_eq!(push(&wip, Expect::Any).expect("a push"), fetched.tip);
    push("refs/heads/main", Expect::Forward(fetched.tip)).expect("a push");
    assert_eq!(world.main(), Some(commit.to_string()));
    world.server.git("site", &["fsck", "--strict"]);
    assert_eq!(world.server.log("site", "main"), ["build", "initial commit"]);

    let (later, dirs, _) = build(&world, &remote, "later", "y\n");
    assert_eq!(later.own, [(own, commit.clone())]);
    assert_eq!(git::fetch_commit(&dirs, &remote, own, &go()).expect("the commit"), commit);
    assert_eq!(
        git::look(&dirs, &remote, &branch("main"), &go()).expect("the tip").tip,
        Tip::Commit(commit.clone())
    );
    git::delete_refs(&remote, &[wip.clone(), wip.clone() + "0"], &go()).expect("a removed ref");
    assert_eq!(world.server.find_ref("site", &wip), None);
    assert_eq!(world.server.seen(), []);
}

#[test]
fn many_files_are_stored_as_one_pack() {
    let world = World::new();
    let remote = local(&world);
    let fetched = git::fetch(&world.cache(), 0, &remote, &branch("main"), &branch("main"), &go())
        .expect("a fetch");
    let dirs = world.dirs("build");
    git::checkout(&fetched.mirror, fetched.start.as_ref(), &branch("main"), &dirs, &go())
        .expect("a checkout");
    for n in 0..300 {
        write(&dirs, &format!("many/{n}"), &format!("{n}\n"));
    }
    let commit = committed(&dirs, fetched.start.as_ref(), "many");
    let expect = Expect::Forward(fetched.tip);
    push(&dirs, &remote, &commit, "refs/heads/main", &expect).expect("a push");
    world.server.git("site", &["fsck", "--strict"]);
    let counted = world.server.git("site", &["count-objects", "-v"]);
    assert!(counted.contains("in-pack: 303"), "{counted}");
}

#[test]
fn a_local_branch_that_moved_is_left_alone() {
    let world = World::new();
    let remote = local(&world);
    let (fetched, dirs, commit) = build(&world, &remote, "build", "x\n");
    let theirs = world.server.commit("site", "main", &[("c", "c")], "theirs");
    let push =
        |tip: &Tip| push(&dirs, &remote, &commit, "refs/heads/main", &Expect::Forward(tip.clone()));
    let moved = push(&fetched.tip);
    assert!(matches!(&moved, Err(GitError::Moved { tip }) if *tip == at(&theirs)), "{moved:?}");
    let forced = push(&at(&theirs));
    assert!(matches!(forced, Err(GitError::Broken { .. })), "{forced:?}");
    assert_eq!(world.main(), Some(theirs));
}

#[test]
fn of_eight_that_race_for_a_branch_exactly_one_wins_each_round() {
    let world = World::new();
    let remote = local(&world);
    for round in 0..12 {
        // Every third time the branch does not exist yet.
        let target = if round % 3 == 0 {
            format!("refs/heads/new{round}")
        } else {
            "refs/heads/main".to_owned()
        };
        let racers: Vec<_> = (0..8)
            .map(|n| build(&world, &remote, &format!("r{round}n{n}"), &format!("{round} {n}\n")))
            .collect();
        let (barrier, won) = (Barrier::new(8), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for (fetched, dirs, commit) in &racers {
                let (remote, target, barrier, won) = (&remote, &target, &barrier, &won);
                scope.spawn(move || {
                    let expect = if round % 3 == 0 { Tip::Absent } else { fetched.tip.clone() };
                    barrier.wait();
                    let outcome = push(dirs, remote, commit, target, &Expect::Forward(expect));
                    match outcome {
                        Ok(_) => {
                            won.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(GitError::Moved { .. }) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                });
            }
        });
        assert_eq!(won.into_inner(), 1, "round {round}");
        let tip = world.server.find_ref("site", &target).expect("a tip");
        assert!(racers.iter().any(|(_, _, commit)| commit.as_str() == tip));
    }
    world.server.git("site", &["fsck", "--strict"]);
    assert_eq!(world.server.log("site", "main").len(), 9, "one commit for each round on main");
}

#[test]
fn a_stale_lock_of_a_local_branch_is_a_passing_trouble() {
    let world = World::new();
    let remote = local(&world);
    let (fetched, dirs, commit) = build(&world, &remote, "build", "x\n");
    let lock = world.server.folder("site").join("refs/heads/main.lock");
    fs::write(&lock, "").expect("a stale lock");
    let expect = Expect::Forward(fetched.tip);
    let push = || push(&dirs, &remote, &commit, "refs/heads/main", &expect);
    let begun = Instant::now();
    let error = push().expect_err("locked");
    assert!(matches!(error, GitError::Unreachable { in_doubt: false, .. }), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(100));
    fs::remove_file(lock).expect("no lock");
    push().expect("a push");
}

#[test]
fn a_branch_in_the_way_of_another_is_a_refusal() {
    let world = World::new();
    let remote = local(&world);
    let (_fetched, dirs, commit) = build(&world, &remote, "build", "x\n");
    let expect = Expect::Forward(Tip::Absent);
    let refused = push(&dirs, &remote, &commit, "refs/heads/main/sub", &expect);
    assert!(matches!(refused, Err(GitError::Rejected { .. })), "{refused:?}");
}

#[test]
fn a_folder_outside_the_allowed_one_or_without_repository_is_refused() {
    let world = World::new();
    let remote = local(&world);
    let closed = Remote { policy: UrlPolicy::default(), ..remote.clone() };
    assert!(matches!(list(&closed), Err(GitError::NotAllowed(_))));
    let missing = GitUrl::from_folder(&world.server.folder("nothing")).expect("a URL");
    let missing = Remote { url: missing, ..remote };
    assert!(matches!(list(&missing), Err(GitError::RepositoryNotFound)));
}
