//! Whole builds with a real smart HTTP server: credentials, hooks, failures of the server.

use rdev_domain::project::Project;
use rdev_domain::result::Outcome;
use rdev_domain::task::TaskState;
use rdev_runner::config::HostCredentials;
use rdev_testkit::servers::git_http::{Behaviour, GitServer, TOKEN, USER};

use crate::build::outcomes::{appears, wait_script};
use crate::world::World;

/// A world with a git server that wants a token, and a project on it.
pub(super) async fn world_with(token: &str) -> (World, GitServer, Project) {
    let mut world = World::new();
    let server = GitServer::start();
    server.create("site", &[("a", "1\n")]);
    world.config.git.timeout_s = 2;
    world.config.git.credentials.push(HostCredentials {
        origin: server.origin(),
        username: USER.to_owned(),
        token: rdev_domain::secret::Secret::new(token),
    });
    let project = world.project_at("site", server.url("site").parse().expect("a URL")).await;
    (world, server, project)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_cloned_and_pushed_with_a_token_that_the_agent_never_sees() {
    let (world, server, site) = world_with(TOKEN).await;
    let running = world.run();
    let (begin, end) = TOKEN.split_at(8);
    let script = format!(
        r#"
        seen="$(cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\0' ' ') $(env)"
        a={begin}; b={end}; t="$a$b"
        case "$seen" in *"$t"*) echo LEAK in a process;; esac
        if grep -rq -- "$t" "$RDEV_ATTEMPT"; then echo LEAK in a file; fi
        git remote -v; git config --list
        echo checked > checked
        "#
    );
    let id = world.build(&site, &script).await;
    assert_eq!(world.succeeded(id).await.outcome, Outcome::Delivered);
    assert_eq!(server.git("site", &["show", "main:checked"]), "checked");
    let log = world.log(id).await;
    assert!(
        !log.contains("LEAK") && !log.contains(TOKEN) && !log.contains(&server.origin()),
        "{log}"
    );
    running.stop().await;
    assert_eq!(server.git("site", &["for-each-ref", "refs/rdev"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_fails_as_auth_and_is_in_no_message() {
    let (world, server, site) = world_with("wrong-token-0123456789").await;
    let running = world.run();
    let id = world.build(&site, "echo 2 > a").await;
    let (class, message) = world.failed(id).await;
    assert_eq!(class, "auth", "{message}");
    assert!(!message.contains("wrong-token") && !world.log(id).await.contains("wrong-token"));
    assert_eq!(server.log("site", "main").len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_protects_the_branch_fails_the_build_and_a_retry_needs_no_agent() {
    let (world, server, site) = world_with(TOKEN).await;
    let refuse = "while read old new ref; do case $ref in refs/heads/*) echo 'main is protected, says the hook' >&2; exit 1;; esac; done";
    server.hook("site", "pre-receive", refuse);
    let running = world.run();
    let ran = world.data.path().join("ran");
    let id = world.build(&site, &format!("echo x >> {}; echo 2 > a", ran.display())).await;
    let (class, message) = world.failed(id).await;
    assert_eq!(class, "push_rejected");
    assert!(message.contains("says the hook"), "{message}");
    assert_eq!(server.log("site", "main").len(), 1);
    let failed = world.task(id).await.task;
    assert!(!failed.failure.expect("a failure").push_in_doubt, "nothing of it lands any more");
    let refs = server.git("site", &["for-each-ref", "--format=%(refname)", "refs/rdev"]);
    assert_eq!(refs, format!("refs/rdev/revoked/{id}/{}", failed.fence));
    server.hook("site", "pre-receive", "exit 0");
    let retry = world.retry(id).await;
    assert_eq!(world.succeeded(retry).await.outcome, Outcome::Delivered);
    assert_eq!(server.git("site", &["show", "main:a"]), "2");
    assert_eq!(std::fs::read_to_string(&ran).expect("it ran"), "x\n", "the agent ran once");
    assert_eq!(server.git("site", &["for-each-ref", "refs/rdev"]), "", "it was taken over");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_atomic_pushes_or_deletions_gets_the_branch_alone() {
    let update = "case $3 in *[!0]*) exit 0;; esac; echo 'nothing is deleted here' >&2; exit 1";
    let receive = "while read old new ref; do case $new in *[!0]*) ;; *) exit 1;; esac; done";
    let kinds: [(&str, Option<(&str, &str)>); 3] = [
        ("no atomic pushes", None),
        ("update", Some(("update", update))),
        ("pre-receive", Some(("pre-receive", receive))),
    ];
    for (kind, hook) in kinds {
        let (world, server, site) = world_with(TOKEN).await;
        match hook {
            Some((name, script)) => server.hook("site", name, script),
            None => {
                server.git("site", &["config", "receive.advertiseAtomic", "false"]);
            }
        }
        let running = world.run();
        for n in [2, 3] {
            let id = world.build(&site, &format!("echo {n} > a")).await;
            let result = world.succeeded(id).await;
            assert_eq!(result.outcome, Outcome::Delivered, "{kind}");
            let codes: Vec<&str> = result.warnings.iter().map(|w| w.code.as_str()).collect();
            assert_eq!(codes, ["push_not_atomic"], "{kind}");
        }
        assert_eq!(server.git("site", &["show", "main:a"]), "3");
        assert_eq!(server.log("site", "main").len(), 3);
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_build_makes_six_requests_to_the_server() {
    let (world, server, site) = world_with(TOKEN).await;
    let running = world.run();
    for n in [2, 3] {
        server.forget_seen();
        let id = world.build(&site, &format!("echo {n} > a")).await;
        world.succeeded(id).await;
    }
    running.stop().await;
    let (fetch, push) = ("git-upload-pack", "git-receive-pack");
    let seen = server.seen();
    let asked = seen.iter().map(|request| {
        let service = if request.target.ends_with(fetch) { fetch } else { push };
        (request.method.as_str(), service)
    });
    // The fetch, the ticket, the push that deletes it, and the look at what has become of it.
    let expected = [
        ("GET", fetch),
        ("POST", fetch),
        ("GET", push),
        ("POST", push),
        ("POST", push),
        ("GET", fetch),
    ];
    assert_eq!(asked.collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_without_verify_makes_two_pushes_to_a_server_whose_hooks_are_slow() {
    let (world, server, site) = world_with(TOKEN).await;
    server.slow_hooks("site");
    let running = world.run();
    let id = world.build(&site, "echo 2 > a").await;
    assert_eq!(world.succeeded(id).await.outcome, Outcome::Delivered);
    assert_eq!(server.pushes(), 2);
    // Its end waits for the hooks that it has started.
    running.stop().await;
    let ticket = format!("update refs/rdev/wip/{id}/1");
    let mut ran = server.hook_runs("site");
    ran.sort();
    let each = ["post-receive", "post-receive", "pre-receive", "pre-receive"];
    let updates = ["update refs/heads/main", &ticket, &ticket];
    assert_eq!(ran, [&each[..], &updates[..]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_moves_between_ticket_and_push_is_followed() {
    let (world, server, site) = world_with(TOKEN).await;
    let folder = server.folder("site");
    let tree = server.git("site", &["rev-parse", "main^{tree}"]);
    // A person commits while the server ends the ticket's push. Only the first one: its hook
    // removes itself.
    let person = format!(
        "rm hooks/update; new=$(git commit-tree {tree} -p main -m person) && git update-ref refs/heads/main $new"
    );
    server.hook("site", "update", &person);
    let running = world.run();
    let id = world.build(&site, "echo 2 > a").await;
    let result = world.succeeded(id).await;
    assert_eq!(result.outcome, Outcome::Delivered);
    assert!(!folder.join("hooks/update").exists(), "it has run");
    assert_eq!(server.log("site", "main")[1], "person");
    assert_eq!(server.git("site", &["show", "main:a"]), "2");
    running.stop().await;
    assert_eq!(server.git("site", &["for-each-ref", "refs/rdev"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_answer_is_lost_is_found_and_not_repeated() {
    let (world, server, site) = world_with(TOKEN).await;
    // The branch has moved when this hook runs; then the server dies before it can say so.
    let die = "[ $1 = committed ] || exit 0; while read old new ref; do case $ref in refs/heads/main) kill -9 $PPID;; esac; done";
    server.hook("site", "reference-transaction", die);
    let running = world.run();
    let id = world.build(&site, "echo 2 > a").await;
    let result = world.succeeded(id).await;
    assert_eq!(result.outcome, Outcome::Delivered);
    assert_eq!(result.commit_sha.map(String::from), server.find_ref("site", "refs/heads/main"));
    assert_eq!(server.log("site", "main").len(), 2);
    let task = world.task(id).await.task;
    assert_eq!((task.attempt, task.push_attempt), (1, 0), "it was found within the same claim");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_server_is_down_is_kept_and_delivered_later_without_another_agent_run() {
    let (world, server, site) = world_with(TOKEN).await;
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let running = world.run();
    let id = world.build(&site, &wait_script("echo x >> a", &begun, &go)).await;
    appears(&begun).await;
    server.behave(Behaviour::Status(503));
    std::fs::write(&go, "").expect("go");
    let task = world.until(id, "put back", |record| record.task.failure.is_some()).await;
    assert_eq!(task.state, TaskState::Queued);
    assert_eq!(task.failure.map(|failure| failure.class.as_str()), Some("infra"));
    server.behave(Behaviour::Serve);
    std::fs::remove_file(&begun).expect("begun");
    // As a person who does not want to wait for the backoff.
    world.cancel(id, &running).await;
    let retry = world.retry(id).await;
    assert_eq!(world.succeeded(retry).await.outcome, Outcome::Delivered);
    assert_eq!(server.git("site", &["show", "main:a"]), "1\nx");
    assert!(!begun.exists(), "the agent ran again");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_was_not_to_be_pushed_is_not_pushed_by_a_later_attempt_either() {
    let (world, server, site) = world_with(TOKEN).await;
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let running = world.run();
    let script = wait_script("echo x >> a", &begun, &go);
    let id = world.build_with(&site, &script, |spec| spec.auto_push = false).await;
    appears(&begun).await;
    server.behave(Behaviour::Status(503));
    std::fs::write(&go, "").expect("go");
    world.until(id, "put back", |record| record.task.failure.is_some()).await;
    server.behave(Behaviour::Serve);
    std::fs::remove_file(&begun).expect("begun");
    world.cancel(id, &running).await;
    let retry = world.retry(id).await;
    assert_eq!(world.succeeded(retry).await.outcome, Outcome::CommittedNotPushed);
    assert!(!begun.exists(), "the agent ran again");
    assert_eq!(server.log("site", "main").len(), 1);
    assert_eq!(server.git("site", &["show", &format!("refs/rdev/kept/{retry}:a")]), "1\nx");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_only_branches_gets_branches_and_is_remembered() {
    let (world, server, site) = world_with(TOKEN).await;
    server.refuse_outside_heads("site");
    let running = world.run();
    for n in [2, 3] {
        let id = world.build(&site, &format!("echo {n} > a")).await;
        assert_eq!(world.succeeded(id).await.outcome, Outcome::Delivered);
    }
    assert_eq!(server.git("site", &["show", "main:a"]), "3");
    running.stop().await;
    assert_eq!(server.git("site", &["for-each-ref", "--format=%(refname)"]), "refs/heads/main");
}
