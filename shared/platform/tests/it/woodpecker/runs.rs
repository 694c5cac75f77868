//! Pipelines that really run, as the adapter sees them.

use std::path::Path;
use std::time::Instant;

use rdev_domain::pipeline::{CiId, Pipeline, PipelineStep};
use rdev_domain::ports::Ci;
use rdev_domain::secret::Secret;
use rdev_domain::token::Token;
use rdev_platform::http::{Auth, Http};
use rdev_platform::woodpecker::Woodpecker;
use rdev_testkit::servers::faults::{Fault, Server};
use rdev_testkit::servers::git_http::GitServer;
use rdev_testkit::servers::woodpecker::{
    Change, HostRunner, Push, Run, TOKEN, WoodpeckerServer, post,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use ulid::Ulid;

use super::{FORGE_ID, LONG, active};

rdev_testkit::trials! {
    async a_push_runs_the_commits_own_definition;
    async a_step_that_fails_ends_the_pipeline_but_for_those_that_wait_for_it;
    async a_push_that_starts_nothing_starts_nothing;
    async a_definition_that_is_wrong_is_a_pipeline_with_an_error;
    async a_variable_of_the_server_reaches_conditions_and_steps;
    async a_cancelled_pipeline_leaves_no_process;
    async a_repository_that_is_removed_takes_its_processes_along;
    async a_server_that_is_dropped_leaves_no_process;
    async a_restart_runs_the_same_commit_again;
    async a_pipeline_by_hand_runs_the_branchs_tip_or_is_filtered;
    async the_end_of_a_pipeline_is_posted_with_a_signature;
}

const SITE: &str = r#"
when:
  - event: [push, manual]
    branch: main
steps:
  - name: build
    image: node:22-alpine
    environment:
      WORD: hello
      KEY: {from_secret: key}
    commands:
      - mkdir dist
      - echo "$WORD ${CI_COMMIT_SHA:0:8} $CI_PIPELINE_NUMBER" > dist/index.html
      - test "$KEY" = sesame && echo "it's done" >&2
  - name: publish
    image: woodpeckerci/plugin-kaniko
    settings: {repo: registry.example.com/site}
  - name: deploy
    image: alpine/k8s:1.31
    commands: [kubectl apply -f deploy/]
  - name: sorry
    image: node:22-alpine
    commands: [echo sorry]
    when: [{status: failure}]
"#;

/// A repository with this definition; the commit.
fn repository(definition: &str) -> (GitServer, String) {
    let git = GitServer::start();
    let commit = git.create("site", &[(".woodpecker.yaml", definition), ("README.md", "a site")]);
    (git, commit)
}

fn push_of(git: &GitServer, commit: &str, branch: &str, message: &str) -> Push {
    Push {
        branch: branch.to_owned(),
        commit: commit.to_owned(),
        message: message.to_owned(),
        author: "a-person".to_owned(),
        git_dir: git.folder("site"),
    }
}

struct Ready {
    server: WoodpeckerServer,
    ci: Woodpecker,
    id: CiId,
    git: GitServer,
    commit: String,
}

/// A server that runs the steps of `node:` here.
async fn ready(definition: &str) -> Ready {
    let (server, ci, id) = active().await;
    server.allow_image("node:", HostRunner::default());
    server.add_secret("key", "sesame");
    let (git, commit) = repository(definition);
    Ready { server, ci, id, git, commit }
}

impl Ready {
    fn push(&self) -> Run {
        let push = push_of(&self.git, &self.commit, "main", "say hello");
        self.server.push(FORGE_ID, push).expect("it starts a pipeline")
    }

    async fn read(&self, number: u64) -> Pipeline {
        self.ci.pipeline(self.id, number).await.expect("it is there")
    }

    async fn log(&self, number: u64, step: &PipelineStep) -> Vec<String> {
        let log = self.ci.log(self.id, number, step.id).await.expect("a log");
        log.into_iter().map(|line| line.text).collect()
    }
}

/// The next change to this status.
async fn until(changes: &mut Receiver<Change>, status: &str) -> Change {
    let change = tokio::time::timeout(LONG, async {
        loop {
            let change = changes.recv().await.expect("changes");
            if change.status == status {
                return change;
            }
        }
    });
    change.await.expect("it came to that in time")
}

fn steps(pipeline: &Pipeline) -> Vec<(&str, &str, &str, Option<i64>)> {
    let steps = pipeline.workflows.iter().flat_map(|workflow| &workflow.steps);
    let all =
        steps.map(|it| (it.name.as_str(), it.kind.as_str(), it.status.as_str(), it.exit_code));
    all.collect()
}

async fn a_push_runs_the_commits_own_definition() {
    let ready = ready(SITE).await;
    let mut changes = ready.server.changes();
    let mut run = ready.push();
    assert_eq!(run.ended(LONG).await, "success");
    let mut statuses = Vec::new();
    while let Ok(change) = changes.try_recv() {
        statuses.push((change.status, change.finished_at.is_some()));
    }
    let order = [("pending", false), ("running", false), ("success", true)];
    assert_eq!(statuses, order.map(|(status, ended)| (status.to_owned(), ended)));

    let page = std::fs::read_to_string(run.workspace().join("dist/index.html")).expect("a page");
    assert_eq!(page, format!("hello {} 1\n", &ready.commit[..8]));
    assert!(run.workspace().join("README.md").exists());

    let read = ready.read(run.number).await;
    assert_eq!(
        steps(&read),
        [
            ("clone", "clone", "success", Some(0)),
            ("build", "commands", "success", Some(0)),
            ("publish", "plugin", "skipped", None),
            ("deploy", "commands", "skipped", None),
            ("sorry", "commands", "skipped", None),
        ]
    );
    let summary = &read.summary;
    assert_eq!((summary.status.as_str(), summary.event.as_str()), ("success", "push"));
    assert_eq!((summary.commit.as_str(), summary.branch.as_str()), (&*ready.commit, "main"));
    assert_eq!((summary.message.as_str(), summary.author.as_str()), ("say hello", "a-person"));
    assert!(summary.started_at.is_some() && summary.finished_at >= summary.started_at);
    let log = ready.log(run.number, &read.workflows[0].steps[1]).await;
    assert_eq!(log[0], "+ mkdir dist");
    assert!(log.contains(&"it's done".to_owned()), "{log:?}");
    let log = ready.log(run.number, &read.workflows[0].steps[2]).await;
    assert!(log[0].contains("needs Docker"), "{log:?}");
    let log = ready.log(run.number, &read.workflows[0].steps[3]).await;
    assert!(log[0].contains("alpine/k8s"), "{log:?}");
}

async fn a_step_that_fails_ends_the_pipeline_but_for_those_that_wait_for_it() {
    let definition = r#"
steps:
  lint: {image: "node:22", commands: ["false"], failure: ignore}
  build: {image: "node:22", commands: [echo before, exit 3, echo after]}
  publish: {image: "node:22", commands: [echo published]}
  sorry: {image: "node:22", commands: [echo sorry], when: [{status: [success, failure]}]}
"#;
    let ready = ready(definition).await;
    let mut run = ready.push();
    assert_eq!(run.ended(LONG).await, "failure");
    let read = ready.read(run.number).await;
    assert_eq!(
        steps(&read)[1..],
        [
            ("lint", "commands", "failure", Some(1)),
            ("build", "commands", "failure", Some(3)),
            ("publish", "commands", "skipped", None),
            ("sorry", "commands", "success", Some(0)),
        ]
    );
    assert_eq!(read.workflows[0].status, "failure");
    let log = ready.log(run.number, &read.workflows[0].steps[2]).await;
    assert_eq!(log, ["+ echo before", "before", "+ exit 3"]);
}

async fn a_push_that_starts_nothing_starts_nothing() {
    let ready = ready(SITE).await;
    let push = |branch: &str, message: &str| {
        ready.server.push(FORGE_ID, push_of(&ready.git, &ready.commit, branch, message)).is_some()
    };
    assert!(!push("next", "for another branch"));
    assert!(!push("main", "not this one [SKIP CI]"));
    let commit = ready.git.create("bare", &[("README.md", "no definition")]);
    let mut bare = push_of(&ready.git, &commit, "main", "no definition");
    bare.git_dir = ready.git.folder("bare");
    assert!(ready.server.push(FORGE_ID, bare).is_none());
    assert!(push("main", "this one"));
    ready.ci.deactivate(ready.id).await.expect("it is removed");
    assert!(!push("main", "nobody listens"));
}

async fn a_definition_that_is_wrong_is_a_pipeline_with_an_error() {
    for (definition, why) in [
        ("steps: [{name: a, commands: [b]}]", "`image` is missing"),
        (
            "steps: {a: {image: 'node:1', commands: [b], environment: {C: {from_secret: d}}}}",
            "secret \"d\" not found",
        ),
        (
            "steps: {a: {image: 'plugin/x', settings: {b: [{c: {from_secret: d}}]}}}",
            "secret \"d\" not found",
        ),
        ("steps: {a: {image: b, when: [{path: c}]}}", "does not know the condition `path`"),
    ] {
        let ready = ready(definition).await;
        let mut run = ready.push();
        assert_eq!(run.ended(LONG).await, "error");
        let read = ready.read(run.number).await;
        let [error] = read.errors.as_slice() else { panic!("{read:?}") };
        assert!(error.contains(why), "{error}");
        assert!(read.workflows.is_empty());
    }
}

async fn a_variable_of_the_server_reaches_conditions_and_steps() {
    let definition = r#"
steps:
  build: {image: "node:22", commands: ["true"]}
  notify:
    image: "node:22"
    commands: ['echo "$HOOK $CI_REPO_REMOTE_ID" > told']
    when: [{status: [success], evaluate: '(HOOK ?? "") != ""'}]
"#;
    let ready = ready(definition).await;
    let mut run = ready.push();
    assert_eq!(run.ended(LONG).await, "success");
    assert_eq!(steps(&ready.read(run.number).await).len(), 2, "clone and build");
    ready.server.set_environment("HOOK", "http://hook");
    let mut run = ready.push();
    assert_eq!(run.ended(LONG).await, "success");
    let told = std::fs::read_to_string(run.workspace().join("told")).expect("a file");
    assert_eq!(told, "http://hook 42\n");
}

const WAITING: &str = r#"
steps:
  wait: {image: "node:22", commands: ["sleep 1000 & echo $$ $! > pids", "wait"]}
  after: {image: "node:22", commands: [echo after]}
"#;

/// The processes of a step that waits, once it does.
async fn waiting(run: &Run) -> Vec<String> {
    let deadline = Instant::now() + LONG;
    loop {
        let text = std::fs::read_to_string(run.workspace().join("pids")).unwrap_or_default();
        if text.ends_with('\n') {
            return text.split_whitespace().map(str::to_owned).collect();
        }
        assert!(Instant::now() < deadline, "the step did not begin");
        tokio::task::yield_now().await;
    }
}

async fn assert_gone(pids: &[String]) {
    let deadline = Instant::now() + LONG;
    for pid in pids {
        let alive = || {
            let status = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
            status.is_ok_and(|status| !status.contains(") Z "))
        };
        while alive() {
            assert!(Instant::now() < deadline, "process {pid} lives");
            tokio::task::yield_now().await;
        }
    }
}

async fn a_cancelled_pipeline_leaves_no_process() {
    let ready = ready(WAITING).await;
    let mut run = ready.push();
    let pids = waiting(&run).await;
    ready.ci.cancel(ready.id, run.number).await.expect("it is cancelled");
    assert_eq!(run.ended(LONG).await, "killed");
    assert_gone(&pids).await;
    let read = ready.read(run.number).await;
    assert_eq!(read.summary.status, "killed");
    assert_eq!(
        steps(&read)[1..],
        [("wait", "commands", "killed", Some(137)), ("after", "commands", "skipped", None),]
    );
}

async fn a_repository_that_is_removed_takes_its_processes_along() {
    let ready = ready(WAITING).await;
    let mut run = ready.push();
    let pids = waiting(&run).await;
    ready.ci.deactivate(ready.id).await.expect("it is removed");
    assert_eq!(run.ended(LONG).await, "killed");
    assert_gone(&pids).await;
}

async fn a_server_that_is_dropped_leaves_no_process() {
    let ready = ready(WAITING).await;
    let run = ready.push();
    let pids = waiting(&run).await;
    let workspace = run.workspace().to_owned();
    drop(ready.server);
    assert_gone(&pids).await;
    assert!(!workspace.exists());
}

async fn a_restart_runs_the_same_commit_again() {
    let ready = ready(SITE).await;
    let mut run = ready.push();
    assert_eq!(run.ended(LONG).await, "success");
    ready.git.commit("site", "main", &[("README.md", "a newer site")], "go on");
    let mut changes = ready.server.changes();
    let new = ready.ci.restart(ready.id, run.number).await.expect("it is restarted");
    assert_eq!((new.number, new.commit.as_str()), (2, ready.commit.as_str()));
    let ended = until(&mut changes, "success").await;
    assert_eq!((ended.number, ended.commit.as_str()), (2, ready.commit.as_str()));
}

async fn a_pipeline_by_hand_runs_the_branchs_tip_or_is_filtered() {
    let ready = ready(SITE).await;
    let mut run = ready.push();
    run.ended(LONG).await;
    let token = Token::known(Secret::new(TOKEN));
    let http = Http::new("it", &ready.server.url(), Auth::Bearer, token, LONG).expect("a URL");
    let id = ready.id.0.to_string();
    let start = async |branch: &str| {
        let path = ["api", "repos", &id, "pipelines"];
        let body = json!({"branch": branch, "variables": {}});
        http.send(Method::POST, &path, &[], Some(&body)).await.expect("an answer")
    };
    let mut changes = ready.server.changes();
    let begun: Value = start("main").await.json().expect("a pipeline");
    assert_eq!((&begun["number"], &begun["event"]), (&json!(2), &json!("manual")));
    assert_eq!(until(&mut changes, "success").await.number, 2);
    ready.git.commit("site", "next", &[("README.md", "another site")], "for another branch");
    let filtered = start("next").await;
    assert_eq!(filtered.status.as_u16(), 204);
    assert_eq!(filtered.headers["pipeline-filtered"], "true");
    assert_eq!(start("none").await.status.as_u16(), 500);
}

async fn the_end_of_a_pipeline_is_posted_with_a_signature() {
    let ready = ready(SITE).await;
    let mut changes = ready.server.changes();
    let mut run = ready.push();
    run.ended(LONG).await;
    let ended = until(&mut changes, "success").await;
    let hook = Server::start();
    hook.answer_with(Fault::Status(202));
    let delivery = Ulid::from_parts(1_700_000_000_000, 1);
    let url = format!("{}/hooks/woodpecker", hook.url());
    let status = post(&url, b"sesame", delivery, &ended).await.expect("an answer");
    assert_eq!(status, 202);
    let [request] = hook.requests().try_into().expect("one request");
    assert_eq!((request.method.as_str(), request.path()), ("POST", "/hooks/woodpecker"));
    assert_eq!(request.header("x-rdev-delivery"), Some(delivery.to_string().as_str()));
    let signature = request.header("x-rdev-signature").expect("a signature");
    let hex = signature.strip_prefix("sha256=").expect("its method");
    assert!(hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let body: Value = serde_json::from_slice(&request.body).expect("JSON");
    assert_eq!(
        body,
        json!({
            "repository": "team/site",
            "forge_id": FORGE_ID,
            "number": 1,
            "status": "success",
            "commit": ready.commit,
            "branch": "main",
            "url": format!("{}/repos/{}/pipeline/1", ready.server.url(), ready.id.0),
            "finished_at": ended.finished_at,
        })
    );
}
