//! Rebase, and the search for a lineage.

use rdev_domain::ids::TaskId;
use rdev_runner::git::{Rebased, Scan};

use super::*;

fn lineage() -> TaskId {
    "01JDGZ2V9QK8M3T5X7Y9ABCDEF".parse().expect("a task id")
}

/// Fetches the tip into an attempt's repository.
fn tip(world: &World, dirs: &Workdir) -> CommitId {
    match git::look(dirs, &world.remote, &branch("main"), &go()).expect("the tip").tip {
        Tip::Commit(id) => id,
        Tip::Absent => panic!("no branch"),
    }
}

#[test]
fn a_rebase_is_clean_conflicting_or_empty() {
    let world = World::new();
    let (_fetched, dirs, commit) = world.worked("build", "one\ntwo\nTHREE\n");
    world.server.commit("site", "main", &[("dir/b.txt", "theirs\n")], "elsewhere");
    let onto = tip(&world, &dirs);
    let Rebased::Clean(clean) =
        git::rebase(&dirs, &commit, &onto, &author(), NOW).expect("a rebase")
    else {
        panic!("a clean rebase")
    };
    assert_eq!(git::parent(&dirs, &clean).expect("the commit"), Some(onto.clone()));
    let changes = git::diff_of(&dirs, &clean, Some(&onto), &CAPS).expect("changes");
    assert_eq!((changes.total, changes.files[0].path.as_str()), (1, "a.txt"));

    world.server.commit("site", "main", &[("a.txt", "one\ntwo\nTHREE\n")], "the same");
    let onto = tip(&world, &dirs);
    assert_eq!(
        git::rebase(&dirs, &commit, &onto, &author(), NOW).expect("a rebase"),
        Rebased::Empty
    );

    world.server.commit("site", "main", &[("a.txt", "one\ntwo\n3\n")], "otherwise");
    let onto = tip(&world, &dirs);
    let conflict = git::rebase(&dirs, &commit, &onto, &author(), NOW).expect("a rebase");
    assert_eq!(conflict, Rebased::Conflict(vec!["a.txt".to_owned()]));
    assert_eq!(read(&dirs, "a.txt"), "one\ntwo\nTHREE\n", "the files are left alone");
}

#[test]
fn a_first_commit_is_rebased_onto_what_appeared_meanwhile() {
    let world = World::empty();
    let (_fetched, dirs) = world.checked_out("build");
    write(&dirs, "mine", "x\n");
    let commit = committed(&dirs, None, "mine\n\nRdev-Task: t\n");
    world.server.commit("site", "main", &[("theirs", "y\n")], "theirs");
    let onto = tip(&world, &dirs);
    let Rebased::Clean(clean) =
        git::rebase(&dirs, &commit, &onto, &author(), NOW).expect("a rebase")
    else {
        panic!("a clean rebase")
    };
    world
        .push(&dirs, &clean, "refs/heads/main", &Expect::Forward(Tip::Commit(onto)))
        .expect("a push");
    assert_eq!(world.server.git("site", &["ls-tree", "--name-only", "main"]), "mine\ntheirs");
    assert_eq!(
        world.server.git("site", &["log", "-1", "--format=%B", "main"]),
        "mine\n\nRdev-Task: t"
    );
}

#[test]
fn a_lineage_is_found_in_the_last_paragraph_only() {
    let world = World::new();
    let (fetched, dirs) = world.checked_out("build");
    let trailer = format!("Rdev-Lineage: {}", lineage());
    let quoted = format!("a person's\n\n{trailer}\n\nwas quoted here");
    for message in
        [quoted.as_str(), "x\n\nRdev-Lineage: 01JDGZ2V9QK8M3T5X7Y9ABCDEG", &format!("x {trailer}")]
    {
        world.server.commit("site", "main", &[], message);
    }
    let last = tip(&world, &dirs);
    let base = fetched.tip;
    assert_eq!(git::find_lineage(&dirs, lineage(), &base, &last).expect("a scan"), Scan::NotFound);

    let ours = format!("work\n\nRdev-Task: x\nRdev-Attempt: 1\n{trailer}");
    let ours = world.server.commit("site", "main", &[("x", "x")], &ours);
    world.server.commit("site", "main", &[], "later");
    let last = tip(&world, &dirs);
    let found = |base: &Tip| git::find_lineage(&dirs, lineage(), base, &last).expect("a scan");
    assert_eq!(found(&base), Scan::Found(id(&ours)));
    assert_eq!(found(&Tip::Absent), Scan::Found(id(&ours)));
    // The base itself has been searched before.
    assert_eq!(found(&at(&ours)), Scan::NotFound);
    assert_eq!(found(&Tip::Commit(last.clone())), Scan::NotFound);
}

#[test]
fn a_lineage_is_found_through_a_merge() {
    let world = World::new();
    let (fetched, dirs) = world.checked_out("build");
    let ours = format!("work\n\nRdev-Lineage: {}", lineage());
    let ours = world.server.commit("site", "side", &[("x", "x")], &ours);
    let main = world.server.commit("site", "main", &[("y", "y")], "main continues");
    let tree = world.server.git("site", &["merge-tree", "--write-tree", &main, &ours]);
    let merge =
        world.server.git("site", &["commit-tree", &tree, "-p", &main, "-p", &ours, "-m", "merge"]);
    world.server.git("site", &["update-ref", "refs/heads/main", &merge]);
    let last = tip(&world, &dirs);
    assert_eq!(
        git::find_lineage(&dirs, lineage(), &fetched.tip, &last).expect("a scan"),
        Scan::Found(id(&ours))
    );
}

#[test]
fn a_rewritten_history_is_told() {
    let world = World::new();
    let (fetched, dirs) = world.checked_out("build");
    let tree = world.server.git("site", &["rev-parse", "main^{tree}"]);
    let other = world.server.git("site", &["commit-tree", &tree, "-m", "another beginning"]);
    world.server.git("site", &["update-ref", "refs/heads/main", &other]);
    let last = tip(&world, &dirs);
    assert_eq!(last, id(&other));
    let scan = git::find_lineage(&dirs, lineage(), &fetched.tip, &last).expect("a scan");
    assert_eq!(scan, Scan::NotAncestor);
    // A base that is not in this repository is not an ancestor either.
    let unknown = at("0123456789012345678901234567890123456789");
    assert_eq!(
        git::find_lineage(&dirs, lineage(), &unknown, &last).expect("a scan"),
        Scan::NotAncestor
    );
    assert!(!git::contains(&dirs, &fetched.start.expect("a start"), &last).expect("an answer"));
}
