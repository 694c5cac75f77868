//! The mirror cache.

use std::sync::Barrier;

use super::*;

/// The mirrors' folders.
fn mirrors(world: &World) -> Vec<PathBuf> {
    let entries = fs::read_dir(world.cache()).expect("the cache");
    let mut found: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    found.retain(|path| path.extension().is_some_and(|end| end == "git"));
    found.sort();
    found
}

fn packs(mirror: &Path) -> Vec<PathBuf> {
    let mut found = files_below(&mirror.join("objects/pack"));
    found.retain(|path| path.extension().is_some_and(|end| end == "pack"));
    found
}

/// Overwrites a file (a pack is read-only) in the middle.
fn spoil(path: &Path, keep: usize) {
    let content = fs::read(path).expect("a file");
    fs::remove_file(path).expect("no file");
    fs::write(path, &content[..keep.min(content.len())]).expect("a spoiled file");
}

#[test]
fn two_builds_at_once_share_a_mirror_and_download_once() {
    let world = World::new();
    let barrier = Barrier::new(4);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (world, barrier) = (&world, &barrier);
            scope.spawn(move || {
                barrier.wait();
                let (_kept, dirs) = world.checked_out(&format!("build{n}"));
                assert_eq!(in_checkout(&dirs, &["status", "--porcelain"]), "");
            });
        }
    });
    assert_eq!(mirrors(&world).len(), 1);
    let fetches = world.server.seen().iter().filter(|request| request.method == "POST").count();
    assert_eq!(fetches, 1);
}

#[test]
fn a_mirror_that_cannot_be_read_is_replaced_by_the_fetch_that_finds_out() {
    let world = World::new();
    drop(world.checked_out("first"));
    let mirror = mirrors(&world).remove(0);
    for (n, harm) in ["packs", "config", "objects"].iter().enumerate() {
        match *harm {
            "packs" => packs(&mirror).iter().for_each(|pack| spoil(pack, 20)),
            "config" => fs::write(mirror.join("config"), "[core\n").expect("a spoiled file"),
            _ => fs::remove_dir_all(mirror.join("objects/pack")).expect("no packs"),
        }
        let (_fetched, dirs) = world.checked_out(&format!("again{n}"));
        assert_eq!(in_checkout(&dirs, &["status", "--porcelain"]), "", "{harm}");
        assert_eq!(read(&dirs, "dir/b.txt"), "b\n");
        assert_eq!(mirrors(&world), std::slice::from_ref(&mirror));
    }
}

#[test]
fn damage_that_a_checkout_finds_makes_the_next_fetch_begin_anew() {
    let world = World::new();
    let content = "0123456789abcdef".repeat(64);
    world.server.commit("site", "main", &[("big", &content)], "more");
    let first = world.try_fetch("main").expect("a fetch");
    // Only one blob is spoiled: commits and trees are fine.
    let mirror = mirrors(&world).remove(0);
    let pack = packs(&mirror).remove(0);
    let blob = world.server.git("site", &["rev-parse", "main:big"]);
    let index = pack.with_extension("idx");
    let listed = rdev_testkit::servers::git_http::git(
        &mirror,
        &["verify-pack", "-v", index.to_str().expect("UTF-8")],
    );
    let line = listed.lines().find(|line| line.starts_with(&blob)).expect("the blob");
    let offset: usize =
        line.split_whitespace().nth(4).and_then(|n| n.parse().ok()).expect("its place");
    let mut bytes = fs::read(&pack).expect("the pack");
    bytes[offset + 6] ^= 0xff;
    fs::remove_file(&pack).expect("no pack");
    fs::write(&pack, bytes).expect("a spoiled pack");

    let dirs = world.dirs("build");
    let outcome = git::checkout(&first.mirror, first.start.as_ref(), &branch("main"), &dirs, &go());
    let error = outcome.expect_err("a damaged file");
    assert!(matches!(error, GitError::MirrorDamaged { .. }) && error.is_transient(), "{error:?}");

    // As long as the first build borrows from it, it stays; another takes its place.
    let (second, again) = world.checked_out("again");
    assert_eq!(read(&again, "big"), content);
    assert_eq!(mirrors(&world).len(), 2);
    drop((first, second));
    let (_third, again) = world.checked_out("third");
    assert_eq!(read(&again, "big"), content);
    assert!(mirrors(&world).contains(&mirror), "it was made again");
}

#[test]
fn eviction_takes_the_least_recently_used_and_never_a_borrowed_one() {
    let world = World::new();
    let names = ["one", "two", "three", "four"];
    for name in names {
        world.server.create(name, &[("file", name)]);
    }
    let fetch = |name: &str, cap| {
        let remote = remote(&world.server.url(name));
        git::fetch(&world.cache(), cap, &remote, &branch("main"), &branch("main"), &go())
            .expect("a fetch")
    };
    let of = |fetched: &Fetched, dirs: &Workdir| {
        git::checkout(&fetched.mirror, fetched.start.as_ref(), &branch("main"), dirs, &go())
            .expect("a checkout");
    };
    let borrowed = fetch("one", u64::MAX);
    let [two, three] = ["two", "three"].map(|name| drop(fetch(name, u64::MAX)));
    let ((), ()) = (two, three);
    assert_eq!(mirrors(&world).len(), 3);
    let before = mirrors(&world);
    // "two" becomes the one that was used last, and "three" the first to go.
    drop(fetch("two", u64::MAX));
    let size: u64 = before
        .iter()
        .flat_map(|mirror| files_below(mirror))
        .map(|file| file.metadata().expect("a file").len())
        .sum();
    let newest = fetch("four", size + 10);
    let left = mirrors(&world);
    assert_eq!(left.len(), 3, "one was enough");
    world.server.forget_seen();
    drop(fetch("two", u64::MAX));
    assert_eq!(world.server.seen().len(), 1, "it is still there");

    world.server.commit("four", "main", &[("file", "more")], "more");
    let again = fetch("four", 0);
    let left = mirrors(&world);
    assert_eq!(left.len(), 2, "all unused mirrors are removed: {left:?}");
    of(&borrowed, &world.dirs("borrowed"));
    of(&again, &world.dirs("again"));
    drop(newest);
}

#[test]
fn locks_that_a_killed_runner_left_are_no_obstacle() {
    let world = World::new();
    drop(world.checked_out("first"));
    let mirror = mirrors(&world).remove(0);
    for tip in files_below(&mirror.join("refs/tips")) {
        fs::write(tip.with_extension("lock"), "").expect("a stale lock");
    }
    fs::create_dir(mirror.with_extension("new")).expect("a half-made mirror");
    let tip = world.server.commit("site", "main", &[("a.txt", "new\n")], "more");
    let (fetched, _dirs) = world.checked_out("again");
    assert_eq!(fetched.tip, at(&tip));
}

#[test]
fn a_branch_that_was_rewritten_on_the_server_is_fetched() {
    let world = World::new();
    drop(world.checked_out("first"));
    let tree = world.server.git("site", &["rev-parse", "main^{tree}"]);
    let other = world.server.git("site", &["commit-tree", &tree, "-m", "another beginning"]);
    world.server.git("site", &["update-ref", "refs/heads/main", &other]);
    let (fetched, dirs) = world.checked_out("again");
    assert_eq!(fetched.tip, at(&other));
    assert_eq!(in_checkout(&dirs, &["log", "--format=%s"]), "another beginning");
}
