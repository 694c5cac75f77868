//! The server is killed at every request of a project's creation, before and after that was done.

use std::time::{Duration, Instant};

use rdev_testkit::servers::faults::Fault;
use rdev_testkit::tools::trial::Outcome;
use serde_json::json;

use crate::platform::world::{System, World, wanted};
use crate::support::PATIENCE;

rdev_testkit::trials! {
    async killed_between_any_two_steps_a_project_ends_with_one_of_each;
}

#[expect(clippy::print_stdout, reason = "figures, for the closing lines")]
async fn killed_between_any_two_steps_a_project_ends_with_one_of_each() -> Outcome {
    // Longer than anything here takes: nothing times out, the process dies.
    let world = World::new(120)?;
    // How many requests a creation makes.
    let server = world.up().await;
    assert_eq!(server.post("/project", wanted("first")).await.status, 201);
    server.kill();
    let counts = System::ALL.map(|system| world.system(system).requests().len());
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");

    let mut killed = 0;
    for (system, count) in System::ALL.into_iter().zip(counts) {
        for nth in 0..count {
            // Never sent on, and sent on and done without an answer.
            for (fault, what) in [(Fault::Hang, "before"), (Fault::HoldAnswer, "after")] {
                // As new as the one whose requests were counted: it knows nothing yet.
                let running = world.up().await;
                let name = format!("p-{}-{nth}-{what}", format!("{system:?}").to_lowercase());
                let before = world.system(system).requests().len();
                let held = world.system(system).held();
                world.system(system).break_nth(nth, fault);
                let body = Some(wanted(&name));
                let asked = running.try_request("POST", "/project", body, None);
                let waited = async {
                    let end = Instant::now() + PATIENCE;
                    let there = || match what {
                        "before" => world.system(system).requests().len() > before + nth,
                        _ => world.system(system).held() > held,
                    };
                    while !there() {
                        assert!(Instant::now() < end, "request {nth} to {system:?} never came");
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                };
                tokio::select! {
                    answer = asked => panic!("{name} was answered: {answer:?}"),
                    () = waited => {}
                }
                running.kill();
                world.heal();
                killed += 1;

                let again = world.up().await;
                let path = format!("/projects/{name}/provision");
                let answer = again.post(&path, json!({})).await;
                assert_eq!(answer.status, 200, "{name}: {answer:?}");
                world.assert_whole(&again, &name).await;
                again.kill();
            }
        }
    }
    println!("killed {killed} times at the {counts:?} requests of a creation; one of each, always");
    Ok(())
}
