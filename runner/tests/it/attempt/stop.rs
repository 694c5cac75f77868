//! Builds that are stopped: cancelled, silent, out of time, drained, without a lease.

use std::time::Duration;

use rdev_domain::ids::TaskId;
use rdev_domain::result::Outcome;
use rdev_domain::task::TaskState;
use rdev_domain::worker::WorkerStatus;

use crate::build::outcomes::appears;
use crate::world::{World, git};

/// A script that starts every kind of background process and then hangs.
fn hanging(world: &World) -> String {
    let begun = world.data.path().join("begun");
    format!(
        "echo half > half; (setsid sleep 600 &) ; (trap '' TERM; sleep 600) & (sleep 600 & sleep 600) & touch {}; trap '' TERM; sleep 600",
        begun.display()
    )
}

/// Every process whose environment or folder is that of an attempt of this world.
fn alive(world: &World) -> Vec<String> {
    let work = world.folders().work.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == std::process::id() {
            continue;
        }
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let folder = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(&work) || folder.starts_with(&work) {
            found.push(format!(
                "{pid} {}",
                std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default()
            ));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_build_ends_at_once_and_nothing_of_it_lives() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let running = world.run();
    let id = world.build(&site, &hanging(&world)).await;
    appears(&world.data.path().join("begun")).await;
    assert!(!alive(&world).is_empty());
    world.cancel(id, &running).await;
    let task = world.ended(id).await;
    assert_eq!(task.state, TaskState::Cancelled);
    assert_eq!(alive(&world), Vec::<String>::new());
    running.stop().await;
    assert_eq!(git(&world.repository(&site), &["for-each-ref", "refs/rdev"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_the_runner_was_not_notified_of_is_found_at_a_renewal() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let running = world.run();
    // It speaks, so that events are written often, and each write is a renewal.
    let begun = world.data.path().join("begun");
    let script = format!("touch {}; while true; do echo tick; sleep 0.05; done", begun.display());
    let id = world.build(&site, &script).await;
    appears(&begun).await;
    let event = rdev_domain::step::Event::Cancel;
    let by = rdev_domain::audit::Actor::maintenance();
    world
        .store()
        .advance(id, event, Default::default(), &by, crate::world::now())
        .await
        .expect("flagged");
    assert_eq!(world.ended(id).await.state, TaskState::Cancelled);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_agent_is_stopped_and_retried_once() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let running = world.run();
    let id = world.build_with(&site, &hanging(&world), |spec| spec.stall_timeout_s = 1).await;
    let task = world.until(id, "put back", |record| record.task.stalls == 1).await;
    assert_eq!(task.state, TaskState::Queued);
    assert_eq!(task.failure.map(|failure| failure.class.as_str()), Some("agent_stalled"));
    assert!(task.available_at > crate::world::now());
    assert_eq!(alive(&world), Vec::<String>::new());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_past_its_time_fails_and_its_unfinished_work_is_kept_for_people() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let running = world.run();
    let id = world
        .build_with(&site, "while true; do echo tick; echo x >> part; sleep 0.1; done", |spec| {
            spec.timeout_s = 1
        })
        .await;
    let (class, message) = world.failed(id).await;
    assert_eq!(class, "timeout", "{message}");
    let part = format!("refs/rdev/part/{id}/1");
    assert!(git(&world.repository(&site), &["show", &format!("{part}:part")]).starts_with('x'));
    assert_eq!(git(&world.repository(&site), &["log", "--format=%s", "main"]).lines().count(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_builds_finish_and_a_second_one_gives_them_back() {
    let mut world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let running = world.run();
    let id =
        world.build(&site, &crate::build::outcomes::wait_script("echo 2 > a", &begun, &go)).await;
    appears(&begun).await;
    running.handle.drain();
    std::fs::write(&go, "").expect("go");
    running.stop().await;
    assert_eq!(world.succeeded(id).await.outcome, Outcome::Delivered);

    world.config.runner.drain_s = 0;
    std::fs::remove_file(&begun).expect("begun");
    let running = world.run();
    let id = world
        .build(&site, &format!("echo half > half; touch {}; exec sleep 600", begun.display()))
        .await;
    appears(&begun).await;
    running.stop().await;
    let task = world.task(id).await.task;
    assert_eq!((task.state, task.attempt), (TaskState::Queued, 0), "the attempt is given back");
    let wake_ups = world.queue().stats().await.expect("an answer");
    let one = (wake_ups.visible, wake_ups.in_flight, wake_ups.delayed);
    assert_eq!(one, (1, 0, 0), "the release has sent one, and its own is deleted");
    assert_eq!(
        git(&world.repository(&site), &["show", &format!("refs/rdev/part/{id}/1:half")]),
        "half"
    );
    assert_eq!(alive(&world), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_busy_while_it_builds_and_drains_when_a_drain_is_ordered() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let running = world.run();
    let id =
        world.build(&site, &crate::build::outcomes::wait_script("echo 2 > a", &begun, &go)).await;
    appears(&begun).await;
    let worker = until_worker(&world, WorkerStatus::Busy).await;
    assert_eq!(worker.running, [id]);
    let by = rdev_domain::audit::Actor::maintenance();
    let worker =
        world.store().set_drain(&worker.id, true, &by, crate::world::now()).await.expect("ordered");
    assert_eq!(worker.status, WorkerStatus::Draining);
    std::fs::write(&go, "").expect("go");
    world.succeeded(id).await;
    running.stop().await;
    until_worker(&world, WorkerStatus::Offline).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_stops_the_agent_and_reports_nothing() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let running = world.run();
    let begun = world.data.path().join("begun");
    let script = format!(
        "touch {}; while [ ! -e {}2 ]; do echo tick; sleep 0.05; done; echo 2 > a",
        begun.display(),
        begun.display()
    );
    let id: TaskId = world.build(&site, &script).await;
    appears(&begun).await;
    // As if the runner had been taken for dead.
    let outbox = world.store().recover_all(crate::world::now()).await.expect("recovered");
    std::fs::write(format!("{}2", begun.display()), "").expect("the second attempt does not wait");
    rdev_domain::outbox::send(
        &*world.store(),
        &*world.embedded.queue,
        &outbox,
        crate::world::now(),
    )
    .await
    .expect("sent");
    let result = world.succeeded(id).await;
    assert_eq!(result.outcome, Outcome::Delivered);
    let task = world.task(id).await.task;
    assert_eq!(task.attempt, 2);
    assert_eq!(git(&world.repository(&site), &["log", "--format=%s", "main"]).lines().count(), 2);
    running.stop().await;
}

async fn until_worker(world: &World, status: WorkerStatus) -> rdev_domain::worker::Worker {
    let end = std::time::Instant::now() + Duration::from_secs(600);
    loop {
        let workers = world.store().workers().await.expect("workers");
        if let Some(worker) = workers.into_iter().find(|worker| worker.status == status) {
            return worker;
        }
        assert!(std::time::Instant::now() < end, "no worker was ever {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
