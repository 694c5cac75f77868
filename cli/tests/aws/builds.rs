//! A prompt becomes a commit: gateway, function, table, queue, runner, git server.

use rdev_testkit::tools::trial::Outcome;
use serde_json::{Value, json};

use crate::aws::stack::deployed;

rdev_testkit::trials! {
    async a_request_through_the_gateway_becomes_a_commit_on_the_git_server;
    async what_the_functions_cannot_serve_is_refused_as_everywhere;
}

async fn a_request_through_the_gateway_becomes_a_commit_on_the_git_server() -> Outcome {
    let (_emulator, stack) = deployed().await?;
    let runner = stack.runner("one", &stack.account.endpoint, 2);
    stack.project("site", 1).await;
    let task = stack.build("site", json!({"prompt": "echo hello > hello.txt"})).await;
    let record = stack.ended("site", &task).await;
    stack.assert_delivered("site", &record);
    let hello = crate::support::git(&stack.git.folder("site"), &["show", "main:hello.txt"]);
    assert_eq!(hello, "hello");
    assert_eq!(record["worker_id"], "one");

    // The same from the command line, which knows nothing of AWS.
    let output =
        stack.rdev(&["build", "start", "site", "echo more > more.txt", "--follow", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", stack.logs());
    let record: Value = serde_json::from_slice(&output.stdout).expect("the record");
    stack.assert_delivered("site", &record);
    assert!(said.contains("push"), "its phases are shown: {said}");

    let workers = stack.expect(200, "GET", "/workers", None).await;
    assert_eq!(workers["items"][0]["id"], "one", "{workers:#}");
    let all = stack.expect(200, "GET", "/projects/site/builds", None).await;
    assert_eq!(all["items"].as_array().map(Vec::len), Some(2), "{all:#}");
    runner.stop().await;
    let workers = stack.expect(200, "GET", "/workers", None).await;
    assert_eq!(workers["items"][0]["status"], "offline", "{workers:#}");
    Ok(())
}

async fn what_the_functions_cannot_serve_is_refused_as_everywhere() -> Outcome {
    let (_emulator, mut stack) = deployed().await?;
    let body = Some(json!({"name": "site"}));
    let refused = stack.expect(409, "POST", "/project", body).await;
    assert_eq!(refused["code"], "forge_not_configured");
    stack.expect(404, "GET", "/projects/site", None).await;
    stack.project("site", 1).await;
    let refused = stack.expect(409, "GET", "/projects/site/ci/pipelines", None).await;
    assert_eq!(refused["code"], "ci_not_configured");
    "rdev_nobody".clone_into(&mut stack.key);
    stack.expect(401, "GET", "/projects", None).await;
    Ok(())
}
