//! The quickstart, from nothing to a pushed commit.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::rdev::{Place, git, ran, until, write};

const PROMPT: &str = "Greet the harbour pilots of Bremerhaven & wish them calm seas";

fn text<'a>(json: &'a Value, field: &str) -> &'a str {
    json[field].as_str().unwrap_or_else(|| panic!("no {field} in {json}"))
}

fn shown(json: &Value) -> String {
    git(text(json, "repository"), &["show", "--format=%an <%ae>", text(json, "commit_sha")])
}

#[test]
fn it_delivers_twice_in_the_same_folder_with_the_same_prompt() {
    let place = Place::new();
    let mut projects = Vec::new();
    for _ in 0..2 {
        let ran = place.run(&["quickstart", "--json", "--prompt", PROMPT]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        assert!(ran.stderr.contains("sample agent"), "{}", ran.stderr);
        for phase in ["checkout", "agent", "commit", "push"] {
            assert!(ran.stderr.contains(phase), "no {phase}: {}", ran.stderr);
        }
        let json: Value = serde_json::from_str(&ran.stdout).expect("one JSON object");
        let mut fields: Vec<&str> =
            json.as_object().expect("an object").keys().map(String::as_str).collect();
        fields.sort_unstable();
        let expected = [
            "branch",
            "commit_sha",
            "durations_ms",
            "files_changed",
            "outcome",
            "project_id",
            "repository",
            "task_id",
        ];
        assert_eq!(fields, expected);
        assert_eq!(json["outcome"], "delivered");
        assert_eq!(json["files_changed"][0]["path"], "index.html");
        assert!(json["durations_ms"]["push"].is_u64(), "{json}");

        let (repository, branch) = (text(&json, "repository"), text(&json, "branch"));
        let message = git(repository, &["log", "-1", "--format=%B", branch]);
        assert!(message.contains(&format!("Rdev-Task: {}", text(&json, "task_id"))), "{message}");
        assert!(message.contains("Rdev-Attempt: 1"), "{message}");
        let tip = git(repository, &["rev-parse", branch]);
        assert_eq!(tip.trim(), text(&json, "commit_sha"));
        let words = PROMPT.replace('&', "&amp;");
        assert!(shown(&json).contains(&format!("+        <li>{words}</li>")), "{}", shown(&json));
        let page = git(repository, &["show", &format!("{branch}:style.css")]);
        assert!(page.contains(":root"), "the template's other files are there");
        projects.push(text(&json, "project_id").to_owned());
    }
    assert_ne!(projects[0], projects[1]);

    let local = place.local().expect("rdev.json");
    assert!(local.get("pid").is_none(), "nobody serves any more: {local}");
    let mode = std::fs::metadata(place.data().join("rdev.json")).expect("a file").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[test]
fn its_report_for_people_has_the_commit_the_diffstat_and_what_to_do_next() {
    let place = Place::new();
    let ran = place.run(&["quickstart"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    for part in ["succeeded, delivered", " index.html |", "1 file changed", "Next", "git -C "] {
        assert!(ran.stdout.contains(part), "no {part:?} in {}", ran.stdout);
    }
    let next = ran.stdout.lines().find(|line| line.contains("git -C ")).expect("a command");
    let next = std::process::Command::new("sh").args(["-c", next.trim()]).output();
    let next = next.expect("a shell");
    assert!(next.status.success(), "{}", String::from_utf8_lossy(&next.stderr));
    assert!(String::from_utf8_lossy(&next.stdout).contains("Rdev-Task"));
}

#[test]
fn the_environment_goes_over_the_file_of_the_data_folder() {
    let place = Place::new().with("RDEV_GIT__NAME", "From The Environment");
    write(
        &place.data().join("rdev.toml"),
        "[git]\nname = 'From The File'\nemail = 'file@example.com'\n",
    );
    let json = place.json(&["quickstart", "--json"]);
    let shown = shown(&json);
    assert!(shown.starts_with("From The Environment <file@example.com>\n"), "{shown}");
}

#[test]
fn a_configured_command_is_used_and_one_that_changes_nothing_is_no_success() {
    let place = Place::new()
        .with("RDEV_AGENTS__COMMAND__PROGRAM", "/bin/sh")
        .with("RDEV_AGENTS__COMMAND__ARGS", r#"["-c", "cat > from-the-agent.txt"]"#);
    let json = place.json(&["quickstart", "--json", "--agent", "command", "--prompt", "a word"]);
    assert_eq!(json["files_changed"][0]["path"], "from-the-agent.txt");

    let place = place.with("RDEV_AGENTS__COMMAND__ARGS", r#"["-c", "cat"]"#);
    let ran = place.run(&["quickstart", "--json", "--agent", "command"]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let json: Value = serde_json::from_str(&ran.stdout).expect("one JSON object");
    assert_eq!(json["outcome"], "no_change");
}

#[test]
fn an_interrupt_cancels_the_build() {
    let place = Place::new()
        .with("RDEV_AGENTS__COMMAND__PROGRAM", "/bin/sh")
        .with("RDEV_AGENTS__COMMAND__ARGS", r#"["-c", "touch started; sleep 600"]"#)
        .with("RDEV_RUNNER__TERM_GRACE_S", "1");
    let child = place
        .command(&["quickstart", "--json", "--agent", "command"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    until("the agent runs", || {
        let attempts = std::fs::read_dir(place.data().join("work")).ok()?;
        let mut checkouts = attempts.flatten().map(|entry| entry.path().join("checkout/started"));
        checkouts.any(|started| started.exists()).then_some(())
    });
    kill_process(Pid::from_child(&child), Signal::INT).expect("it is there");
    let ran = ran(child.wait_with_output().expect("it ends"));
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);

    let up = place.up(&[]);
    let work = place.json(&["work", "list", "--json"]);
    assert_eq!(work["items"][0]["state"], "cancelled", "{work}");
    assert_eq!(up.stop().status, 0);
}

#[test]
fn an_agent_that_is_not_installed_is_refused_before_anything_is_made() {
    let place = Place::new().with("RDEV_AGENTS__CODEX__PROGRAM", "/nowhere/codex");
    let ran = place.run(&["quickstart", "--agent", "codex"]);
    assert_eq!(ran.status, 64);
    assert!(ran.stderr.contains("codex is not installed"), "{}", ran.stderr);
    assert!(!place.data().exists());
}
