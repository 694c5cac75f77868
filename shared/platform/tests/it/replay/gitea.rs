//! Gitea's record against the Gitea of the tests.

use rdev_testkit::captures::{self, Exchange};
use rdev_testkit::servers::gitea::{Gitea, TOKEN, USER};

use super::Replay;
use super::people::Pushed;

rdev_testkit::trials! {
    async the_test_server_answers_each_recorded_request_as_gitea_did;
}

/// The organisation of the record.
const OWNER: &str = "team";

/// Which requests the site's administrator sent; the record does not say it, the answers do.
const BY_ROOT: [usize; 15] = [35, 36, 37, 38, 39, 40, 41, 44, 45, 46, 53, 54, 55, 56, 57];

/// The request with a wrong token.
const BY_NOBODY: usize = 80;

const RDEV: (&str, &str) = ("rdev", "rdev@example.com");

/// The definition of the record's pipelines, as rdev's first build made it.
pub(crate) const DEFINITION: &str = r#"when:
  - event: [push, pull_request]
steps:
  - name: test
    image: bash
    commands:
      - echo "hello from ci"
      - ls
      - test ! -e BROKEN
"#;

async fn the_test_server_answers_each_recorded_request_as_gitea_did() {
    let recorded = captures::gitea();
    let gitea = Gitea::start(&[OWNER]);
    gitea.hide_organisation(OWNER);
    let root = gitea.administrator("root1");
    let mut replay = Replay::new("http://127.0.0.1:3000", &gitea.url());
    for (theirs, ours) in [
        ("git@localhost:", "git@127.0.0.1:"),
        ("b@example.test", format!("{USER}@forge.example").as_str()),
        ("r@example.test", "root1@forge.example"),
        ("noreply.localhost", "noreply.forge.example"),
        ("rdevbot", USER),
        // Where webhooks go: a port that nobody listens on.
        ("http://127.0.0.1:7775", "http://127.0.0.1:9/recorder"),
        ("http://127.0.0.1:7776", "http://127.0.0.1:9/rdev"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:9/ci"),
    ] {
        replay.names.text(theirs, ours);
    }
    before_the_record(&mut replay, &gitea);
    for (index, exchange) in recorded.iter().enumerate() {
        between(&mut replay, &gitea, &recorded, index);
        let token = match index {
            BY_NOBODY => "token nobody's".to_owned(),
            _ if BY_ROOT.contains(&index) => format!("token {root}"),
            _ => format!("token {TOKEN}"),
        };
        replay.ask(Some(&token), exchange).await;
    }
    replay.end(recorded.len());
}

/// The repositories that were there when the record began.
fn before_the_record(replay: &mut Replay, gitea: &Gitea) {
    let readme: &[(&str, &[u8])] = &[("README.md", b"# app\n")];
    gitea.create("team/app1", "[rdev:01M8HRGD521RXRV2X8M3ES50BA]", readme);
    gitea.create("team/app2", "", readme);
    let mut push = |pushed: Pushed<'_>, recorded: &str| {
        let commit = pushed.push(gitea);
        replay.names.learn("commit", recorded, &commit).expect("a new commit");
    };
    let people = ("n", "a@b.c");
    let (app1, main) = ("team/app1", "main");
    let message = "echo 3 > two.txt\n\nRdev-Task: 01M8HRJBS7FE5QFSA88RF4JGV3\n";
    let files = &[(".woodpecker.yaml", DEFINITION), ("two.txt", "3\n")];
    let pushed = Pushed { full_name: app1, branch: main, author: RDEV, message, files };
    push(pushed, "0bafcbdc337497d65063cf2a3ae5edc7dbde8627");
    let (message, files) = ("race 59\n", &[("race", "59\n")]);
    let pushed = Pushed { full_name: app1, branch: main, author: people, message, files };
    push(pushed, "126bbe8d5c6e371099b8afee6cfef4bdc3afaa1b");
    let message = "sleep 6; echo 4 > e\n\nRdev-Task: 01M8HRXAD04AFAMS2H7XCZV67M\nRdev-Attempt: 1\n\
                   Rdev-Lineage: 01M8HRXAD04AFAMS2H7XCZV67M\n";
    let files = &[("e", "4\n")];
    let pushed = Pushed { full_name: "team/app2", branch: main, author: RDEV, message, files };
    push(pushed, "a7f0a66a16be4348a58525dfa353ecad0fac6770");
    let (message, files) = ("c1\n", &[("f1", "1\n")]);
    Pushed { full_name: app1, branch: "x1", author: people, message, files }.push(gitea);
    gitea.open_pull(app1, "x1", main, "c1");
}

/// What happened before that request of the record.
fn between(replay: &mut Replay, gitea: &Gitea, recorded: &[Exchange], index: usize) {
    let mut push = |branch: &str, message: &str, files: &[(&str, &str)], commit: &str| {
        let pushed = Pushed { full_name: "team/rec1", branch, author: RDEV, message, files };
        let made = pushed.push(gitea);
        replay.names.learn("commit", commit, &made).expect("a new commit");
    };
    match index {
        // The first build is delivered.
        11 => push(
            "main",
            "echo made pipeline\n",
            &[(".woodpecker.yaml", DEFINITION)],
            "1e48bd80521aaf11e27e04a2837e9c6f1865a6df",
        ),
        // The second one, which proposes its work.
        18 => {
            let branch = recorded[index].body["head"].as_str().expect("a branch");
            let commit = "60c4d7427dd9f4a9dfd7b810448fa9bf78a07da6";
            push(branch, "touch BROKEN\n", &[("BROKEN", "")], commit);
        }
        _ => {}
    }
}
