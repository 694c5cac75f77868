//! What an agent, a repository or a user's configuration may plant: nothing of it runs or
//! redirects.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// A script that leaves a trace when it runs.
fn trap(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (script, trace) = (folder.join(name), folder.join(format!("{name}.ran")));
    fs::write(&script, format!("#!/bin/sh\ntouch '{}'\ncat\n", trace.display())).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode");
    (script, trace)
}

#[test]
fn planted_filters_hooks_and_fsmonitor_do_not_run() {
    let world = World::new();
    let attributes = "* filter=evil diff=evil merge=evil\n";
    world.server.commit("site", "main", &[(".gitattributes", attributes)], "attributes");
    let traps = world.folder.path().join("traps");
    fs::create_dir(&traps).expect("a folder");
    let (script, trace) = trap(&traps, "evil");
    let (fetched, dirs) = world.checked_out("build");
    let path = script.display();
    let config = format!(
        "[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tfsmonitor = {path}\n\thooksPath = {}\n\tsshCommand = {path}\n\tgitProxy = {path}\n[filter \"evil\"]\n\tclean = {path}\n\tsmudge = {path}\n\tprocess = {path}\n\trequired = true\n[diff \"evil\"]\n\ttextconv = {path}\n\tcommand = {path}\n[merge \"evil\"]\n\tdriver = {path}\n[credential]\n\thelper = {path}\n",
        traps.display()
    );
    fs::write(dirs.checkout.join(".git/config"), config).expect("a planted configuration");
    fs::create_dir_all(dirs.checkout.join(".git/hooks")).expect("a folder");
    for hook in [
        "pre-commit",
        "commit-msg",
        "post-commit",
        "pre-push",
        "post-checkout",
        "post-index-change",
        "reference-transaction",
    ] {
        for folder in [dirs.checkout.join(".git/hooks"), traps.clone()] {
            fs::copy(&script, folder.join(hook)).expect("a planted hook");
        }
    }
    // The planted traps work: git itself falls for them.
    write(&dirs, "a.txt", "evil?\n");
    let _ = rdev_testkit::servers::git_http::try_git(&dirs.checkout, &["add", "a.txt"]);
    assert!(trace.exists(), "the trap is no trap");
    fs::remove_file(&trace).expect("no trace");

    let theirs = world.server.commit("site", "main", &[("c.txt", "c\n")], "theirs");
    let commit = committed(&dirs, fetched.start.as_ref(), "work");
    let tip = git::look(&dirs, &world.remote, &branch("main"), &go()).expect("the tip").tip;
    let git::Rebased::Clean(rebased) =
        git::rebase(&dirs, &commit, &id(&theirs), &author(), NOW).expect("a rebase")
    else {
        panic!("a clean rebase")
    };
    git::reset(&dirs, Some(&rebased), git::Ignored::Stay).expect("a reset");
    world.push(&dirs, &rebased, "refs/heads/main", &Expect::Forward(tip)).expect("a push");
    assert!(!trace.exists(), "something planted was run");
    assert_eq!(world.server.git("site", &["show", "main:a.txt"]), "evil?");
}

#[test]
fn insteadof_in_any_configuration_redirects_nothing() {
    let (world, other) = (World::new(), World::new());
    let (fetched, dirs) = world.checked_out("build");
    let config = format!(
        "[url \"{to}/\"]\n\tinsteadOf = {from}/\n\tpushInsteadOf = {from}/\n[http]\n\tproxy = {to}\n\textraHeader = X-Evil: 1\n[remote \"origin\"]\n\turl = {to}/site.git\n\tpushurl = {to}/site.git\n",
        to = other.server.origin(),
        from = world.server.origin(),
    );
    let append = |path: PathBuf| {
        let old = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, old + &config).expect("a planted configuration");
    };
    append(dirs.checkout.join(".git/config"));
    // Even in the runner's own repository, which nobody should be able to change.
    append(dirs.gitdir.join("config"));
    write(&dirs, "a.txt", "mine\n");
    let commit = committed(&dirs, fetched.start.as_ref(), "work");
    world.push(&dirs, &commit, "refs/heads/main", &Expect::Forward(fetched.tip)).expect("a push");
    git::look(&dirs, &world.remote, &branch("main"), &go()).expect("the tip");
    assert_eq!(world.main(), Some(commit.to_string()));
    assert_eq!(other.server.seen(), []);
}

/// The user's configuration cannot be planted inside this process (its
/// environment belongs to all tests), so a second process of this test does the
/// work, with its own HOME.
#[test]
fn a_users_configuration_has_no_effect() {
    const CHILD: &str = "RDEV_TEST_HOSTILE_HOME";
    if std::env::var_os(CHILD).is_some() {
        let world = World::new();
        let (fetched, dirs) = world.checked_out("build");
        write(&dirs, "ignored-by-user.txt", "x\n");
        write(&dirs, "a.txt", "line\r\n");
        let commit = committed(&dirs, fetched.start.as_ref(), "work");
        world
            .push(&dirs, &commit, "refs/heads/main", &Expect::Forward(fetched.tip))
            .expect("a push");
        let listed = world.server.git("site", &["ls-tree", "-r", "--name-only", "main"]);
        assert!(listed.contains("ignored-by-user.txt"), "{listed}");
        let stored = world.server.git("site", &["cat-file", "-s", "main:a.txt"]);
        assert_eq!(stored, "6", "autocrlf of the user's configuration changed it");
        return;
    }
    let home = TempDir::new().expect("a HOME");
    fs::create_dir_all(home.path().join(".config/git")).expect("a folder");
    let config = "[url \"http://127.0.0.1:1/\"]\n\tinsteadOf = http://127.0.0.1\n\tpushInsteadOf = http://127.0.0.1\n[core]\n\tautocrlf = true\n";
    fs::write(home.path().join(".gitconfig"), config).expect("a configuration");
    for file in ["ignore", "attributes"] {
        let content =
            if file == "ignore" { "ignored-by-user.txt\n" } else { "*.txt text eol=crlf\n" };
        fs::write(home.path().join(".config/git").join(file), content).expect("a file");
    }
    let me = std::env::current_exe().expect("this test's program");
    let output = std::process::Command::new(me)
        .args(["--exact", "git::hostile::a_users_configuration_has_no_effect", "--nocapture"])
        .env(CHILD, "1")
        .env("HOME", home.path())
        .env("XDG_CONFIG_HOME", home.path().join(".config"))
        .output()
        .expect("a second process");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Makes a tree from lines as `git ls-tree` prints them, past git's own checks of names.
fn mktree(world: &World, lines: &str) -> String {
    let list = world.folder.path().join("tree");
    fs::write(&list, lines).expect("a list");
    let mut mktree = rdev_testkit::servers::git_http::git_command(&world.server.folder("site"));
    mktree.args(["mktree"]).stdin(fs::File::open(&list).expect("the list"));
    let output = mktree.output().expect("git mktree");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

/// Makes `main` a commit of a tree and tries to check it out.
fn refusal(world: &World, tree: &str) -> String {
    let commit = world.server.git("site", &["commit-tree", tree, "-m", "evil"]);
    world.server.git("site", &["update-ref", "refs/heads/main", &commit]);
    let fetched = world.try_fetch("main").expect("a fetch");
    let (start, dirs) = (fetched.start.as_ref(), world.dirs(tree));
    match git::checkout(&fetched.mirror, start, &branch("main"), &dirs, &go()) {
        Err(GitError::BadTree(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_few_trees_that_make_millions_of_files_are_refused() {
    let world = World::new();
    let blob = world.server.git("site", &["rev-parse", "main:a.txt"]);
    let mut tree =
        mktree(&world, &(0..10).map(|n| format!("100644 blob {blob}\tf{n}\n")).collect::<String>());
    for _ in 0..9 {
        tree = mktree(
            &world,
            &(0..10).map(|n| format!("040000 tree {tree}\td{n}\n")).collect::<String>(),
        );
    }
    assert!(refusal(&world, &tree).contains("more than 1000000 files"));
}

#[test]
fn a_tree_deeper_than_any_path_is_refused() {
    let world = World::new();
    let repository =
        git2::Repository::open_bare(world.server.folder("site")).expect("the repository");
    let mut tree = repository
        .find_reference("refs/heads/main")
        .and_then(|main| main.peel_to_tree())
        .expect("a tree")
        .id();
    // git's own limit is 2,048 levels.
    for _ in 0..1500 {
        let mut level = repository.treebuilder(None).expect("a tree");
        level.insert("dd", tree, 0o040_000).expect("an entry");
        tree = level.write().expect("a tree");
    }
    assert!(refusal(&world, &tree.to_string()).contains("a path of 4001 bytes"));
}

#[test]
fn a_repository_with_names_that_no_checkout_may_have_is_refused() {
    for name in [".git", "GIT~1", ".git::$INDEX_ALLOCATION"] {
        let world = World::new();
        let blob = world.server.git("site", &["rev-parse", "main:a.txt"]);
        let tree = mktree(&world, &format!("100644 blob {blob}\t{name}\n"));
        assert!(refusal(&world, &tree).contains("is git's own"), "{name}");
    }
}
