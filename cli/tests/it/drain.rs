//! SIGTERM in each phase of a build, with the real signal: the program ends in time, and its next
//! start delivers the build once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rdev_testkit::servers::git_http::{Behaviour, GitServer, TOKEN, USER};
use rustix::process::Signal;
use serde_json::Value;

use crate::rdev::{Place, Up, until, write};

/// How long the program may take to end: builds have 1 s to finish, and the machine may be busy.
const IN_TIME: Duration = Duration::from_secs(60);

/// Where a build stands still until it may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// The git server does not answer.
    Fetch,
    /// Nothing holds it: the signal comes while thousands of files are written.
    Checkout,
    /// The agent waits.
    Agent,
    /// A verify command waits.
    Verify,
    /// The server waits before it makes the ticket.
    Prepare,
    /// The server waits before it moves the branch.
    Push,
}

/// A git server, and a place whose agent writes a file.
struct Scene {
    server: GitServer,
    place: Place,
}

impl Scene {
    fn new(held: Held) -> Self {
        let server = GitServer::start();
        let many: Vec<String> = (0..3_000).map(|n| format!("{}/{n}", n % 50)).collect();
        let many = many.iter().map(|path| (path.as_str(), "a file\n"));
        let one = ("a", "1\n");
        match held {
            Held::Checkout => server.create("site", &many.chain([one]).collect::<Vec<_>>()),
            _ => server.create("site", &[one]),
        };
        let place = Place::new()
            .with("RDEV_AGENTS__COMMAND__PROGRAM", "/bin/sh")
            .with("RDEV_AGENTS__COMMAND__ARGS", r#"["-c", "eval \"$RDEV_PROMPT\""]"#)
            .with("RDEV_DEFAULT_AGENT", "command")
            .with("RDEV_RUNNER__TERM_GRACE_S", "1")
            .with("RDEV_RUNNER__DRAIN_S", "1");
        let config = format!(
            "[git]\nallow_private_addresses = true\n[[git.credentials]]\norigin = '{}'\nusername = '{USER}'\ntoken = '{TOKEN}'\n",
            server.origin()
        );
        write(&place.root().join("rdev.toml"), &config);
        let scene = Self { server, place };
        let pushed = match held {
            Held::Prepare => "refs/rdev/wip/*",
            Held::Push => "refs/heads/main",
            _ => return scene,
        };
        let hook = format!("case $1 in {pushed}) {} ;; esac", scene.waits());
        scene.server.hook("site", "update", &hook);
        scene
    }

    /// A script that tells that it is there, and waits until it may go on.
    fn waits(&self) -> String {
        let at = self.place.root().display();
        format!("touch {at}/there; while [ ! -e {at}/go ]; do sleep 0.02; done")
    }

    /// Starts a build and waits until it stands still there.
    fn build(&self, held: Held) -> String {
        let (place, server) = (&self.place, &self.server);
        place.json(&["project", "create", "site", "--git-url", &server.url("site"), "--json"]);
        if held == Held::Fetch {
            server.behave(Behaviour::Hang);
            server.forget_seen();
        }
        let waits = self.waits();
        let prompt = match held {
            Held::Agent => format!("{waits}; echo 2 > a"),
            _ => "echo 2 > a".to_owned(),
        };
        let mut args = vec!["build", "start", "site", &prompt, "--json"];
        if held == Held::Verify {
            args.extend(["--verify", &waits]);
        }
        let task = place.json(&args)["id"].as_str().expect("an id").to_owned();
        let there = place.root().join("there");
        until(&format!("the build is at {held:?}"), || {
            let is_there = match held {
                Held::Fetch => !server.seen().is_empty(),
                Held::Checkout => any_checkout(&place.data().join("work")),
                _ => there.exists(),
            };
            is_there.then_some(())
        });
        task
    }

    /// Whatever stood still may go on.
    fn go_on(&self) {
        fs::write(self.place.root().join("go"), "").expect("a file");
        self.server.behave(Behaviour::Serve);
    }
}

/// Whether files are being written into a checkout.
fn any_checkout(work: &Path) -> bool {
    let attempts = fs::read_dir(work).into_iter().flatten().flatten();
    let mut checkouts = attempts.map(|attempt: fs::DirEntry| attempt.path().join("checkout"));
    checkouts
        .any(|checkout: PathBuf| fs::read_dir(checkout).is_ok_and(|mut it| it.next().is_some()))
}

fn ends_in_time(mut up: Up<'_>, held: Held) {
    let asked = Instant::now();
    let ran = up.wait();
    assert_eq!(ran.status, 0, "{held:?}: {}", ran.stderr);
    assert!(asked.elapsed() < IN_TIME, "{held:?} took {:?}", asked.elapsed());
}

/// Ends the program while a build stands still there, and starts it again.
fn is_delivered_once_though_it_ends_while(held: Held) {
    for signals in [1, 2] {
        let scene = Scene::new(held);
        let place = &scene.place;
        let up = place.up(&[]);
        let task = scene.build(held);
        up.signal(Signal::TERM);
        if signals == 2 {
            // Two signals that come at once may be one. After a second it ends by itself.
            let draining = || {
                let ran = place.run(&["worker", "list", "--json"]);
                ran.status != 0 || ran.stdout.contains("\"draining\"")
            };
            until("the worker drains", || draining().then_some(()));
            up.signal(Signal::TERM);
        }
        ends_in_time(up, held);
        scene.go_on();

        let up = place.up(&[]);
        let build = until("the build ends", || {
            let build = place.json(&["build", "show", "site", &task, "--json"]);
            let ended = ["succeeded", "failed", "cancelled"].map(Value::from);
            ended.contains(&build["state"]).then_some(build)
        });
        assert_eq!(build["state"], "succeeded", "{held:?}: {build}");
        // What was given back is no attempt, and pushing what it had finished is none either.
        let finished = matches!(held, Held::Verify | Held::Prepare);
        let pushes = if finished { &build["push_attempt"] } else { &Value::from(0) };
        let attempts = [&build["attempt"], pushes].map(|number| number.as_u64().expect("a number"));
        assert_eq!(attempts.iter().sum::<u64>(), 1, "{held:?}: {build}");
        assert_eq!(scene.server.log("site", "main").len(), 2, "{held:?}: delivered once");
        assert_eq!(scene.server.git("site", &["show", "main:a"]), "2");
        assert_eq!(up.stop().status, 0);
    }
}

#[test]
fn a_drain_during_a_fetch_gives_the_build_back() {
    is_delivered_once_though_it_ends_while(Held::Fetch);
}

#[test]
fn a_drain_during_a_checkout_gives_the_build_back_or_ends_it() {
    is_delivered_once_though_it_ends_while(Held::Checkout);
}

#[test]
fn a_drain_while_the_agent_works_gives_the_build_back() {
    is_delivered_once_though_it_ends_while(Held::Agent);
}

#[test]
fn a_drain_during_verify_gives_the_build_back() {
    is_delivered_once_though_it_ends_while(Held::Verify);
}

#[test]
fn a_drain_while_a_ticket_is_pushed_gives_the_build_back() {
    is_delivered_once_though_it_ends_while(Held::Prepare);
}

#[test]
fn a_drain_while_the_branch_is_pushed_leaves_the_push_to_the_next_start() {
    is_delivered_once_though_it_ends_while(Held::Push);
}
