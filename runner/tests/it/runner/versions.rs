//! A runner of an old version beside one of a new one, on the same store and queue.

use std::time::{Duration, Instant};

use rdev_domain::audit::Actor;
use rdev_domain::ids::TaskId;
use rdev_domain::outbox;
use rdev_domain::ports::{Queue, Store};
use rdev_domain::project::Project;
use rdev_domain::record::{Format, VERSION};
use rdev_domain::spec::{BuildSpec, Work};
use rdev_domain::task::{Task, TaskState};

use crate::world::{PATIENCE, World, now, ulid};

const OLD: Format = Format::CURRENT;
const NEW: Format = Format::of(VERSION + 1);

/// Enqueues a build as a program of the format does, and sends its wake-up.
async fn build(world: &World, project: &Project, format: Format, script: &str) -> TaskId {
    let store = world.embedded.store.with_format(format);
    let work = Work::Build(BuildSpec::of(script));
    let task = Task::new(TaskId(ulid()), project.id.clone(), work, now());
    let task = Task { project_nonce: project.nonce, ..task };
    let enqueued = store.enqueue(&task, &Actor::maintenance(), now()).await.expect("accepted");
    let queue = &*world.embedded.queue;
    outbox::send(&store, queue, &enqueued.outbox, now()).await.expect("the wake-up is sent");
    task.id
}

/// The task as the new version sees it, once it has ended.
async fn ended(world: &World, id: TaskId) -> Task {
    let store = world.embedded.store.with_format(NEW);
    let end = Instant::now() + PATIENCE;
    loop {
        let task = store.task(id).await.expect("the task is there").task;
        if task.state.is_terminal() {
            return task;
        }
        assert!(Instant::now() < end, "{id} has never ended: {task:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until no wake-up is left.
async fn until_used_up(world: &World) {
    let end = Instant::now() + PATIENCE;
    loop {
        let stats = world.embedded.queue.stats().await.expect("a queue");
        if stats.visible + stats.in_flight + stats.delayed == 0 {
            return;
        }
        assert!(Instant::now() < end, "wake-ups are left: {stats:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nothing sweeps here.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_runner_leaves_what_is_newer_and_a_new_one_does_it_though_every_wake_up_is_used_up()
{
    let world = World::new();
    let one = world.project("one", &[("a", "1\n")]).await;
    let two = world.project("two", &[("a", "1\n")]).await;
    let old = world.run_as("old", OLD);
    let mut newer = vec![build(&world, &one, NEW, "echo 2 > a").await];
    // Behind the newer task of the same project, and in another project.
    for project in [&one, &two] {
        let id = build(&world, project, OLD, "echo own > own").await;
        let done = ended(&world, id).await;
        assert_eq!(done.state, TaskState::Succeeded, "{:?}", done.failure);
        assert_eq!(done.worker_id.map(String::from).as_deref(), Some("old"));
    }
    newer.push(build(&world, &two, NEW, "echo 3 > a").await);
    until_used_up(&world).await;
    for &id in &newer {
        let seen = world.task(id).await.task;
        assert_eq!((seen.state, seen.attempt, seen.failure), (TaskState::Queued, 0, None));
    }

    // A new runner looks when it starts, and again when it was told nothing for a while.
    let new = world.run_as("new", NEW);
    for &id in &newer {
        let done = ended(&world, id).await;
        assert_eq!(done.state, TaskState::Succeeded, "{:?}", done.failure);
        assert_eq!(done.worker_id.map(String::from).as_deref(), Some("new"));
    }
    // Whoever receives this one's wake-up.
    let store = world.embedded.store.with_format(NEW);
    let work = Work::Build(BuildSpec::of("echo 4 > a"));
    let task = Task::new(TaskId(ulid()), one.id.clone(), work, now());
    let task = Task { project_nonce: one.nonce, ..task };
    store.enqueue(&task, &Actor::maintenance(), now()).await.expect("accepted");
    let done = ended(&world, task.id).await;
    assert_eq!(done.state, TaskState::Succeeded, "{:?}", done.failure);
    new.stop().await;
    old.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_builds_of_two_versions_each_ends_once_and_each_newer_one_by_the_new_runner() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let (old, new) = (world.run_as("old", OLD), world.run_as("new", NEW));
    let mut builds = Vec::new();
    for number in 0..20 {
        let format = if number % 2 == 0 { OLD } else { NEW };
        let script = format!("echo {number} > file{number}");
        builds.push((build(&world, &site, format, &script).await, format));
    }
    for &(id, format) in &builds {
        let done = ended(&world, id).await;
        assert_eq!(done.state, TaskState::Succeeded, "{:?}", done.failure);
        assert_eq!(done.attempt, 1);
        if format == NEW {
            assert_eq!(done.worker_id.map(String::from).as_deref(), Some("new"));
        }
    }
    let log = crate::world::git(
        &world.repository(&site),
        &["log", "--format=%(trailers:key=Rdev-Task,valueonly)", "main"],
    );
    let mut landed: Vec<&str> = log.split_whitespace().collect();
    landed.sort_unstable();
    let mut ids: Vec<String> = builds.iter().map(|(id, _)| id.to_string()).collect();
    ids.sort_unstable();
    assert_eq!(landed, ids, "each has landed once");
    old.stop().await;
    new.stop().await;
}
