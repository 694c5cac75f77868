//! A hundred builds through an AWS that throttles, fails, times out, loses answers, and is
//! gone for a minute, first its tables and then its queues: none is lost, none is doubled.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use rdev_testkit::servers::proxy::{Fault, On, Proxy, Rule, Service};
use rdev_testkit::tools::trial::Outcome;
use serde_json::json;

use crate::aws::stack::{Stack, emulator};

rdev_testkit::trials! {
    async a_hundred_builds_survive_everything_that_aws_can_do_to_them;
}

const BUILDS: usize = 100;
const PROJECTS: [&str; 4] = ["north", "east", "south", "west"];
const OUTAGE: Duration = Duration::from_secs(60);

/// How long the whole may take. Only what hangs takes so long, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

fn noise() -> Vec<Rule> {
    vec![
        Rule::share(0.2, On::Any, Fault::Throttle),
        Rule::share(0.05, On::Any, Fault::Error),
        Rule::share(0.05, On::Any, Fault::LoseAnswer),
        Rule::share(0.01, On::Any, Fault::Hang),
    ]
}

/// The noise, and a service that is not there.
fn without(service: Service) -> Vec<Rule> {
    let mut rules = vec![Rule::always(On::Service(service), Fault::Gone)];
    rules.extend(noise());
    rules
}

#[expect(clippy::print_stdout, reason = "the counts tell what the campaign covered")]
async fn a_hundred_builds_survive_everything_that_aws_can_do_to_them() -> Outcome {
    let proxy = Proxy::start("http://127.0.0.1:9", 7);
    let emulator = emulator(&[("AWS_ENDPOINT_URL", &proxy.endpoint())])?;
    proxy.forward_to(&emulator.endpoint());
    let stack = Stack::deploy(&emulator).await?;
    for project in PROJECTS {
        stack.project(project, 4).await;
    }
    let runners = ["one", "two"].map(|name| stack.runner(name, &proxy.endpoint(), 8));
    proxy.plan(noise());

    let begun = Instant::now();
    let mut tasks = Vec::new();
    // A third of the builds, an outage, and so on: what is at work then has to get through it.
    let (first, second) = (BUILDS / 3 + 1, 2 * BUILDS / 3 + 1);
    for (builds, outage) in [
        (0..first, Some(Service::DynamoDb)),
        (first..second, Some(Service::Sqs)),
        (second..BUILDS, None),
    ] {
        let submitted = stream::iter(builds).map(|n| submit(&stack, n, begun));
        tasks.extend(submitted.buffer_unordered(PROJECTS.len()).collect::<Vec<_>>().await);
        if let Some(service) = outage {
            proxy.plan(without(service));
            tokio::time::sleep(OUTAGE).await;
            proxy.plan(noise());
        }
    }
    let mut open = tasks.clone();
    while !open.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{open:?} did not end\n{}", stack.logs());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut left = Vec::new();
        for (project, task) in open {
            let path = format!("/projects/{project}/builds/{task}");
            let ended = match stack.ask("GET", &path, None, None).await {
                Some((200, record)) => {
                    matches!(record["state"].as_str(), Some("succeeded" | "failed" | "cancelled"))
                }
                _ => false,
            };
            if !ended {
                left.push((project, task));
            }
        }
        open = left;
    }
    proxy.plan([]);
    let seen = proxy.seen();
    let faults = seen.iter().filter(|seen| seen.fault.is_some()).count();
    println!("{} calls, {faults} went wrong, {:?}", seen.len(), begun.elapsed());
    assert!(faults > seen.len() / 5, "the campaign was a calm one");
    for (project, task) in &tasks {
        let record = stack.ended(project, task).await;
        assert_eq!(record["state"], "succeeded", "{record:#}");
        stack.assert_delivered(project, &record);
    }
    for runner in runners {
        runner.stop().await;
    }
    Ok(())
}

/// Asks for the `n`th build until it is accepted: its project and its task.
async fn submit(stack: &Stack, n: usize, begun: Instant) -> (&'static str, String) {
    let project = PROJECTS[n % PROJECTS.len()];
    let body = json!({"prompt": format!("sleep 0.3; echo {n} > file-{n}.txt"), "max_attempts": 10});
    let (path, key) = (format!("/projects/{project}/builds"), format!("build-{n}"));
    loop {
        // As a client does: the same request with the same key, until it is accepted.
        match stack.ask("POST", &path, Some(&body), Some(&key)).await {
            Some((202, task)) => {
                return (project, task["id"].as_str().expect("an id").to_owned());
            }
            Some((409 | 429 | 500..=599, _)) | None => {}
            Some((status, answer)) => panic!("{status}: {answer:#}"),
        }
        assert!(begun.elapsed() < PATIENCE, "build {n} is not accepted");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
