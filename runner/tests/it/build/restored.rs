//! A store that is older than the repositories: work that landed since is found before any agent
//! runs.

use std::path::{Path, PathBuf};

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::project::Project;
use rdev_domain::result::{BuildResult, Outcome, TaskResult};
use rdev_domain::spec::{BuildSpec, Work};
use rdev_domain::step::Event;
use rdev_domain::task::{Task, TaskState};
use rdev_testkit::servers::git_http::{Behaviour, GitServer, TOKEN};

use crate::build::ghost::{Ghost, agent_ran, commits_of, forbidden};
use crate::build::outcomes::{appears, wait_script};
use crate::build::remote::world_with;
use crate::world::{World, git, now, person_commits, ulid};

/// A backup of the world as it is now.
fn back_up(world: &World) -> PathBuf {
    let file = world.data.path().join("backup");
    rdev_embedded::backup(world.data.path(), &file, "test", now()).expect("a backup");
    file
}

/// The world as it was at the backup, with the repository as it is now.
async fn restored(world: &World, file: &Path, project: &Project) -> World {
    let newer = world.repository(project).display().to_string();
    restored_with(file, |data| {
        let repository = data.join(format!("repos/{}.git", project.id));
        std::fs::remove_dir_all(&repository).expect("the old one");
        git(data, &["clone", "-q", "--mirror", &newer, &repository.display().to_string()]);
    })
    .await
}

/// The world as it was at the backup, but for a change of its folder.
async fn restored_with(file: &Path, change: impl FnOnce(&Path)) -> World {
    let mut again = World::new();
    let data = tempfile::tempdir().expect("a temporary folder");
    rdev_embedded::restore(file, data.path(), now()).expect("restored");
    change(data.path());
    again.embedded = rdev_embedded::open(data.path(), rdev_embedded::Options::default())
        .expect("a restored folder opens");
    again.data = data;
    // As `rdev up` does.
    let recovered = again.store().recover_all(now()).await.expect("recovered");
    let queue = &*again.embedded.queue;
    rdev_domain::outbox::send(&*again.store(), queue, &recovered, now()).await.expect("sent");
    let wake = again.store().sweep(now().plus(std::time::Duration::from_secs(180))).await;
    for wake_up in wake.expect("swept").wake {
        rdev_domain::ports::Queue::send(queue, &wake_up, Default::default()).await.expect("sent");
    }
    again
}

fn found_after_restore(result: &BuildResult) -> bool {
    result.warnings.iter().any(|warning| warning.code == "found_after_restore")
}

/// A task that comes from a backup.
fn restored_task(project: &Project, script: &str, change: impl FnOnce(&mut BuildSpec)) -> Task {
    let mut spec = BuildSpec::of(script);
    change(&mut spec);
    let task = Task::new(TaskId(ulid()), project.id.clone(), Work::Build(spec), now());
    Task { restored: true, ..task }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_agent_runs_for_a_task_whose_lineage_landed_after_the_backup() {
    for running in [false, true] {
        let world = World::new();
        let site = world.project("site", &[("a", "1\n")]).await;
        let script = forbidden(&world);
        let id = world.build(&site, &script).await;
        let queued = (!running).then(|| back_up(&world));
        let ghost = Ghost::claims(&world, &site).await;
        let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
        let file = queued.unwrap_or_else(|| back_up(&world));
        ghost.prepares(&commit).await;
        ghost.lands(&commit, "main");
        person_commits(&world.repository(&site), "main", "b", "person\n");

        let again = restored(&world, &file, &site).await;
        let runner = again.run();
        let result = again.succeeded(id).await;
        assert_eq!(
            (result.commit_sha.as_ref(), result.outcome),
            (Some(&commit), Outcome::Delivered)
        );
        assert!(!agent_ran(&world), "running: {running}");
        assert!(found_after_restore(&result), "{result:?}");
        assert_eq!(commits_of(&again, &site_of(&again).await, id), 1);
        runner.stop().await;
    }
}

async fn site_of(world: &World) -> Project {
    world.store().project(&"site".parse().expect("an id")).await.expect("it is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_was_prepared_at_the_backup_and_landed_since_is_found() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
    ghost.prepares(&commit).await;
    let file = back_up(&world);
    ghost.lands(&commit, "main");
    let again = restored(&world, &file, &site).await;
    let runner = again.run();
    assert_eq!(again.succeeded(id).await.commit_sha, Some(commit));
    assert!(!agent_ran(&world));
    assert_eq!(commits_of(&again, &site_of(&again).await, id), 1);
    runner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_a_failed_task_finds_what_a_lost_retry_of_it_has_landed() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let id = world.build(&site, &forbidden(&world)).await;
    let first = Ghost::claims(&world, &site).await;
    let failure = Failure::new(FailureClass::Auth, "no");
    first
        .tells(Event::Fail {
            holder: first.holder(),
            failure,
            usage: None,
            revoked: false,
            left: None,
        })
        .await;
    let file = back_up(&world);
    let lost = world.retry(id).await;
    let second = Ghost::claims(&world, &site).await;
    assert_eq!(second.id(), lost);
    let commit = second.commits("a", "2\n", &second.wip()).await;
    second.prepares(&commit).await;
    second.lands(&commit, "main");

    let again = restored(&world, &file, &site).await;
    let runner = again.run();
    let retry = again.retry(id).await;
    let result = again.succeeded(retry).await;
    assert_eq!((result.commit_sha, agent_ran(&world)), (Some(commit), false));
    runner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_was_merged_and_deleted_since_is_found_on_the_default_branch() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let change = |spec: &mut BuildSpec| spec.branch = "feature".parse().ok();
    let id = world.enqueue(restored_task(&site, &forbidden(&world), change)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let (clone, commit) = ghost.makes("a", "2\n");
    git(clone.path(), &["push", "-q", "origin", "HEAD:main"]);
    ghost.dies().await;
    let runner = world.run();
    let result = world.succeeded(id).await;
    assert_eq!((result.commit_sha.as_ref(), agent_ran(&world)), (Some(&commit), false));
    assert!(found_after_restore(&result));
    assert_eq!(git(&world.repository(&site), &["branch", "--list", "feature"]), "");
    runner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lands_while_the_agent_of_a_restored_task_works_is_found_too() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let script = wait_script("echo again > c", &begun, &go);
    let id = world.enqueue(restored_task(&site, &script, |_| {})).await;
    let ghost = Ghost::claims(&world, &site).await;
    let (clone, commit) = ghost.makes("a", "2\n");
    ghost.dies().await;
    let runner = world.run();
    appears(&begun).await;
    git(clone.path(), &["push", "-q", "origin", "HEAD:main"]);
    std::fs::write(&go, "").expect("go");
    assert_eq!(world.succeeded(id).await.commit_sha, Some(commit));
    assert_eq!(commits_of(&world, &site, id), 1);
    runner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_task_that_never_landed_is_done_once_although_a_ref_of_the_lost_life_is_in_the_way()
 {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let task = restored_task(&site, "echo 2 > a", |_| {});
    let wip = format!("refs/rdev/wip/{}/1", task.id);
    let other = person_commits(&world.repository(&site), "main", "b", "x\n");
    git(&world.repository(&site), &["update-ref", &wip, &other]);
    let id = world.enqueue(task).await;
    let runner = world.run();
    let result = world.succeeded(id).await;
    assert!(!found_after_restore(&result), "{result:?}");
    assert_eq!(git(&world.repository(&site), &["show", "main:a"]), "2");
    assert_eq!(commits_of(&world, &site, id), 1);
    assert_eq!(world.task(id).await.task.fence, Fence(1));
    runner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_landing_that_was_killed_half_way_before_the_backup_is_not_repeated_after_a_rewind() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
    ghost.prepares(&commit).await;
    // The branch has moved, and its lock is gone; the ticket is still there, and its lock.
    let before = git(&repository, &["rev-parse", "main"]);
    std::fs::create_dir_all(repository.join("logs/refs/heads")).expect("a folder");
    std::fs::write(repository.join("logs/refs/heads/main"), "").expect("a log");
    git(&repository, &["update-ref", "refs/heads/main", commit.as_str()]);
    let lock = repository.join(format!("{}.lock", ghost.wip()));
    std::fs::write(&lock, format!("rdev landing   {commit} refs/heads/main\n")).expect("a lock");
    git(&repository, &["update-ref", "refs/heads/main", &before]);

    let again = restored_with(&back_up(&world), |_| ()).await;
    let runner = again.run();
    let result = again.succeeded(id).await;
    assert_eq!((result.commit_sha.as_ref(), agent_ran(&world)), (Some(&commit), false));
    assert_eq!(result.warnings[0].code, "branch_rewritten", "{result:?}");
    let repository = again.repository(&site_of(&again).await);
    assert_eq!(git(&repository, &["rev-parse", "main"]), before, "it landed once");
    runner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_no_server_had_at_the_backup_is_delivered_from_it() {
    let (world, server, site) = world_with(TOKEN).await;
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let runner = world.run();
    let work = Work::Build(BuildSpec::of(wait_script("echo x >> a", &begun, &go)));
    let task = Task::new(TaskId(ulid()), site.id.clone(), work, now());
    // It fails for good: a retry does not wait for a backoff.
    let id = world.enqueue(Task { project_nonce: site.nonce, max_attempts: 1, ..task }).await;
    appears(&begun).await;
    server.behave(Behaviour::Status(503));
    std::fs::write(&go, "").expect("go");
    assert_eq!(world.failed(id).await.0, "infra");
    // The commit is kept when the workspace goes, after the failure is on record.
    appears(&world.data.path().join(format!("unpushed/{id}/1/finished"))).await;
    let file = back_up(&world);
    runner.stop().await;
    server.behave(Behaviour::Serve);
    std::fs::remove_file(&begun).expect("begun");

    let mut again = restored_with(&file, |_| ()).await;
    again.config = world.config.clone();
    let runner = again.run();
    let retry = again.retry(id).await;
    assert_eq!(again.succeeded(retry).await.outcome, Outcome::Delivered);
    assert_eq!(server.git("site", &["show", "main:a"]), "1\nx");
    assert!(!begun.exists(), "the agent ran again");
    runner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_branch_cannot_be_searched_no_agent_runs() {
    let mut world = World::new();
    world.config.git.timeout_s = 2;
    let server = GitServer::start();
    server.create("site", &[("a", "1\n")]);
    let url = server.url("site").parse().expect("a URL");
    drop(server);
    let site = world.project_at("site", url).await;
    let id = world.enqueue(restored_task(&site, &forbidden(&world), |_| {})).await;
    let runner = world.run();
    let task = world
        .until(id, "back in the queue", |record| {
            record.task.state == TaskState::Queued && record.task.failure.is_some()
        })
        .await;
    assert_eq!(task.failure.map(|failure| failure.class), Some(FailureClass::Infra));
    assert!(task.result.as_ref().and_then(TaskResult::as_build).is_none());
    assert!(!agent_ran(&world));
    runner.stop().await;
}
