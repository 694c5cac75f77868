//! The attempt's repository and its files.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

#[test]
fn the_agents_git_shows_a_clean_branch_without_remote_or_hooks() {
    let world = World::new();
    let (fetched, dirs) = world.checked_out("build");
    assert_eq!(in_checkout(&dirs, &["status", "--porcelain"]), "");
    assert_eq!(in_checkout(&dirs, &["branch", "--show-current"]), "main");
    assert_eq!(in_checkout(&dirs, &["remote"]), "");
    assert_eq!(in_checkout(&dirs, &["log", "--format=%s"]), "initial commit");
    assert_eq!(Some(id(&in_checkout(&dirs, &["rev-parse", "HEAD"]))), fetched.start);
    in_checkout(&dirs, &["fsck"]);
    assert!(!dirs.checkout.join(".git/hooks").exists());
    write(&dirs, "a.txt", "changed\n");
    assert_eq!(in_checkout(&dirs, &["diff", "--name-only"]), "a.txt");
    // What the agent does with it does not matter: only the files count.
    in_checkout(&dirs, &["commit", "--quiet", "--all", "--message", "the agent's own"]);
    fs::remove_dir_all(dirs.checkout.join(".git")).expect("no .git");
    let changes = staged(&dirs, fetched.start.as_ref()).expect("changes");
    assert_eq!(changes.total, 1);
}

#[test]
fn modes_links_and_many_files_arrive_as_they_are() {
    let world = World::new();
    let bare = world.server.folder("site");
    let clone = world.folder.path().join("person");
    rdev_testkit::servers::git_http::git(
        world.folder.path(),
        &["clone", "--quiet", bare.to_str().expect("UTF-8"), "person"],
    );
    for n in 0..700 {
        let path = clone.join(format!("many/{}/{n}", n % 13));
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, format!("{n}\n")).expect("a file");
    }
    fs::write(clone.join("run.sh"), "#!/bin/sh\n").expect("a file");
    fs::set_permissions(clone.join("run.sh"), fs::Permissions::from_mode(0o755)).expect("a mode");
    symlink("a.txt", clone.join("link")).expect("a link");
    symlink("/etc/hostname", clone.join("outside")).expect("a link");
    fs::write(clone.join("ünïcode \" name"), "x").expect("a file");
    for args in [
        &["add", "--all"][..],
        &["commit", "--quiet", "--message", "many"],
        &["push", "--quiet", "origin", "main"],
    ] {
        rdev_testkit::servers::git_http::git(&clone, args);
    }
    let fetched = world.try_fetch("main").expect("a fetch");
    let dirs = world.dirs("build");
    let out = git::checkout(&fetched.mirror, fetched.start.as_ref(), &branch("main"), &dirs, &go())
        .expect("a checkout");
    assert_eq!((out.files, out.lfs_pointers), (706, false));
    assert_eq!(in_checkout(&dirs, &["status", "--porcelain"]), "");
    assert_eq!(
        in_checkout(&dirs, &["ls-files", "-s"]),
        rdev_testkit::servers::git_http::git(&clone, &["ls-files", "-s"])
    );
    let mode =
        |name| fs::metadata(dirs.checkout.join(name)).expect("a file").permissions().mode() & 0o111;
    assert_ne!(mode("run.sh"), 0);
    assert_eq!(mode("a.txt"), 0);
    assert_eq!(fs::read_link(dirs.checkout.join("link")).expect("a link"), Path::new("a.txt"));
    // A link that leads out was there before: unchanged it may stay.
    write(&dirs, "a.txt", "changed\n");
    let changes = staged(&dirs, fetched.start.as_ref()).expect("changes");
    assert_eq!(changes.total, 1, "{:?}", changes.files);
}

#[test]
fn line_ends_are_written_as_the_attributes_ask() {
    let world = World::new();
    world.server.commit(
        "site",
        "main",
        &[(".gitattributes", "*.bat text eol=crlf\n"), ("x.bat", "a\nb\n"), ("x.sh", "a\n")],
        "attributes",
    );
    let (fetched, dirs) = world.checked_out("build");
    assert_eq!(read(&dirs, "x.bat"), "a\r\nb\r\n");
    assert_eq!(read(&dirs, "x.sh"), "a\n");
    assert_eq!(in_checkout(&dirs, &["status", "--porcelain"]), "");
    assert_eq!(staged(&dirs, fetched.start.as_ref()).expect("changes").total, 0);
    write(&dirs, "x.bat", "a\r\nc\r\n");
    let commit = committed(&dirs, fetched.start.as_ref(), "crlf");
    world.push(&dirs, &commit, "refs/heads/main", &Expect::Forward(fetched.tip)).expect("a push");
    assert_eq!(world.server.git("site", &["show", "main:x.bat"]), "a\nc");
}

#[test]
fn lfs_pointers_are_told() {
    let world = World::new();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
    for (n, attributes) in
        ["*.bin filter=lfs diff=lfs merge=lfs -text\n", "*.bin filter=lfs -text\n*.bat eol=crlf\n"]
            .iter()
            .enumerate()
    {
        world.server.commit(
            "site",
            "main",
            &[(".gitattributes", attributes), ("x.bin", pointer)],
            "large files",
        );
        let fetched = world.try_fetch("main").expect("a fetch");
        let dirs = world.dirs(&format!("build{n}"));
        let out =
            git::checkout(&fetched.mirror, fetched.start.as_ref(), &branch("main"), &dirs, &go())
                .expect("a checkout");
        assert!(out.lfs_pointers, "{attributes}");
        assert_eq!(read(&dirs, "x.bin"), pointer);
        assert_eq!(staged(&dirs, fetched.start.as_ref()).expect("changes").total, 0);
    }
}

#[test]
fn a_reset_makes_the_files_those_of_a_commit() {
    let world = World::new();
    world.server.commit("site", "main", &[(".gitignore", "cache/\n")], "ignore");
    let (_fetched, dirs, commit) = world.worked("build", "mine\n");
    let theirs = world.server.commit(
        "site",
        "main",
        &[("c.txt", "theirs\n"), ("dir/d.txt", "d\n")],
        "theirs",
    );
    git::look(&dirs, &world.remote, &branch("main"), &go()).expect("the tip");
    let git::Rebased::Clean(rebased) =
        git::rebase(&dirs, &commit, &id(&theirs), &author(), NOW).expect("a rebase")
    else {
        panic!("a clean rebase")
    };
    write(&dirs, "cache/x", "ignored\n");
    write(&dirs, "dir/left-over", "x\n");
    write(&dirs, "dir/b.txt", "spoiled\n");
    git::reset(&dirs, Some(&rebased), git::Ignored::Stay).expect("a reset");
    assert_eq!(read(&dirs, "a.txt"), "mine\n");
    assert_eq!(read(&dirs, "c.txt"), "theirs\n");
    assert_eq!(read(&dirs, "dir/b.txt"), "b\n");
    assert_eq!(read(&dirs, "cache/x"), "ignored\n");
    assert!(!dirs.checkout.join("dir/left-over").exists());
    assert_eq!(staged(&dirs, Some(&rebased)).expect("changes").total, 0);

    // Back to a commit that lacks files which the last one had.
    let start = git::parent(&dirs, &commit).expect("the commit").expect("a parent");
    git::reset(&dirs, Some(&start), git::Ignored::Stay).expect("a reset");
    assert!(!dirs.checkout.join("c.txt").exists());
    assert!(!dirs.checkout.join("dir/d.txt").exists());
    assert_eq!(staged(&dirs, Some(&start)).expect("changes").total, 0);
}

#[test]
fn a_cancelled_checkout_says_so() {
    let world = World::new();
    let fetched = world.try_fetch("main").expect("a fetch");
    let cancel = go();
    cancel.cancel();
    let outcome = git::checkout(
        &fetched.mirror,
        fetched.start.as_ref(),
        &branch("main"),
        &world.dirs("build"),
        &cancel,
    );
    assert!(matches!(outcome, Err(GitError::Cancelled)), "{outcome:?}");
}

#[test]
fn submodules_stay_as_they_are_and_may_be_removed() {
    let world = World::new();
    let bare = world.server.folder("site");
    let clone = world.folder.path().join("person");
    rdev_testkit::servers::git_http::git(
        world.folder.path(),
        &["clone", "--quiet", bare.to_str().expect("UTF-8"), "person"],
    );
    let main = world.main().expect("main");
    let entry = format!("160000,{main},lib/sub");
    for args in [
        &["update-index", "--add", "--cacheinfo", &entry][..],
        &["commit", "--quiet", "--message", "submodule"],
        &["push", "--quiet", "origin", "main"],
    ] {
        rdev_testkit::servers::git_http::git(&clone, args);
    }
    let (fetched, dirs) = world.checked_out("build");
    assert!(dirs.checkout.join("lib/sub").is_dir());
    assert_eq!(in_checkout(&dirs, &["status", "--porcelain"]), "");
    write(&dirs, "a.txt", "changed\n");
    // Initialised, as an agent may do, it is no nested repository.
    write(&dirs, "lib/sub/.git", "gitdir: ../../.git/modules/sub\n");
    let changes = staged(&dirs, fetched.start.as_ref()).expect("changes");
    assert_eq!(changes.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["a.txt"]);
    fs::remove_dir_all(dirs.checkout.join("lib")).expect("no submodule");
    let changes = staged(&dirs, fetched.start.as_ref()).expect("changes");
    assert_eq!(
        changes.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
        ["a.txt", "lib/sub"]
    );
}
