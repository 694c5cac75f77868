//! A hundred builds through an AWS that throttles, fails, times out, loses answers, and is
//! gone for a minute, first its tables and then its queues: none is lost, none is doubled.

use std::time::{Duration, Instant};

use rdev_testkit::servers::emulator::Emulator;
use rdev_testkit::servers::proxy::{Fault, On, Proxy, Rule, Service};
use serde_json::json;

use crate::stack::{QUIET, Stack};

const BUILDS: usize = 100;
const PROJECTS: [&str; 4] = ["north", "east", "south", "west"];
const OUTAGE: Duration = Duration::from_secs(60);

/// How long the whole may take.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

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

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the counts tell what the campaign covered")]
async fn a_hundred_builds_survive_everything_that_aws_can_do_to_them() {
    let _others = QUIET.read().await;
    let proxy = Proxy::start("http://127.0.0.1:9", 7);
    let emulator = match Emulator::start_with(&[("AWS_ENDPOINT_URL", &proxy.endpoint())]) {
        Ok(emulator) => emulator,
        Err(not_run) => return not_run.report(),
    };
    proxy.forward_to(&emulator.endpoint());
    let stack = match Stack::deploy(&emulator).await {
        Ok(stack) => stack,
        Err(not_run) => return not_run.report(),
    };
    for project in PROJECTS {
        stack.project(project, 2).await;
    }
    let runners = ["one", "two"].map(|name| stack.runner(name, &proxy.endpoint(), 3));
    proxy.plan(noise());

    let begun = Instant::now();
    let mut tasks = Vec::new();
    for n in 0..BUILDS {
        let project = PROJECTS[n % PROJECTS.len()];
        let body =
            json!({"prompt": format!("sleep 0.3; echo {n} > file-{n}.txt"), "max_attempts": 10});
        let (path, key) = (format!("/projects/{project}/builds"), format!("build-{n}"));
        let task = loop {
            // As a client does: the same request with the same key, until it is accepted.
            match stack.ask("POST", &path, Some(&body), Some(&key)).await {
                Some((202, task)) => break task["id"].as_str().expect("an id").to_owned(),
                Some((409 | 429 | 500..=599, _)) | None => {}
                Some((status, answer)) => panic!("{status}: {answer:#}"),
            }
            assert!(begun.elapsed() < PATIENCE, "build {n} is not accepted");
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        tasks.push((project, task));
        if n == BUILDS / 3 {
            proxy.plan(without(Service::DynamoDb));
            tokio::time::sleep(OUTAGE).await;
            proxy.plan(noise());
        }
        if n == 2 * BUILDS / 3 {
            proxy.plan(without(Service::Sqs));
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
}
