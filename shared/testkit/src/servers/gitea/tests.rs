//! The server itself: pushes by git, and the webhooks that follow.

use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::TempDir;

use super::{Gitea, Push, TOKEN, USER};
use crate::servers::faults::{Fault, Request, Server};
use crate::servers::git_http::{git, try_git};

const SECRET: &str = "hook-secret";

fn receiver() -> Server {
    let server = Server::start();
    server.answer_with(Fault::Body(200, "text/plain", "ok".to_owned()));
    server
}

fn register(gitea: &Gitea, full_name: &str, url: &str, events: &[&str]) {
    let id = super::locked(&gitea.shared.state).next_id();
    gitea.shared.with(full_name, |found| {
        found.hooks.push(super::Hook {
            id,
            kind: "gitea".to_owned(),
            url: url.to_owned(),
            secret: SECRET.to_owned(),
            events: events.iter().map(|&event| event.to_owned()).collect(),
            active: true,
            created: super::state::now(),
        });
    });
}

fn clone(gitea: &Gitea, full_name: &str, login: &str) -> Result<TempDir, String> {
    let folder = TempDir::new().expect("a folder");
    let url = gitea.clone_url(full_name).replace("http://", &format!("http://{login}"));
    try_git(folder.path(), &["clone", "--quiet", &url, "."])?;
    Ok(folder)
}

fn commit(folder: &Path, name: &str, message: &str) -> String {
    std::fs::write(folder.join(name), name).expect("a file");
    git(folder, &["add", "--all"]);
    git(folder, &["commit", "--quiet", "--message", message]);
    git(folder, &["rev-parse", "HEAD"])
}

fn payload(request: &Request) -> Value {
    serde_json::from_slice(&request.body).expect("JSON")
}

/// Whether a webhook is signed with the secret.
fn signed(request: &Request, secret: &str) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key");
    mac.update(&request.body);
    let signature: String =
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let in_header = |name: &str, value: &str| request.header(name) == Some(value);
    in_header("x-gitea-signature", &signature)
        && in_header("x-hub-signature-256", &format!("sha256={signature}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_told_to_those_who_listen_and_to_webhooks() {
    let (gitea, receiver) = (Gitea::start(&["acme"]), receiver());
    gitea.create("acme/site", "", &[("a", b"a")]);
    register(&gitea, "acme/site", &format!("{}/hooks", receiver.url()), &["push", "status"]);
    register(&gitea, "acme/site", &format!("{}/other", receiver.url()), &["status"]);
    let mut pushes = gitea.pushes();
    let clone = clone(&gitea, "acme/site", &format!("oauth2:{TOKEN}@")).expect("a clone");
    let at = clone.path();
    let before = git(at, &["rev-parse", "HEAD"]);
    commit(at, "b", "Add b");
    let after = commit(at, "c", "Add c\n\nWith a body.");
    git(at, &["push", "--quiet", "origin", "main"]);

    let push = pushes.try_recv().expect("it is announced before the push is answered");
    let expected = Push {
        full_name: "acme/site".to_owned(),
        repository: gitea.folder("acme/site"),
        branch: "main".to_owned(),
        commit: after.clone(),
        message: "Add c\n\nWith a body.\n".to_owned(),
    };
    assert_eq!(push, expected);

    gitea.settled().await;
    let sent = receiver.requests();
    let [request] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/hooks"));
    assert_eq!(request.header("x-gitea-event"), Some("push"));
    assert!(request.header("x-gitea-delivery").is_some_and(|id| !id.is_empty()));
    assert!(signed(request, SECRET) && !signed(request, "another"));
    let payload = payload(request);
    assert_eq!(payload["ref"], "refs/heads/main");
    assert_eq!(
        (payload["before"].as_str(), payload["after"].as_str()),
        (Some(before.as_str()), Some(after.as_str()))
    );
    assert_eq!(payload["repository"]["full_name"], "acme/site");
    assert_eq!(payload["pusher"]["login"], USER);
    assert_eq!(payload["total_commits"], 2);
    let commits = payload["commits"].as_array().expect("commits");
    let added: Vec<&Value> = commits.iter().map(|commit| &commit["added"]).collect();
    assert_eq!(added, [&json!(["c"]), &json!(["b"])]);
    assert_eq!(payload["head_commit"]["id"], after.as_str());
    let delivery = gitea.deliveries().remove(0);
    assert_eq!((delivery.status, &delivery.payload), (Some(200), &payload));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_branch_of_a_push_is_told_and_one_that_goes_is_not() {
    let gitea = Gitea::start(&["acme"]);
    gitea.create("acme/site", "", &[("a", b"a")]);
    let clone = clone(&gitea, "acme/site", &format!("{TOKEN}:@")).expect("a clone");
    let mut pushes = gitea.pushes();
    git(clone.path(), &["push", "--quiet", "origin", "main:one", "main:deep/two", "HEAD:refs/x/y"]);
    git(clone.path(), &["push", "--quiet", "origin", ":one"]);
    let mut branches = Vec::new();
    while let Ok(push) = pushes.try_recv() {
        branches.push(push.branch);
    }
    branches.sort();
    assert_eq!(branches, ["deep/two", "one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_nobody_takes_is_noted_and_holds_nothing_up() {
    let (gitea, server) = (Gitea::start(&["acme"]), Server::start());
    server.answer_with(Fault::Refused);
    gitea.create("acme/site", "", &[("a", b"a")]);
    register(&gitea, "acme/site", &server.url(), &["push"]);
    gitea.commit("acme/site", "main", &[("b", b"b")], "Add b");
    gitea.settled().await;
    let sent: Vec<Option<u16>> = gitea.deliveries().iter().map(|sent| sent.status).collect();
    assert_eq!(sent, [None]);
}

#[test]
fn only_those_who_may_push() {
    let gitea = Gitea::start(&["acme"]);
    gitea.create("acme/site", "", &[("a", b"a")]);
    let reader = gitea.token(&["read:repository"]);
    let writer = gitea.token(&["write:repository"]);
    let mallory = gitea.user("mallory");
    for (login, may) in [
        (String::new(), false),
        (format!("oauth2:{reader}@"), false),
        (format!("oauth2:{mallory}@"), false),
        (format!("oauth2:{writer}@"), true),
        (format!("x-access-token:{writer}@"), true),
        (format!("{writer}:x-oauth-basic@"), true),
    ] {
        // A public repository is read by all.
        let clone = clone(&gitea, "acme/site", &login).expect("a clone");
        commit(clone.path(), "b", &format!("By {login}"));
        let branch = format!("HEAD:refs/heads/by-{}", login.len());
        let pushed = try_git(clone.path(), &["push", "--quiet", "origin", &branch]);
        assert_eq!(pushed.is_ok(), may, "{login}: {pushed:?}");
    }
    assert!(clone(&gitea, "acme/none", &format!("oauth2:{TOKEN}@")).is_err());
}
