//! Messages that nobody understands: they end as dead letters and block nothing.

use std::process::Command;
use std::time::{Duration, Instant};

use rdev_testkit::tools::python::{MINISTACK, installed, path_with};
use rdev_testkit::tools::trial::Outcome;
use serde_json::{Value, json};

use crate::aws::stack::{PATIENCE, deployed, said};

rdev_testkit::trials! {
    async garbage_and_unknown_versions_are_recorded_and_block_nothing;
}

const SEND: &str = "
import boto3, sys
url, *bodies = sys.argv[1:]
for body in bodies:
    boto3.client('sqs').send_message(QueueUrl=url, MessageBody=body, MessageGroupId='x')
";

async fn garbage_and_unknown_versions_are_recorded_and_block_nothing() -> Outcome {
    let (_emulator, stack) = deployed().await?;
    let programs = installed(MINISTACK)?;
    stack.project("site", 1).await;
    let runner = stack.runner("one", &stack.account.endpoint, 1);
    let mut send = Command::new(programs.join("python"));
    send.args(["-c", SEND, &stack.queue_url, "what is this", r#"{"v":99,"project_id":"site"}"#]);
    send.envs(stack.account.variables()).env("PATH", path_with(&programs));
    said(&mut send, "boto3");

    let task = stack.build("site", json!({"prompt": "echo x > x.txt"})).await;
    let record = stack.ended("site", &task).await;
    stack.assert_delivered("site", &record);

    let end = Instant::now() + PATIENCE;
    let letters = loop {
        let letters = stack.expect(200, "GET", "/work/dead", None).await;
        if letters["items"].as_array().is_some_and(|all| all.len() == 2) {
            break letters;
        }
        assert!(Instant::now() < end, "they do not come: {letters:#}\n{}", stack.logs());
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let items = letters["items"].as_array().expect("a list");
    let mut reasons: Vec<&str> =
        items.iter().map(|one| one["reason"].as_str().expect("a reason")).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["garbage", "unknown_version"]);

    // What cannot be understood stays; a task that failed comes back.
    let failing = json!({"prompt": "exit 1", "max_attempts": 1});
    let failing = stack.build("site", failing).await;
    let record = stack.ended("site", &failing).await;
    assert_eq!(record["state"], "failed", "{record:#}");
    let output = stack.rdev(&["work", "redrive", "--json"]);
    let redriven: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(redriven["retried"].as_array().map(Vec::len), Some(1), "{redriven:#}");
    assert_eq!(redriven["left"], 2, "{redriven:#}");
    let retried = redriven["retried"][0].as_str().expect("a task");
    let record = stack.ended("site", retried).await;
    assert_eq!(record["retry_of"], failing.as_str(), "{record:#}");
    runner.stop().await;
    Ok(())
}
