//! Builds whose ticket is pushed while their work is being verified: who finds such a ticket
//! verifies its work first, and what does not pass is put aside.

use std::path::{Path, PathBuf};
use std::process::Command;

use rdev_domain::git::{CommitId, OwnRef, RecordedRef};
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::project::Project;
use rdev_domain::result::Outcome;
use rdev_domain::task::TaskState;
use rdev_testkit::servers::git_http::{Behaviour, TOKEN};

use crate::build::ghost::{Ghost, agent_ran, commits_of, forbidden};
use crate::build::outcomes::{appears, wait_script};
use crate::build::remote::world_with;
use crate::world::{World, git};

/// The refs of rdev's own that a repository has.
fn own_refs(world: &World, project: &Project) -> String {
    git(&world.repository(project), &["for-each-ref", "--format=%(refname)", "refs/rdev"])
}

fn wip(id: TaskId, fence: u64) -> String {
    format!("refs/{}", OwnRef::Wip(id, Fence(fence)).path())
}

fn part(id: TaskId, fence: u64) -> String {
    format!("refs/{}", OwnRef::Part(id, Fence(fence)).path())
}

/// A command that says each time that it ran, and passes if `test` does.
fn counted(world: &World, test: &str) -> (String, PathBuf) {
    let runs = world.data.path().join("runs");
    (format!("echo ran >> {}; {test}", runs.display()), runs)
}

fn count(runs: &Path) -> usize {
    std::fs::read_to_string(runs).map_or(0, |text| text.lines().count())
}

/// Writes a ticket whose work nobody has verified.
async fn writes_unverified(ghost: &Ghost<'_>, path: &str, text: &str) -> CommitId {
    let (clone, _) = ghost.makes(path, text);
    pushes_unverified(ghost, clone.path()).await
}

/// The same with the commit of a clone.
async fn pushes_unverified(ghost: &Ghost<'_>, clone: &Path) -> CommitId {
    let commit: CommitId = git(clone, &["rev-parse", "HEAD"]).parse().expect("a commit");
    let own = OwnRef::parse(&ghost.wip()).expect("a ref of rdev's own");
    let entry = RecordedRef { unverified: true, ..RecordedRef::of(own, commit.clone()) };
    ghost.records_all(&[entry]).await;
    git(clone, &["push", "-q", "origin", &format!("HEAD:{}", ghost.wip())]);
    commit
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ticket_is_at_the_server_while_the_work_is_being_verified() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let verify = wait_script("test -f a", &begun, &go);
    let running = world.run();
    let id = world.build_with(&site, "echo 2 > a", |spec| spec.verify = vec![verify]).await;
    appears(&begun).await;
    let ticket = world.repository(&site).join(wip(id, 1));
    appears(&ticket).await;
    let record = world.task(id).await;
    assert_eq!(record.task.state, TaskState::Running);
    let recorded = record.lease.and_then(|lease| lease.own_refs).expect("refs");
    assert_eq!(recorded.len(), 1);
    assert!(recorded[0].unverified && !recorded[0].may_land, "{recorded:?}");
    std::fs::write(&go, "").expect("go");
    assert_eq!(world.succeeded(id).await.outcome, Outcome::Delivered);
    assert_eq!(commits_of(&world, &site, id), 1);
    running.stop().await;
    assert_eq!(own_refs(&world, &site), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_with_verify_waits_for_one_push_and_not_for_two() {
    let (world, server, site) = world_with(TOKEN).await;
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let verify = wait_script("true", &begun, &go);
    let running = world.run();
    let id = world.build_with(&site, "echo 2 > a", |spec| spec.verify = vec![verify]).await;
    appears(&begun).await;
    let ticket = wip(id, 1);
    world.until(id, "at its ticket", |_| server.find_ref("site", &ticket).is_some()).await;
    server.forget_seen();
    std::fs::write(&go, "").expect("go");
    world.succeeded(id).await;
    let is_push = |target: &str| target.ends_with("git-receive-pack");
    let seen = server.seen();
    let pushes = seen.iter().filter(|one| one.method == "POST" && is_push(&one.target)).count();
    assert_eq!(pushes, 1, "{seen:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unverified_work_of_a_dead_attempt_is_verified_before_it_is_delivered() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let (verify, runs) = counted(&world, "grep -q 2 a");
    let id = world.build_with(&site, &forbidden(&world), |spec| spec.verify = vec![verify]).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = writes_unverified(&ghost, "a", "2\n").await;
    ghost.dies().await;
    let running = world.run();
    let result = world.succeeded(id).await;
    assert_eq!((result.commit_sha, agent_ran(&world)), (Some(commit), false));
    assert_eq!(count(&runs), 1);
    let task = world.task(id).await.task;
    assert_eq!((task.attempt, task.push_attempt), (1, 1), "no agent ran in the second one");
    running.stop().await;
    assert_eq!(own_refs(&world, &site), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn verified_work_of_a_dead_attempt_is_not_verified_again() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let (verify, runs) = counted(&world, "false");
    let id = world.build_with(&site, &forbidden(&world), |spec| spec.verify = vec![verify]).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
    ghost.dies().await;
    let running = world.run();
    assert_eq!(world.succeeded(id).await.commit_sha, Some(commit));
    assert_eq!(count(&runs), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unverified_work_that_does_not_pass_is_put_aside_and_the_agent_begins_anew() {
    // Also where there was nothing before it.
    for files in [&[("a", "1\n")][..], &[]] {
        let world = World::new();
        let site = world.project("site", files).await;
        // It leaves files; some of them are ignored as long as the work that did not pass says so.
        let leaves = "mkdir -p dist && touch left dist/left; test ! -f bad && test -f good";
        let (verify, runs) = counted(&world, leaves);
        let seen = world.data.path().join("seen");
        let script = format!("ls > {}; echo good > good; exit 0", seen.display());
        let id = world.build_with(&site, &script, |spec| spec.verify = vec![verify]).await;
        let ghost = Ghost::claims(&world, &site).await;
        let bad = {
            let (clone, _) = ghost.makes(".gitignore", "dist/\n");
            std::fs::write(clone.path().join("bad"), "bad").expect("a file");
            git(clone.path(), &["add", "-A"]);
            git(clone.path(), &["commit", "-q", "--amend", "--no-edit"]);
            pushes_unverified(&ghost, clone.path()).await
        };
        ghost.dies().await;
        let running = world.run();
        let result = world.succeeded(id).await;
        let changed: Vec<_> = result.files_changed.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(changed, ["good"]);
        let seen = std::fs::read_to_string(seen).expect("the agent ran");
        assert_eq!(seen.lines().collect::<Vec<_>>(), files.iter().map(|f| f.0).collect::<Vec<_>>());
        assert_eq!(count(&runs), 2);
        assert_ne!(result.commit_sha, Some(bad));
        let task = world.task(id).await.task;
        assert_eq!((task.attempt, task.push_attempt), (2, 0), "an agent ran in the second one");
        let events = world.log(id).await;
        assert!(events.contains("the agent begins anew"), "{events}");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unverified_work_that_hangs_its_verification_is_put_aside_and_a_retry_runs_an_agent() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let id = world
        .build_with(&site, "echo good > good; exit 0", |spec| {
            spec.verify = vec!["while test -f bad; do sleep 0.05; done".to_owned()];
            spec.timeout_s = 2;
        })
        .await;
    let ghost = Ghost::claims(&world, &site).await;
    writes_unverified(&ghost, "bad", "bad\n").await;
    ghost.dies().await;
    let running = world.run();
    assert_eq!(world.failed(id).await.0, "timeout");
    assert_eq!(world.task(id).await.task.own_refs, []);
    let retry = world.retry(id).await;
    let result = world.succeeded(retry).await;
    assert_eq!(result.files_changed[0].path, "good");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_people_rewrite_while_the_work_is_verified_is_followed() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let verify = wait_script("true", &begun, &go);
    let running = world.run();
    let id = world.build_with(&site, "echo 2 > b", |spec| spec.verify = vec![verify]).await;
    appears(&begun).await;
    appears(&repository.join(wip(id, 1))).await;
    let tree = git(&repository, &["rev-parse", "main^{tree}"]);
    let other = git(&repository, &["commit-tree", &tree, "-m", "Another history"]);
    git(&repository, &["update-ref", "refs/heads/main", &other]);
    std::fs::write(&go, "").expect("go");
    world.succeeded(id).await;
    assert_eq!(git(&repository, &["rev-parse", "main~1"]), other);
    running.stop().await;
    assert_eq!(own_refs(&world, &site), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_goes_on_though_no_server_took_the_ticket_of_what_did_not_pass() {
    let (world, server, site) = world_with(TOKEN).await;
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let ran = world.data.path().join("agents");
    // The first try does not pass while the server is away.
    let first = wait_script("true", &begun, &go);
    let verify = format!("if test $(cat a) = x; then {first}; false; fi");
    let script = format!("echo x >> {}; printf x >> a; exit 0", ran.display());
    server.commit("site", "main", &[("a", "")], "Empty it");
    let running = world.run();
    let gate = world.data.path().join("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.02; done; {script}", gate.display());
    let started = world.data.path().join("started");
    let script = format!("touch {}; {script}", started.display());
    let id = world.build_with(&site, &script, |spec| spec.verify = vec![verify]).await;
    appears(&started).await;
    server.behave(Behaviour::Status(503));
    std::fs::write(&gate, "").expect("gate");
    appears(&begun).await;
    world
        .until(id, "asked", |_| server.seen().iter().any(|one| one.target.contains("receive")))
        .await;
    server.behave(Behaviour::Serve);
    std::fs::write(&go, "").expect("go");
    world.succeeded(id).await;
    assert_eq!((count(&ran), world.task(id).await.task.attempt), (2, 1));
    assert_eq!(server.git("site", &["show", "main:a"]), "xx");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_never_passes_is_at_its_part_ref_and_no_retry_continues_from_it() {
    let world = World::new();
    let site = world.project("site", &[("a", "0")]).await;
    let (verify, runs) = counted(&world, "false");
    let ran = world.data.path().join("agents");
    let script = format!("echo x >> {}; printf x >> a; exit 0", ran.display());
    let running = world.run();
    let id = world.build_with(&site, &script, |spec| spec.verify = vec![verify]).await;
    assert_eq!(world.failed(id).await.0, "verify_failed");
    assert_eq!((count(&runs), count(&ran)), (3, 3));
    assert_eq!(own_refs(&world, &site), part(id, 1));
    let shown = git(&world.repository(&site), &["show", &format!("{}:a", part(id, 1))]);
    assert_eq!(shown, "0xxx", "the last round's");
    assert_eq!(world.task(id).await.task.own_refs, []);
    assert!(world.log(id).await.contains(&part(id, 1)));
    let retry = world.retry(id).await;
    assert_eq!(world.failed(retry).await.0, "verify_failed");
    assert_eq!(count(&ran), 6, "its agent ran");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_takes_back_what_did_not_pass_leaves_no_ticket() {
    let world = World::new();
    let site = world.project("site", &[("a", "0")]).await;
    let script = "if test -f new; then rm new; else touch new; fi; exit 0";
    let running = world.run();
    let verify = vec!["test ! -f new".to_owned()];
    let id = world.build_with(&site, script, |spec| spec.verify = verify).await;
    assert_eq!(world.succeeded(id).await.outcome, Outcome::NoChange);
    running.stop().await;
    assert_eq!(own_refs(&world, &site), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ticket_follows_the_next_try_of_the_agent() {
    let world = World::new();
    let site = world.project("site", &[("a", "0")]).await;
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let second = wait_script("true", &begun, &go);
    let running = world.run();
    let verify = vec!["test $(cat a) -ge 2".to_owned(), second];
    let add_one = "printf %s $(( $(cat a) + 1 )) > a; exit 0";
    let id = world.build_with(&site, add_one, |spec| spec.verify = verify).await;
    appears(&begun).await;
    let repository = world.repository(&site);
    let holds = format!("{}:a", wip(id, 1));
    let folder = repository.display().to_string();
    let has_it = || {
        let shown = Command::new("git").args(["-C", &folder, "show", &holds]).output();
        shown.is_ok_and(|shown| shown.stdout == b"2")
    };
    world.until(id, "at its ticket", |_| has_it()).await;
    std::fs::write(&go, "").expect("go");
    world.succeeded(id).await;
    assert_eq!(git(&repository, &["show", "main:a"]), "2");
    assert_eq!(commits_of(&world, &site, id), 1);
    running.stop().await;
    assert_eq!(own_refs(&world, &site), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_passed_though_no_server_took_its_ticket_is_not_verified_again() {
    let (world, server, site) = world_with(TOKEN).await;
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let (verify, runs) = counted(&world, "true");
    let running = world.run();
    let script = wait_script("echo x >> a", &begun, &go);
    let id = world.build_with(&site, &script, |spec| spec.verify = vec![verify]).await;
    appears(&begun).await;
    server.behave(Behaviour::Status(503));
    std::fs::write(&go, "").expect("go");
    let task = world.until(id, "put back", |record| record.task.failure.is_some()).await;
    assert_eq!(task.failure.map(|failure| failure.class.as_str()), Some("infra"));
    server.behave(Behaviour::Serve);
    std::fs::remove_file(&begun).expect("begun");
    world.cancel(id, &running).await;
    let retry = world.retry(id).await;
    assert_eq!(world.succeeded(retry).await.outcome, Outcome::Delivered);
    assert_eq!(server.git("site", &["show", "main:a"]), "1\nx");
    assert!(!begun.exists(), "the agent ran again");
    assert_eq!(count(&runs), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_cancelled_while_it_is_verified_leaves_no_ticket() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let verify = wait_script("true", &begun, &go);
    let running = world.run();
    let id = world.build_with(&site, "echo 2 > a", |spec| spec.verify = vec![verify]).await;
    appears(&begun).await;
    appears(&world.repository(&site).join(wip(id, 1))).await;
    world.cancel(id, &running).await;
    assert_eq!(world.ended(id).await.state, TaskState::Cancelled);
    running.stop().await;
    assert_eq!(own_refs(&world, &site), "");
    assert_eq!(git(&world.repository(&site), &["show", "main:a"]), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_tickets_are_branches_ci_sees_nothing_that_is_not_verified() {
    let (world, server, site) = world_with(TOKEN).await;
    server.refuse_outside_heads("site");
    let running = world.run();
    // The first time nobody knows of the server yet.
    for n in ["2", "3"] {
        let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
        let verify = wait_script("true", &begun, &go);
        let script = format!("echo {n} > a");
        let id = world.build_with(&site, &script, |spec| spec.verify = vec![verify]).await;
        appears(&begun).await;
        if n == "2" {
            let asked = || server.seen().iter().any(|one| one.target.ends_with("git-receive-pack"));
            world.until(id, "at its push", |_| asked()).await;
        }
        assert_eq!(server.git("site", &["for-each-ref", "--format=%(refname)"]), "refs/heads/main");
        std::fs::write(&go, "").expect("go");
        world.succeeded(id).await;
        assert_eq!(server.git("site", &["show", "main:a"]), n);
        std::fs::remove_file(&begun).expect("begun");
        std::fs::remove_file(&go).expect("go");
    }
    running.stop().await;
}
