//! Runners that are killed: another one finishes what they began, and there is one commit.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rdev_testkit::servers::proxy::{Fault, On, Proxy, Rule, Service};
use rdev_testkit::tools::trial::Outcome;
use serde_json::json;

use crate::aws::stack::{Stack, appears, deployed, emulator};
use crate::support::processes_below;

rdev_testkit::trials! {
    async a_runner_killed_in_mid_agent_is_finished_by_another;
    async a_runner_killed_between_prepare_and_push_is_finished_by_another_with_one_commit;
    async a_wake_up_that_could_not_be_sent_is_sent_by_the_sweep;
}

async fn a_runner_killed_in_mid_agent_is_finished_by_another() -> Outcome {
    let (_emulator, stack) = deployed().await?;
    stack.project("site", 1).await;
    let (started, again) = (stack.folder.path().join("started"), stack.folder.path().join("again"));
    let script = format!(
        "if [ -e {again} ]; then echo done > done.txt; else echo half > half.txt; touch {started}; sleep 300; fi",
        again = again.display(),
        started = started.display(),
    );
    let first = stack.runner("first", &stack.account.endpoint, 1);
    let task = stack.build("site", json!({"prompt": script})).await;
    appears(&started).await;
    first.kill();
    fs::write(&again, "").expect("written");
    let second = stack.runner("second", &stack.account.endpoint, 1);
    let record = stack.ended("site", &task).await;
    stack.assert_delivered("site", &record);
    assert_eq!((&record["attempt"], &record["worker_id"]), (&json!(2), &json!("second")));
    assert_eq!(record["attempts"][0]["failure"]["class"], "worker_lost", "{record:#}");
    let files = crate::support::git(&stack.git.folder("site"), &["ls-tree", "--name-only", "main"]);
    assert_eq!(files, "README.md\ndone.txt", "nothing of the first attempt");
    assert_eq!(processes_below(&stack.data_of("first")), [], "its agent went with it");
    second.stop().await;
    Ok(())
}

async fn a_runner_killed_between_prepare_and_push_is_finished_by_another_with_one_commit() -> Outcome
{
    let (_emulator, stack) = deployed().await?;
    stack.project("site", 1).await;
    // The server holds the push of the branch until it may go on: it lands when its runner is dead.
    let (held, go) = (stack.folder.path().join("held"), stack.folder.path().join("go"));
    let hook = format!(
        "#!/bin/sh\nwhile read old new ref; do\n  case $ref in refs/heads/main)\n    touch {held}\n    n=0; while [ ! -e {go} ] && [ $n -lt 3000 ]; do sleep 0.1; n=$((n+1)); done;;\n  esac\ndone\n",
        held = held.display(),
        go = go.display(),
    );
    let path = stack.git.folder("site").join("hooks/pre-receive");
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(&path, hook).expect("a hook");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be run");

    let first = stack.runner("first", &stack.account.endpoint, 1);
    let task = stack.build("site", json!({"prompt": "echo x > x.txt"})).await;
    appears(&held).await;
    let record = stack.until("site", &task, |state| state == "pushing").await;
    first.kill();
    let second = stack.runner("second", &stack.account.endpoint, 1);
    // The late push lands now, before, while or after the second runner looks.
    fs::write(&go, "").expect("written");
    let record_now = stack.ended("site", &task).await;
    stack.assert_delivered("site", &record_now);
    assert_eq!(record_now["attempt"], record["attempt"], "the agent did not run again");
    assert_eq!(record_now["worker_id"], "second");
    second.stop().await;
    Ok(())
}

async fn a_wake_up_that_could_not_be_sent_is_sent_by_the_sweep() -> Outcome {
    let proxy = Proxy::start("http://127.0.0.1:9", 1);
    let emulator = emulator(&[("AWS_ENDPOINT_URL", &proxy.endpoint())])?;
    proxy.forward_to(&emulator.endpoint());
    let stack = Stack::deploy(&emulator).await?;
    stack.project("site", 1).await;
    let runner = stack.runner("one", &emulator.endpoint(), 1);
    let send = On::Operation(Service::Sqs, "SendMessage");
    proxy.plan([Rule::always(send, Fault::Refuse(500, "InternalFailure"))]);
    let task = stack.build("site", json!({"prompt": "echo x > x.txt"})).await;
    let failed = proxy.seen().iter().filter(|seen| seen.fault.is_some()).count();
    assert!(failed > 0, "the function's send went wrong");
    proxy.plan([]);
    let record = stack.ended("site", &task).await;
    stack.assert_delivered("site", &record);
    runner.stop().await;
    Ok(())
}
