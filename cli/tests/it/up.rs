//! `rdev up`: one process per folder, its file, its end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;

use crate::rdev::{Place, until};

#[test]
fn a_second_process_on_the_folder_is_refused_and_told_who_has_it() {
    let place = Place::new();
    let up = place.up(&[]);
    for args in [&["up", "--listen", "127.0.0.1:0"][..], &["quickstart"]] {
        let ran = place.run(args);
        assert_eq!(ran.status, 1, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(&up.pid().to_string()), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("in use"), "{args:?}: {}", ran.stderr);
    }
    let local = place.local().expect("rdev.json");
    assert_eq!(local["pid"], up.pid(), "the first one's file is as it was");

    // Another folder is another matter.
    let elsewhere = place.root().join("elsewhere");
    let elsewhere = elsewhere.to_str().expect("UTF-8");
    let json = place.json(&["quickstart", "--json", "--data-dir", elsewhere]);
    assert_eq!(json["outcome"], "delivered");
    assert_eq!(up.stop().status, 0);
}

#[test]
fn its_file_is_for_the_owner_alone_and_the_key_stays_the_same() {
    let place = Place::new();
    let up = place.up(&[]);
    let file = place.data().join("rdev.json");
    let mode = std::fs::metadata(&file).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(up.url.starts_with("http://127.0.0.1:"), "{}", up.url);
    let first = up.key.clone();
    assert!(place.json(&["project", "list", "--json"])["items"].is_array());
    assert_eq!(up.stop().status, 0);
    assert!(place.local().expect("it stays").get("pid").is_none());
    let ran = place.run(&["project", "list"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("rdev up"), "{}", ran.stderr);

    let up = place.up(&[]);
    assert_eq!(up.key, first, "a key that still works is kept");
    assert_eq!(up.stop().status, 0);

    std::fs::remove_file(&file).expect("removed");
    let up = place.up(&[]);
    assert_ne!(up.key, first);
    let old = place.command(&["project", "list"]).env("RDEV_KEY", &first).output();
    assert_eq!(old.expect("it starts").status.code(), Some(4), "the lost key is revoked");
    let keys = place.json(&["key", "list", "--json"]);
    let valid =
        keys["items"].as_array().expect("items").iter().filter(|k| k["revoked_at"].is_null());
    assert_eq!(valid.count(), 1, "{keys}");
    assert_eq!(up.stop().status, 0);
}

#[test]
fn a_drain_lets_a_build_end_and_a_second_signal_gives_it_back() {
    let place = Place::new()
        .with("RDEV_AGENTS__COMMAND__PROGRAM", "/bin/sh")
        .with(
            "RDEV_AGENTS__COMMAND__ARGS",
            r#"["-c", "touch started; until [ -e ../go ]; do sleep 0.05; done"]"#,
        )
        .with("RDEV_RUNNER__TERM_GRACE_S", "1");
    let mut up = place.up(&[]);
    place.json(&["project", "create", "site", "--json"]);
    let task = place.json(&["build", "start", "site", "wait", "--json"]);
    let task = task["id"].as_str().expect("an id");
    let state = || place.json(&["build", "show", "site", task, "--json"])["state"].clone();
    until("the build runs", || (state() == "running").then_some(()));
    until("the agent runs", || checkout(&place).join("started").exists().then_some(()));

    up.signal(Signal::TERM);
    until("the worker drains", || {
        let workers = place.json(&["worker", "list", "--json"]);
        (workers["items"][0]["status"] == "draining").then_some(())
    });
    assert_eq!(state(), "running", "it is still at it");
    up.signal(Signal::TERM);
    let ran = up.wait();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    drop(up);

    let up = place.up(&[]);
    until("the build runs again", || (state() == "running").then_some(()));
    until("the agent runs again", || checkout(&place).join("started").exists().then_some(()));
    up.signal(Signal::TERM);
    std::fs::write(checkout(&place).join("../go"), "").expect("a file");
    let mut up = up;
    let ran = up.wait();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    drop(up);

    let up = place.up(&[]);
    let build = place.json(&["build", "show", task, "--json"]);
    assert_eq!(build["state"], "succeeded", "{build}");
    assert_eq!(build["attempt"], 1, "what was given back is no attempt: {build}");
    assert_eq!(up.stop().status, 0);
}

/// The checkout of the only build that runs.
fn checkout(place: &Place) -> std::path::PathBuf {
    let attempts = std::fs::read_dir(place.data().join("work")).into_iter().flatten().flatten();
    let folders: Vec<_> = attempts.map(|entry| entry.path()).collect();
    folders.first().map(|folder| folder.join("checkout")).unwrap_or_default()
}

#[test]
fn a_taken_address_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let ran = Place::new().run(&["up", "--listen", &address]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains(&format!("cannot listen on {address}")), "{}", ran.stderr);
}

#[test]
fn log_lines_are_json_when_asked_for_and_hold_no_key() {
    let place = Place::new();
    let up = place.up(&["--log-format", "json"]);
    let key = up.key.clone();
    place.json(&["project", "list", "--json"]);
    let ran = up.stop();
    assert_eq!(ran.status, 0);
    assert!(!ran.stderr.contains(&key));
    assert!(ran.stderr.lines().count() > 2, "{}", ran.stderr);
    for line in ran.stderr.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert!(line["level"].is_string(), "{line}");
    }
}

#[test]
fn a_variable_that_is_no_setting_is_told_about() {
    let place = Place::new().with("RDEV_LISTN", "127.0.0.1:1");
    let ran = place.up(&[]).stop();
    assert_eq!(ran.status, 0);
    assert!(ran.stderr.contains("RDEV_LISTN is not a setting"), "{}", ran.stderr);
}

#[test]
fn a_request_that_is_longer_than_http_allows_is_refused_without_a_body_and_hurts_nobody() {
    let place = Place::new();
    let up = place.up(&[]);
    let address = up.url.strip_prefix("http://").expect("an address").to_owned();
    let (path, headers) = ("a".repeat(70_000), "X: a\r\n".repeat(200));
    for (head, status) in [
        (format!("GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n"), "414"),
        (format!("GET /health HTTP/1.1\r\nHost: x\r\n{headers}\r\n"), "431"),
    ] {
        let mut stream = TcpStream::connect(&address).expect("a connection");
        stream.write_all(head.as_bytes()).expect("sent");
        let mut answer = vec![0; 1000];
        let count = stream.read(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..count]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }
    assert!(place.json(&["project", "list", "--json"])["items"].is_array());
    assert_eq!(up.stop().status, 0);
}
