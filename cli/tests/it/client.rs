//! The client commands against a server: what they print and how they end.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::rdev::{Place, ran, until};

fn id(json: &Value) -> String {
    json["id"].as_str().unwrap_or_else(|| panic!("no id in {json}")).to_owned()
}

#[test]
fn a_build_from_its_project_to_its_diff() {
    let place = Place::new();
    let up = place.up(&["--sample-agent"]);
    let project = place.json(&["project", "create", "site", "--description", "A page", "--json"]);
    assert_eq!((project["id"].as_str(), project["state"].as_str()), (Some("site"), Some("ready")));
    assert_eq!(place.json(&["project", "list", "--json"])["items"][0]["id"], "site");
    assert_eq!(place.json(&["project", "show", "site", "--json"])["description"], "A page");

    let follow = place.run(&["build", "start", "site", "Paint it blue", "--follow", "--json"]);
    assert_eq!(follow.status, 0, "{}", follow.stderr);
    for phase in ["checkout", "agent", "push"] {
        assert!(follow.stderr.contains(phase), "no {phase}: {}", follow.stderr);
    }
    let build: Value = serde_json::from_str(&follow.stdout).expect("the build's record");
    assert_eq!(build["result"]["outcome"], "delivered", "{build}");
    let task = id(&build);

    let list = place.json(&["build", "list", "site", "--json"]);
    assert_eq!(list["items"][0]["id"].as_str(), Some(task.as_str()));
    let shown = place.run(&["build", "show", &task]);
    assert!(shown.stdout.contains("succeeded, delivered"), "{}", shown.stdout);
    let diff = place.run(&["build", "diff", "site", &task]);
    assert!(diff.stdout.contains("+        <li>Paint it blue</li>"), "{}", diff.stdout);

    let log = place.run(&["build", "logs", &task]);
    assert!(log.stdout.contains("push"), "{}", log.stdout);
    let lines = place.run(&["build", "logs", "-f", "--json", "site", &task]);
    assert_eq!(lines.status, 0, "{}", lines.stderr);
    let events: Vec<Value> =
        lines.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().expect("seq")).collect();
    assert!(seqs.is_sorted_by(|a, b| a < b) && seqs.len() > 5, "{seqs:?}");
    let again = place.run(&["build", "logs", "--json", &task]);
    assert_eq!(again.stdout, lines.stdout, "both ways to read the log have the same events");

    let table = place.run(&["build", "list", "site"]);
    assert!(table.stdout.starts_with("TASK"), "{}", table.stdout);
    let deleted = place.run(&["project", "delete", "site", "--delete-repository"]);
    assert_eq!(deleted.status, 0, "{}", deleted.stderr);
    assert!(!place.data().join("repos/site.git").exists());
    assert_eq!(place.run(&["project", "show", "site"]).status, 1);
    assert_eq!(up.stop().status, 0);
}

#[test]
fn a_project_and_a_build_say_how_they_deliver() {
    let place = Place::new();
    let up = place.up(&["--sample-agent"]);
    let create = ["project", "create", "site", "--deliver", "pull_request", "--label", "by rdev"];
    let project = place.json(&[&create[..], &["--reviewer", "acme/team", "--json"]].concat());
    assert_eq!(project["deliver"], "pull_request", "{project}");
    let options = json!({ "labels": ["by rdev"], "reviewers": ["acme/team"] });
    assert_eq!(project["pull_request_options"], options, "{project}");
    let shown = place.run(&["project", "show", "site"]).stdout;
    for line in ["deliver      pull_request", "labels       by rdev", "reviewers    acme/team"] {
        assert!(shown.contains(line), "{shown}");
    }

    let start = |more: &[&str]| {
        let spec = [&["build", "start", "site", "x", "--json"][..], more].concat();
        let task = place.json(&spec);
        (task["spec"]["pull_request"].clone(), task["spec"]["pull_request_options"].clone())
    };
    let project = json!({ "labels": ["by rdev"], "draft": false, "reviewers": ["acme/team"] });
    assert_eq!(start(&[]), (json!(true), project));
    let own = ["--pull-request", "--label", "a", "--label", "b", "--draft", "--reviewer", "ann"];
    let expected = json!({ "labels": ["a", "b"], "draft": true, "reviewers": ["ann"] });
    assert_eq!(start(&own), (json!(true), expected));
    assert_eq!(start(&["--no-draft"]).1["draft"], false);
    assert_eq!(start(&["--no-pull-request"]), (json!(false), Value::Null));

    for (bad, says) in [
        (&["--pull-request", "--no-pull-request"][..], "cannot be used with"),
        (&["--draft", "--no-draft"], "cannot be used with"),
        (&["--reviewer", "@ann"], "reviewer must be"),
        (&["--label", ""], "label must have"),
        (&["--no-pull-request", "--draft"], "needs a pull request"),
    ] {
        let ran = place.run(&[&["build", "start", "site", "x"][..], bad].concat());
        assert_eq!(ran.status, 64, "{bad:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{bad:?}: {}", ran.stderr);
    }
    let ran = place.run(&["project", "create", "other", "--deliver", "mail"]);
    assert_eq!(ran.status, 64, "{}", ran.stderr);
    assert!(ran.stderr.contains("must be branch or pull_request"), "{}", ran.stderr);
    assert_eq!(up.stop().status, 0);
}

#[test]
fn the_exit_status_is_the_builds_end() {
    let place = Place::new().with("RDEV_RUNNER__TERM_GRACE_S", "1");
    let up = place.up(&["--sample-agent"]);
    place.json(&["project", "create", "site", "--json"]);
    let failed =
        place.run(&["build", "start", "site", "--prompt", "x", "--verify", "exit 3", "--follow"]);
    assert_eq!(failed.status, 1, "{}", failed.stderr);
    assert!(failed.stdout.contains("verify_failed"), "{}", failed.stdout);

    let follower = place
        .command(&["build", "start", "site", "x", "--verify", "sleep 600", "--follow", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let task = until("the build runs", || {
        let list = place.json(&["build", "list", "site", "--json"]);
        let newest = &list["items"][0];
        (newest["state"] == "running").then(|| id(newest))
    });
    let cancelled = place.run(&["build", "cancel", "site", &task]);
    assert_eq!(cancelled.status, 0, "{}", cancelled.stderr);
    let followed = ran(follower.wait_with_output().expect("it ends"));
    assert_eq!(followed.status, 2, "{}", followed.stderr);
    let record: Value = serde_json::from_str(&followed.stdout).expect("the build's record");
    assert_eq!(record["state"], "cancelled");
    assert_eq!(place.run(&["build", "logs", "-f", &task]).status, 2);

    let again = place.run(&["build", "cancel", &task]);
    assert_eq!(again.status, 1, "it has ended: {}", again.stderr);
    let retried = place.json(&["build", "retry", &task, "--json"]);
    assert_eq!(retried["retry_of"].as_str(), Some(task.as_str()));
    assert_eq!(place.run(&["build", "cancel", &id(&retried)]).status, 0);
    assert_eq!(up.stop().status, 0);
}

#[test]
fn keys_are_shown_once_and_allow_what_they_say() {
    let place = Place::new();
    let up = place.up(&["--sample-agent"]);
    let made = place.run(&["key", "create", "reader", "--scope", "projects:read,builds:read"]);
    assert_eq!(made.status, 0, "{}", made.stderr);
    let key = made.stdout.trim().to_owned();
    assert!(key.starts_with("rdev_") && made.stdout.lines().count() == 1, "{}", made.stdout);
    let as_reader = |args: &[&str]| {
        let mut command = place.command(args);
        command.env("RDEV_KEY", &key).env("RDEV_URL", &up.url);
        ran(command.output().expect("it starts"))
    };
    assert_eq!(as_reader(&["project", "list"]).status, 0);
    let refused = as_reader(&["project", "create", "site"]);
    assert_eq!(refused.status, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("missing_scope"), "{}", refused.stderr);

    let keys = place.json(&["key", "list", "--json"]);
    let found = keys["items"].as_array().expect("items").iter().find(|k| k["name"] == "reader");
    let reader = id(found.expect("it is listed"));
    assert!(!keys.to_string().contains(&key), "a list shows no secret");
    assert_eq!(place.run(&["key", "revoke", &reader]).status, 0);
    let refused = as_reader(&["project", "list"]);
    assert_eq!(refused.status, 4, "{}", refused.stderr);
    assert!(!refused.stderr.contains(&key));
    assert_eq!(up.stop().status, 0);
}

#[test]
fn what_the_server_finds_wrong_in_a_request_is_bad_usage_and_the_rest_a_failure() {
    let place = Place::new();
    let up = place.up(&["--sample-agent"]);
    let ran = place.run(&["project", "create", "site", "--template", "missing"]);
    assert_eq!(ran.status, 64, "{}", ran.stderr);
    assert!(ran.stderr.contains("template"), "{}", ran.stderr);
    assert_eq!(place.run(&["project", "create", "site"]).status, 0);
    let ran = place.run(&["project", "create", "site"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("project_exists"), "{}", ran.stderr);
    let ran = place.run(&["build", "start", "site", " "]);
    assert_eq!(ran.status, 64, "{}", ran.stderr);

    let key = ["--idempotency-key", "once", "--json"];
    let start = |prompt| [&["build", "start", "site", prompt][..], &key].concat();
    let first = place.json(&start("one"));
    assert_eq!(place.json(&start("one")), first, "the same request, repeated");
    assert_eq!(place.run(&start("two")).status, 64);
    assert_eq!(up.stop().status, 0);
}

#[test]
fn the_queue_and_the_workers_can_be_looked_at_and_steered() {
    let place = Place::new().with("RDEV_RUNNER__WORKER_ID", "w-1");
    let up = place.up(&["--sample-agent"]);
    place.json(&["project", "create", "site", "--json"]);
    let task = id(&place.json(&["build", "start", "site", "x", "--json"]));
    let stats = place.json(&["work", "stats", "--json"]);
    assert!(stats.to_string().contains("due"), "{stats}");
    assert!(place.run(&["work", "stats"]).stdout.contains("due"));
    let work = place.json(&["work", "list", "--json"]);
    assert_eq!(work["items"][0]["id"].as_str(), Some(task.as_str()));
    assert!(place.json(&["work", "dead", "--json"])["items"].is_array());
    assert_eq!(place.run(&["work", "redrive"]).status, 0);

    let status = || {
        let workers = place.json(&["worker", "list", "--json"]);
        let worker = &workers["items"][0];
        assert_eq!(worker["id"], "w-1", "{workers}");
        worker["status"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(place.run(&["worker", "drain", "w-1"]).status, 0);
    until("it drains", || (status() == "draining").then_some(()));
    assert_eq!(place.run(&["worker", "resume", "w-1"]).status, 0);
    until("it is back", || (status() != "draining").then_some(()));
    assert_eq!(place.run(&["worker", "drain", "w-2"]).status, 1, "there is none");
    assert_eq!(up.stop().status, 0);
}
