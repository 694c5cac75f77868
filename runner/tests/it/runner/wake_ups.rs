//! What a runner does with wake-ups that were received before.

use std::time::Duration;

use rdev_domain::ids::{Owner, TaskId, WorkerId};
use rdev_domain::ports::{Capabilities, Claim, Queue};
use rdev_domain::result::Outcome;
use rdev_domain::spec::{AgentName, BuildSpec, Work};
use rdev_domain::task::Task;

use crate::world::{World, now, ulid};

/// Nothing sweeps here: the wake-up alone has to bring the task back.
#[tokio::test(flavor = "multi_thread")]
async fn a_wake_up_that_comes_back_too_early_comes_again_until_the_lease_of_its_dead_holder_has_ended()
 {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let begun = now().minus(Duration::from_secs(50));
    let work = Work::Build(BuildSpec::of("echo 2 > a"));
    let id = world.enqueue(Task::new(TaskId(ulid()), site.id.clone(), work, begun)).await;
    let queue = &world.embedded.queue;
    let message = queue.receive(Duration::ZERO).await.expect("a queue").expect("a wake-up");
    // Its lease can be recovered in 10 seconds from now.
    let worker_id: WorkerId = "dead".parse().expect("a worker");
    let owner = Owner::new(&worker_id, "x");
    let can = Capabilities { worker_id, agents: vec![AgentName::Command] };
    let claim = world.store().claim_next(&site.id, &owner, &can, begun).await;
    assert!(matches!(claim, Ok(Claim::Claimed(_))), "{claim:?}");
    queue.set_visibility(&message.receipt, Duration::ZERO).await.expect("put back");

    let running = world.run();
    assert_eq!(world.succeeded(id).await.outcome, Outcome::Delivered);
    assert_eq!(world.task(id).await.task.attempt, 2);
    running.stop().await;
}
