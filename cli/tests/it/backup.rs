//! `rdev backup` and `rdev restore`, from a running server to another folder and back to work.

use std::fs;
use std::path::{Path, PathBuf};

use rdev_testkit::servers::git_http::{GitServer, TOKEN, USER};
use rustix::process::Signal;
use serde_json::Value;

use crate::rdev::{Place, Up, git, until, write};

/// A place whose agent runs the prompt as a shell script.
fn place() -> Place {
    Place::new()
        .with("RDEV_AGENTS__COMMAND__PROGRAM", "/bin/sh")
        .with("RDEV_AGENTS__COMMAND__ARGS", r#"["-c", "eval \"$RDEV_PROMPT\""]"#)
        .with("RDEV_DEFAULT_AGENT", "command")
        .with("RDEV_RUNNER__TERM_GRACE_S", "1")
}

/// A build whose agent notes that it runs, waits for a file, and then writes one.
struct Waiting {
    folder: PathBuf,
}

impl Waiting {
    fn script(&self, writes: &str) -> String {
        let at = self.folder.display();
        format!(
            "echo {writes} >> {at}/ran; while [ ! -e {at}/go ]; do sleep 0.02; done; echo 1 > {writes}"
        )
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.folder.join("ran")).unwrap_or_default().lines().count()
    }

    fn go(&self) {
        fs::write(self.folder.join("go"), "").expect("a file");
    }
}

fn start(place: &Place, prompt: &str) -> String {
    let task = place.json(&["build", "start", "site", prompt, "--json"]);
    task["id"].as_str().expect("an id").to_owned()
}

fn show(place: &Place, task: &str) -> Value {
    place.json(&["build", "show", "site", task, "--json"])
}

fn succeeded(place: &Place, task: &str) -> Value {
    let build = until("the build ends", || {
        let build = show(place, task);
        let ended = ["succeeded", "failed", "cancelled"].map(Value::from);
        ended.contains(&build["state"]).then_some(build)
    });
    assert_eq!(build["state"], "succeeded", "{build}");
    build
}

/// Ends a server and gives its builds back.
fn end(mut up: Up<'_>, place: &Place) {
    up.signal(Signal::TERM);
    until("the worker drains", || {
        let workers = place.json(&["worker", "list", "--json"]);
        (workers["items"][0]["status"] == "draining").then_some(())
    });
    up.signal(Signal::TERM);
    assert_eq!(up.wait().status, 0);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_backup_of_a_running_server_is_restored_elsewhere_and_its_builds_go_on() {
    let first = place();
    let (waiting, file) = (Waiting { folder: first.root().to_owned() }, first.root().join("b"));
    let up = first.up(&[]);
    let old_key = up.key.clone();
    first.json(&["project", "create", "site", "--json"]);
    let done = start(&first, "echo 1 > done");
    let sha = succeeded(&first, &done)["result"]["commit_sha"].clone();
    let (held, queued) = (start(&first, &waiting.script("held")), start(&first, "echo 1 > queued"));
    until("the agent runs", || (waiting.runs() == 1).then_some(()));
    let worker = first.json(&["worker", "list", "--json"])["items"][0]["id"].clone();
    let worker = worker.as_str().expect("an id").to_owned();
    first.json(&["worker", "drain", &worker, "--json"]);
    let made = first.json(&["backup", text(&file), "--json"]);
    assert_eq!(made["repositories"], 1, "{made}");
    let again = first.run(&["backup", text(&file)]);
    assert_eq!(again.status, 1, "{}", again.stdout);
    assert!(again.stderr.contains("exists already"), "{}", again.stderr);
    assert_eq!(show(&first, &held)["state"], "running", "the backup stopped nothing");
    end(up, &first);

    let second = place();
    let restored = second.json(&["restore", text(&file), "--json"]);
    assert_eq!(restored["unfinished_tasks"], 2, "{restored}");
    let up = second.up(&[]);
    assert_ne!(up.key, old_key, "the text of the old key is in no backup");
    let refused = second.command(&["project", "list"]).env("RDEV_KEY", &old_key).output();
    assert_eq!(refused.expect("it starts").status.code(), Some(4));
    let project = second.json(&["project", "show", "site", "--json"]);
    let repository = second.data().join("repos/site.git");
    assert_eq!(project["git_url"], format!("file://{}", repository.display()));
    assert_eq!(succeeded(&second, &done)["result"]["commit_sha"], sha);
    until("the agent runs again", || (waiting.runs() == 2).then_some(()));
    let workers = second.json(&["worker", "list", "--json"]);
    assert_eq!(workers["items"].as_array().map(Vec::len), Some(1), "{workers}");
    assert_eq!(workers["items"][0]["status"], "busy", "{workers}");
    waiting.go();
    for task in [&held, &queued] {
        assert_eq!(succeeded(&second, task)["result"]["outcome"], "delivered");
        let lineage = format!("--grep=Rdev-Lineage: {task}");
        let commits = git(text(&repository), &["log", "--format=%H", &lineage, "main"]);
        assert_eq!(commits.lines().count(), 1, "{commits}");
    }
    git(text(&repository), &["fsck", "--strict"]);
    assert_eq!(up.stop().status, 0);

    // A folder that is moved keeps its projects.
    let third = place();
    fs::rename(second.data(), third.data()).expect("moved");
    let up = third.up(&[]);
    let more = start(&third, "echo 1 > more");
    succeeded(&third, &more);
    let repository = third.data().join("repos/site.git");
    assert_eq!(git(text(&repository), &["show", "main:more"]), "1\n");
    assert_eq!(up.stop().status, 0);
}

#[test]
fn no_agent_runs_for_a_task_whose_lineage_is_on_the_branch_after_a_restore() {
    let server = GitServer::start();
    server.create("site", &[("a", "1\n")]);
    let config = format!(
        "[git]\nallow_private_addresses = true\n[[git.credentials]]\norigin = '{}'\nusername = '{USER}'\ntoken = '{TOKEN}'\n",
        server.origin()
    );
    let (first, second) = (place(), place());
    for place in [&first, &second] {
        write(&place.root().join("rdev.toml"), &config);
    }
    let (waiting, file) = (Waiting { folder: first.root().to_owned() }, first.root().join("b"));
    let up = first.up(&[]);
    first.json(&["project", "create", "site", "--git-url", &server.url("site"), "--json"]);
    let tasks = ["one", "two"].map(|writes| start(&first, &waiting.script(writes)));
    until("the agent runs", || (waiting.runs() == 1).then_some(()));
    first.json(&["backup", text(&file), "--json"]);
    // The life that goes on after the backup delivers both.
    waiting.go();
    let landed = tasks.clone().map(|task| succeeded(&first, &task)["result"]["commit_sha"].clone());
    assert_eq!(up.stop().status, 0);
    assert_eq!((waiting.runs(), server.log("site", "main").len()), (2, 3));

    assert_eq!(second.run(&["restore", text(&file)]).status, 0);
    let up = second.up(&[]);
    for (task, commit) in tasks.iter().zip(&landed) {
        let build = succeeded(&second, task);
        assert_eq!(&build["result"]["commit_sha"], commit, "{build}");
        assert_eq!(build["result"]["warnings"][0]["code"], "found_after_restore", "{build}");
    }
    assert_eq!(waiting.runs(), 2, "no agent ran again");
    assert_eq!(server.log("site", "main").len(), 3);
    assert_eq!(up.stop().status, 0);
}

#[test]
fn a_torn_or_foreign_file_is_refused_and_a_folder_with_something_in_it_too() {
    let first = place();
    let up = first.up(&[]);
    first.json(&["project", "create", "site", "--json"]);
    let file = first.root().join("b");
    first.json(&["backup", text(&file), "--json"]);
    let good = fs::read(&file).expect("bytes");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let second = place();
    for (bad, why) in [
        (&good[..good.len() / 2], "damaged or cut short"),
        (&flipped, "damaged or cut short"),
        (b"something else", "not a backup"),
    ] {
        let path = second.root().join("bad");
        fs::write(&path, bad).expect("a file");
        let ran = second.run(&["restore", text(&path)]);
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{}", ran.stderr);
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
        assert!(!second.data().exists());
    }
    let ran = first.run(&["restore", text(&file)]);
    assert_eq!(ran.status, 1, "{}", ran.stdout);
    assert!(ran.stderr.contains("not an empty folder"), "{}", ran.stderr);
    assert!(first.json(&["project", "show", "site", "--json"])["git_url"].is_string());
    assert_eq!(up.stop().status, 0);
    let ran = second.run(&["backup", text(&second.root().join("c"))]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("no data of rdev"), "{}", ran.stderr);
    assert!(!second.root().join("c").exists());
}
