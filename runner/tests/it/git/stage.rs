//! Which files can be committed, and which changes are reported.

use std::os::unix::fs::{PermissionsExt, symlink};

use rdev_domain::result::{ChangeStatus, FileChange};

use super::*;

fn refusal(dirs: &Workdir, start: Option<&CommitId>) -> String {
    match staged(dirs, start) {
        Err(GitError::BadTree(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn changes_are_listed_with_their_lines_and_the_diff() {
    let world = World::new();
    world.server.commit(
        "site",
        "main",
        &[("moved.txt", "1\n2\n3\n4\n5\n6\n"), ("gone.txt", "x\ny\n")],
        "more",
    );
    let (fetched, dirs) = world.checked_out("build");
    let none = staged(&dirs, fetched.start.as_ref()).expect("nothing");
    assert_eq!((none.total, none.files.len(), none.diff.as_str()), (0, 0, ""));
    write(&dirs, "a.txt", "one\nTWO\nthree\nfour\n");
    write(&dirs, "sub/new.txt", "n\n");
    write(&dirs, "binary", "a\0b");
    fs::remove_file(dirs.checkout.join("gone.txt")).expect("a removed file");
    fs::rename(dirs.checkout.join("moved.txt"), dirs.checkout.join("renamed.txt"))
        .expect("a renamed file");
    fs::set_permissions(dirs.checkout.join("dir/b.txt"), fs::Permissions::from_mode(0o755))
        .expect("a mode");
    let changes = staged(&dirs, fetched.start.as_ref()).expect("changes");
    let file = |path: &str, status, additions, deletions| FileChange {
        path: path.to_owned(),
        status,
        additions,
        deletions,
    };
    let expected = [
        file("a.txt", ChangeStatus::Modified, 2, 1),
        file("binary", ChangeStatus::Added, 0, 0),
        file("dir/b.txt", ChangeStatus::Modified, 0, 0),
        file("gone.txt", ChangeStatus::Deleted, 0, 2),
        file("renamed.txt", ChangeStatus::Renamed, 0, 0),
        file("sub/new.txt", ChangeStatus::Added, 1, 0),
    ];
    let mut files = changes.files.clone();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!(files, expected);
    assert_eq!(changes.total, 6);
    for line in [
        "-two",
        "+TWO",
        "+four",
        "rename from moved.txt",
        "new mode 100755",
        "deleted file mode 100644",
    ] {
        assert!(changes.diff.lines().any(|other| other == line), "{line}: {}", changes.diff);
    }

    // The diff applies, with git's own apply, to the start.
    let small = Caps { diff_bytes: 200, ..CAPS };
    let cut = git::stage(&dirs, fetched.start.as_ref(), &small, &[]).expect("changes");
    assert_eq!(cut.tree, changes.tree);
    assert!(
        cut.diff.len() < 300 && cut.diff.ends_with("only its first 200 bytes are kept\n"),
        "{}",
        cut.diff
    );
    let commit = git::commit(&dirs, &changes.tree, fetched.start.as_ref(), "m", &author(), NOW)
        .expect("a commit");
    assert_eq!(
        git::diff_of(&dirs, &commit, fetched.start.as_ref(), &CAPS).expect("changes"),
        changes
    );
}

#[test]
fn ignored_files_and_an_agents_droppings_are_left_out() {
    let world = World::new();
    world.server.commit(
        "site",
        "main",
        &[(".gitignore", "/out/\n*.log\n"), ("kept.log", "x\n")],
        "ignore",
    );
    let (fetched, dirs) = world.checked_out("build");
    for path in [
        "out/x",
        "deep/y.log",
        "page.html.tmp.4711.a3f9",
        ".aider.chat.history.md",
        ".aider.tags/cache.db",
        "real.txt",
    ] {
        write(&dirs, path, "x\n");
    }
    write(&dirs, "kept.log", "tracked, so it counts\n");
    let patterns = ["*.tmp.[0-9]*.[0-9a-f]*", ".aider*"];
    let changes = git::stage(&dirs, fetched.start.as_ref(), &CAPS, &patterns).expect("changes");
    assert_eq!(
        changes.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
        ["kept.log", "real.txt"]
    );
}

#[test]
fn another_repository_in_the_checkout_is_refused_in_all_spellings() {
    for (n, path) in [
        "sub/.git/HEAD",
        "sub/.git",
        "dir/.git/config",
        "dir/.GIT/config",
        "x/y/.Git",
        "GIT~1/x",
        "sub/git~1",
        "sub/.git::$INDEX_ALLOCATION/x",
        "sub/.git./x",
        "sub/.git /x",
        "sub/.g\u{200c}it/config",
        ".GIT",
    ]
    .iter()
    .enumerate()
    {
        let world = World::new();
        let (fetched, dirs) = world.checked_out(&format!("build{n}"));
        write(&dirs, path, "x\n");
        let message = refusal(&dirs, fetched.start.as_ref());
        assert!(message.contains("git"), "{path}: {message}");
    }
}

#[test]
fn a_cloned_repository_is_refused_but_not_where_it_is_ignored() {
    let world = World::new();
    world.server.commit("site", "main", &[(".gitignore", "node_modules/\n")], "ignore");
    let (fetched, dirs) = world.checked_out("build");
    let bare = world.server.folder("site");
    let bare = bare.to_str().expect("UTF-8");
    in_checkout(&dirs, &["clone", "--quiet", bare, "node_modules/dependency"]);
    write(&dirs, "a.txt", "x\n");
    assert_eq!(staged(&dirs, fetched.start.as_ref()).expect("changes").total, 1);
    in_checkout(&dirs, &["clone", "--quiet", bare, "vendor/dependency"]);
    let message = refusal(&dirs, fetched.start.as_ref());
    assert!(message.contains("vendor/dependency/.git"), "{message}");
    // The .git at the top of the checkout is ignored; others are found.
    fs::remove_dir_all(dirs.checkout.join("vendor")).expect("no vendor");
    assert_eq!(staged(&dirs, fetched.start.as_ref()).expect("changes").total, 1);
}

#[test]
fn links_out_of_the_tree_are_refused() {
    for (n, (path, target)) in [
        ("l", "/etc/passwd"),
        ("l", "../x"),
        ("dir/l", "../../x"),
        ("dir/l", "b.txt/../../.."),
        ("l", "."),
        ("l", "dir/b.txt"),
        ("dir/l", "../a.txt"),
        ("l", "not/there"),
    ]
    .iter()
    .enumerate()
    {
        let world = World::new();
        let (fetched, dirs) = world.checked_out(&format!("build{n}"));
        symlink(target, dirs.checkout.join(path)).expect("a link");
        if n < 4 {
            let message = refusal(&dirs, fetched.start.as_ref());
            assert!(message.contains("link out of the repository"), "{message}");
        } else {
            assert_eq!(
                staged(&dirs, fetched.start.as_ref()).expect("changes").total,
                1,
                "{target}"
            );
        }
    }
    // Two links that are harmless one by one.
    let world = World::new();
    let (fetched, dirs) = world.checked_out("two");
    symlink("..", dirs.checkout.join("dir/up")).expect("a link");
    symlink("dir/up/../x", dirs.checkout.join("l")).expect("a link");
    refusal(&dirs, fetched.start.as_ref());
    // A folder of the repository that was replaced by a link.
    let (fetched, dirs) = world.checked_out("replaced");
    fs::remove_dir_all(dirs.checkout.join("dir")).expect("no folder");
    symlink("/etc", dirs.checkout.join("dir")).expect("a link");
    refusal(&dirs, fetched.start.as_ref());
}

#[test]
fn files_folders_and_links_may_take_each_others_place() {
    let world = World::new();
    let (fetched, dirs) = world.checked_out("build");
    fs::remove_file(dirs.checkout.join("a.txt")).expect("no file");
    write(&dirs, "a.txt/inner", "x\n");
    fs::remove_dir_all(dirs.checkout.join("dir")).expect("no folder");
    symlink("a.txt", dirs.checkout.join("dir")).expect("a link");
    let commit = committed(&dirs, fetched.start.as_ref(), "swapped");
    world.push(&dirs, &commit, "refs/heads/main", &Expect::Forward(fetched.tip)).expect("a push");
    let listed =
        world.server.git("site", &["ls-tree", "-r", "--format=%(objectmode) %(path)", "main"]);
    assert_eq!(listed, "100644 a.txt/inner\n120000 dir");
}

#[test]
fn more_files_or_bytes_than_the_caps_are_refused_before_they_are_read() {
    let world = World::new();
    let (fetched, dirs) = world.checked_out("build");
    for n in 0..11 {
        write(&dirs, &format!("f{n}"), "0123456789");
    }
    let with = |files, bytes| {
        git::stage(&dirs, fetched.start.as_ref(), &Caps { files, bytes, ..CAPS }, &[])
    };
    let few = with(10, 1 << 20);
    assert!(
        matches!(&few, Err(GitError::BadTree(message)) if message.contains("11 files")),
        "{few:?}"
    );
    let small = with(100, 109);
    assert!(
        matches!(&small, Err(GitError::BadTree(message)) if message.contains("110 bytes")),
        "{small:?}"
    );
    assert_eq!(with(11, 110).expect("just enough").total, 11);
    // In rounds, each of them small: all of it counts.
    write(&dirs, "one-more", "x");
    let rounds = with(11, 1 << 20);
    assert!(
        matches!(&rounds, Err(GitError::BadTree(message)) if message.contains("12 files")),
        "{rounds:?}"
    );
    // A file of a terabyte that has no content is not read, either.
    fs::remove_file(dirs.checkout.join("one-more")).expect("no file");
    let sparse = fs::File::create(dirs.checkout.join("sparse")).expect("a file");
    sparse.set_len(1 << 40).expect("a sparse file");
    assert!(matches!(with(100, 1 << 30), Err(GitError::BadTree(_))));
}

#[test]
fn what_is_no_file_is_passed_over_and_what_cannot_be_read_is_told() {
    let world = World::new();
    let (fetched, dirs) = world.checked_out("build");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dirs.checkout.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("a pipe");
    let _socket =
        std::os::unix::net::UnixListener::bind(dirs.checkout.join("socket")).expect("a socket");
    write(&dirs, "a.txt", "x\n");
    assert_eq!(staged(&dirs, fetched.start.as_ref()).expect("changes").total, 1);
    // A file of the repository that became a pipe is gone from it.
    fs::remove_file(dirs.checkout.join("dir/b.txt")).expect("no file");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dirs.checkout.join("dir/b.txt"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("a pipe");
    let changes = staged(&dirs, fetched.start.as_ref()).expect("changes");
    assert_eq!(
        changes.files.last().map(|file| (file.path.as_str(), file.status)),
        Some(("dir/b.txt", ChangeStatus::Deleted))
    );
}

#[test]
fn a_second_round_sees_what_the_first_left_and_what_changed_since() {
    let world = World::new();
    let (fetched, dirs) = world.checked_out("build");
    write(&dirs, "new", "1\n");
    write(&dirs, "a.txt", "1\n");
    assert_eq!(staged(&dirs, fetched.start.as_ref()).expect("changes").total, 2);
    fs::remove_file(dirs.checkout.join("new")).expect("no file");
    write(&dirs, "a.txt", "one\ntwo\nthree\n");
    assert_eq!(staged(&dirs, fetched.start.as_ref()).expect("changes").total, 0);
}
