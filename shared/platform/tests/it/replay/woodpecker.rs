//! Woodpecker's record against the Woodpecker of the tests, whose forge is the Gitea of the tests.

use std::time::Duration;

use rdev_testkit::captures::{self, Exchange};
use rdev_testkit::servers::gitea::{self, Gitea};
use rdev_testkit::servers::woodpecker::{Change, HostRunner, TOKEN, USER, WoodpeckerServer};
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;

use super::Replay;
use super::gitea::DEFINITION;

rdev_testkit::trials! {
    async the_test_server_answers_each_recorded_request_as_woodpecker_did;
}

/// The requests with a wrong token or none; the record does not say it, the answers do.
const BY_NOBODY: [usize; 3] = [22, 24, 33];

/// Longer than any pipeline of the record takes.
const LONG: Duration = Duration::from_secs(300);

/// Ids of repositories in the record: at Gitea, and of the first one at Woodpecker, too.
const APP1: u64 = 2;
const REC1: u64 = 15;
const EVENTS: u64 = 17;

struct World {
    gitea: Gitea,
    woodpecker: WoodpeckerServer,
    changes: Receiver<Change>,
}

async fn the_test_server_answers_each_recorded_request_as_woodpecker_did() {
    let recorded = captures::woodpecker();
    let gitea = Gitea::start(&["team"]);
    let woodpecker = WoodpeckerServer::start();
    woodpecker.forge_at(&gitea.url(), &gitea.repositories_folder());
    let env = vec![("LC_ALL".to_owned(), "C".to_owned())];
    woodpecker.allow_image("bash", HostRunner { env });
    assert_eq!(USER, gitea::USER);
    let mut replay = Replay::new("http://127.0.0.1:8000", &woodpecker.url());
    for (theirs, ours) in [
        ("http://127.0.0.1:3000", gitea.url().as_str()),
        ("git@localhost:", "git@127.0.0.1:"),
        ("b@example.test", format!("{USER}@forge.example").as_str()),
        ("rdevbot", USER),
        // The test server behaves as the version after the recorded one.
        ("3.13.0", "3.14.0"),
    ] {
        replay.names.text(theirs, ours);
    }
    let changes = woodpecker.changes();
    let mut world = World { gitea, woodpecker, changes };
    before_the_record(&mut replay, &mut world, &recorded).await;
    let bearer = format!("Bearer {TOKEN}");
    for (index, exchange) in recorded.iter().enumerate() {
        between(&mut replay, &mut world, (index, exchange)).await;
        let token = Some(bearer.as_str()).filter(|_| !BY_NOBODY.contains(&index));
        replay.ask(token, exchange).await;
        if index == 3 {
            hooked(&mut replay, &world, "rec1", "HOOK_TOKEN");
        }
    }
    replay.end(recorded.len());
}

impl World {
    /// A repository on the forge, which has that id in the record.
    fn forge_repository(
        &self,
        replay: &mut Replay,
        (id, name): (u64, &str),
        files: &[(&str, &[u8])],
    ) {
        let ours = self.gitea.create(&format!("team/{name}"), "", files);
        self.woodpecker.add_forge_repository(ours, "team", name);
        let (theirs, ours) = (id.to_string(), ours.to_string());
        replay.names.learn("repository", &theirs, &ours).expect("a new repository");
    }

    /// Waits until a pipeline of that repository has ended.
    async fn ended(&mut self, name: &str, number: u64) {
        let ended = async {
            loop {
                let change = self.changes.recv().await.expect("a change");
                let this = change.repository == format!("team/{name}") && change.number == number;
                if this && change.finished_at.is_some() {
                    break;
                }
            }
        };
        let ended = tokio::time::timeout(LONG, ended).await;
        assert!(ended.is_ok(), "pipeline {number} of {name} does not end");
    }
}

/// The name that the token in a webhook's address has in what follows.
fn hooked(replay: &mut Replay, world: &World, name: &str, token: &str) {
    let known = world.woodpecker.repositories();
    let known = known.iter().find(|one| one.full_name == format!("team/{name}"));
    let path = world.woodpecker.hook_path(known.expect("it is active").id).expect("a webhook");
    replay.names.text(token, path.rsplit('=').next().unwrap_or_default());
}

/// The repositories of the forge, and one that is active, with the pipelines that it has later.
async fn before_the_record(replay: &mut Replay, world: &mut World, recorded: &[Exchange]) {
    world.forge_repository(replay, (APP1, "app1"), &[("README.md", b"# app\n")]);
    world.forge_repository(replay, (EVENTS, "events"), &[("README.md", b"# events\n")]);
    // What the other record's project began with: a step lists its files.
    let seed: Vec<(String, Vec<u8>)> = seed();
    let seed: Vec<(&str, &[u8])> =
        seed.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect();
    world.forge_repository(replay, (REC1, "rec1"), &seed);

    // Who people are, and the active repository: the answers to these are compared later.
    let ask = |method: &str, path: &str| Exchange {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: Vec::new(),
        body: Value::Null,
        status: 200,
        answer_headers: Vec::new(),
        answer: json!({ "id": APP1, "forge_remote_id": APP1.to_string() }),
    };
    let bearer = format!("Bearer {TOKEN}");
    let user = recorded.iter().find(|one| one.path == "/api/user").expect("the user").clone();
    replay.ask(Some(&bearer), &user).await;
    replay.ask(Some(&bearer), &ask("POST", "/api/repos?forge_remote_id=2")).await;
    // Only what they taught is wanted.
    replay.forget();
    let id = world.woodpecker.repositories().remove(0).id.to_string();
    replay.names.learn("ci repository", &APP1.to_string(), &id).expect("a new repository");
    hooked(replay, world, "app1", "TOKEN_OF_APP1");

    let list = recorded.iter().find(|one| one.path.starts_with("/api/repos/2/pipelines?page"));
    let list = list.expect("a list").answer.as_array().expect("a list").clone();
    for pipeline in list.iter().rev() {
        run(replay, world, pipeline).await;
    }
}

/// The files in the first commit of the recorded project.
fn seed() -> Vec<(String, Vec<u8>)> {
    use base64::Engine;
    let recorded = captures::gitea();
    let seeded = recorded.iter().find(|one| one.path.ends_with("/rec1/contents"));
    let files = seeded.expect("a seed").body["files"].as_array().expect("files").clone();
    let file = |file: &Value| {
        let text = |name: &str| file[name].as_str().expect("a text").to_owned();
        let content = base64::engine::general_purpose::STANDARD.decode(text("content"));
        (text("path"), content.expect("base64"))
    };
    files.iter().map(file).collect()
}

/// Has a recorded pipeline run by the message of its push or pull request. How it ended depended on
/// what else ran; it is told what the record says.
async fn run(replay: &mut Replay, world: &mut World, pipeline: &Value) {
    let text = |name: &str| pipeline[name].as_str().unwrap_or_default();
    let number = pipeline["number"].as_u64().expect("a number");
    let mut message = json!({
        "ref": text("ref"),
        "after": text("commit"),
        "commits": [{ "modified": pipeline["changed_files"] }],
        "head_commit": { "message": text("message"), "url": text("forge_url") },
        "sender": {
            "login": text("sender"),
            "avatar_url": text("author_avatar"),
            "email": text("author_email"),
        },
    });
    if let Some((head, base)) = text("refspec").split_once(':') {
        world.gitea.branch("team/app1", head, base);
        message["action"] = json!("opened");
        message["number"] = json!(1);
        message["pull_request"] = json!({
            "title": text("title"),
            "html_url": text("forge_url"),
            "head": { "ref": head, "sha": text("commit") },
            "base": { "ref": base },
            "merge_base": world.gitea.git("team/app1", &["rev-parse", base]),
        });
        let files = pipeline["changed_files"].as_array().expect("files");
        let files = files.iter().filter_map(Value::as_str);
        let files: Vec<(&str, &[u8])> = files.map(|file| (file, b"".as_slice())).collect();
        commit(replay, world, (head, text("commit")), &files, text("message"));
    } else if replay.names.to_ours(text("commit")) == text("commit") {
        let files = [(".woodpecker.yaml", DEFINITION.as_bytes()), ("n", text("commit").as_bytes())];
        commit(replay, world, (text("branch"), text("commit")), &files, text("message"));
    }
    let url = replay.names.to_ours("/api/hook?access_token=TOKEN_OF_APP1");
    let url = format!("{}{url}", world.woodpecker.url());
    let body = replay.body(&message).to_string();
    let request = replay.client.post(url).header("x-gitea-event", text("event")).body(body);
    let status = request.send().await.expect("an answer").status();
    assert_eq!(status, 200, "{message}");
    world.ended("app1", number).await;
    let id = replay.names.number("ci repository", APP1);
    match pipeline["cancel_info"]["superseded_by"].as_u64() {
        Some(by) => world.woodpecker.supersede(id, number, by),
        None if text("status") != "success" => {
            world.woodpecker.set_status(id, number, text("status"));
        }
        None => {}
    }
}

/// Commits to a branch of the first repository, as it was recorded.
fn commit(
    replay: &mut Replay,
    world: &World,
    (branch, recorded): (&str, &str),
    files: &[(&str, &[u8])],
    message: &str,
) {
    let made = world.gitea.commit("team/app1", branch, files, message);
    replay.names.learn("commit", recorded, &made).expect("a new commit");
}

/// What happened before that request of the record.
async fn between(replay: &mut Replay, world: &mut World, (index, exchange): (usize, &Exchange)) {
    let mut commit = |branch: &str, files: &[(&str, &[u8])]| {
        let text = |at: &str| exchange.body.pointer(at).and_then(Value::as_str).unwrap_or_default();
        let message = text("/head_commit/message");
        let made = world.gitea.commit("team/rec1", branch, files, message);
        replay.names.learn("commit", text("/after"), &made).expect("a new commit");
    };
    let branch = "rdev/01M8HS8ZP2DH78BN0TPHS75EK2";
    match index {
        // The project was seeded.
        5 => {
            let seeded = world.gitea.git("team/rec1", &["rev-parse", "main"]);
            let recorded = exchange.body["sha"].as_str().expect("a commit");
            replay.names.learn("commit", recorded, &seeded).expect("a new commit");
        }
        // The first build was delivered.
        7 => commit("main", &[(".woodpecker.yaml", DEFINITION.as_bytes())]),
        8 => world.ended("rec1", 2).await,
        // The second one is proposed; Gitea told of that before it told of the push.
        13 => {
            world.gitea.branch("team/rec1", branch, "main");
            let message = "touch BROKEN\n\nRdev-Task: 01M8HS8ZP2DH78BN0TPHS75EK2\n";
            let made = world.gitea.commit("team/rec1", branch, &[("BROKEN", b"")], message);
            let head = exchange.body.pointer("/pull_request/head/sha").and_then(Value::as_str);
            replay.names.learn("commit", head.expect("a head"), &made).expect("a new commit");
        }
        16 => world.ended("rec1", 3).await,
        _ => {}
    }
}
