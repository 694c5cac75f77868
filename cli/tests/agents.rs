//! The real agents, from `POST …/builds` to the pushed commit and its record,
//! against a model that plays a script.
//!
//! They are installed from npm, once per version. A case whose agent is not to
//! be had says what it needs and is counted as ignored; with `RDEV_REQUIRE=all`
//! it fails. What an agent does short of a whole build is tested in `runner`.

mod support;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rdev_testkit::servers::model::{Act, ModelServer, Script, Tokens};
use rdev_testkit::tools::agents::{Cli, installed};
use rdev_testkit::tools::trial::{self, Outcome};
use serde_json::{Value, json};
use support::{PATIENCE, Server, configure, git, processes_below};

const TOKENS: Tokens = Tokens { input: 1000, output: 200, cached: 300 };

type Case = for<'a> fn(&'a Bench) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

const CASES: [(&str, Case); 9] = [
    ("a_prompt_becomes_a_pushed_commit_with_its_record", |bench| Box::pin(delivers(bench))),
    ("a_refused_key_fails_as_auth", |bench| Box::pin(refused_key(bench))),
    ("an_overload_passes_and_the_build_is_delivered", |bench| Box::pin(overload(bench))),
    ("a_model_gone_silent_fails_as_agent_stalled", |bench| Box::pin(silence(bench))),
    ("a_cancel_in_mid_answer_leaves_no_process", |bench| Box::pin(cancel(bench))),
    ("the_turn_limit_fails_as_budget_exceeded", |bench| Box::pin(turn_limit(bench))),
    ("settings_committed_to_the_repository_are_not_obeyed", |bench| Box::pin(planted(bench))),
    ("a_follow_up_resumes_the_session", |bench| Box::pin(follow_up(bench))),
    ("what_verify_says_goes_to_the_same_session", |bench| Box::pin(verified(bench))),
];

/// `rdev up` with one real agent, its model, and a project.
struct Bench {
    cli: Cli,
    data: tempfile::TempDir,
    model: ModelServer,
    server: Server,
    repository: PathBuf,
}

fn main() -> ExitCode {
    // Case by case and not agent by agent: several of the slowest at once would starve each other.
    let of_case = |(name, case): (&'static str, Case)| {
        Cli::ALL.map(|cli| {
            let name = format!("{}::{name}", cli.name());
            trial::asynchronous(name, async move || run(cli, installed(cli)?, case).await)
        })
    };
    // Some cases wait for a silence to be long enough; the others use that time.
    trial::run(Some(4), [CASES.into_iter().flat_map(of_case).collect()])
}

async fn run(cli: Cli, program: &Path, case: Case) -> Outcome {
    let bench = Bench::new(cli, program).await;
    case(&bench).await;
    bench.server.stop().await;
    assert_eq!(processes_below(&bench.data.path().join("work")), [], "something is left");
    Ok(())
}

impl Bench {
    async fn new(cli: Cli, program: &Path) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let model = ModelServer::start(Script::default()).await.expect("a model server");
        let (base_url, name, key) = match cli {
            Cli::ClaudeCode => (model.url(), "claude-opus-5-5", "ANTHROPIC_API_KEY"),
            Cli::Opencode => (format!("{}/v1", model.url()), "scripted-1", "OPENAI_API_KEY"),
            Cli::Codex => (format!("{}/v1", model.url()), "gpt-5.6-sol", "OPENAI_API_KEY"),
        };
        let section = format!(
            r#"
[agents.{agent}]
program = "{program}"
model = "{name}"
base_url = "{base_url}"
set_env = {{ {key} = "sk-scripted-0123456789" }}
prices = {{ "{name}" = {{ input = 3.0, output = 15.0, cached = 0.3 }} }}
"#,
            agent = agent(cli),
            program = program.display(),
        );
        configure(data.path(), &section);
        let server = Server::start(data.path(), &[]).await;
        let repository = server.project("site", 1).await;
        Self { cli, data, model, server, repository }
    }

    fn spec(&self, prompt: &str, more: &Value) -> Value {
        let mut spec = json!({"prompt": prompt, "agent": agent(self.cli), "max_attempts": 1});
        for (name, value) in more.as_object().expect("an object") {
            spec[name] = value.clone();
        }
        spec
    }

    async fn builds(&self, prompt: &str, more: Value) -> Value {
        let task = self.server.build("site", self.spec(prompt, &more)).await;
        self.server.ended("site", &task).await
    }

    /// Waits until the model has been asked for `step`.
    async fn asked_for(&self, step: usize) {
        let end = Instant::now() + PATIENCE;
        while !self.model.requests().iter().any(|request| request.step == Some(step)) {
            assert!(Instant::now() < end, "the model was never asked for step {step}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn commits(&self) -> usize {
        git(&self.repository, &["log", "--format=%H", "main"]).lines().count()
    }
}

/// The agent's name in the API.
fn agent(cli: Cli) -> &'static str {
    match cli {
        Cli::ClaudeCode => "claude-code",
        Cli::Opencode => "opencode",
        Cli::Codex => "codex",
    }
}

fn writes(path: &str) -> Act {
    Act::Write {
        path: path.to_owned(),
        content: "hello from the model\n".to_owned(),
        text: Some("I will write it.".to_owned()),
    }
}

async fn delivers(bench: &Bench) {
    bench.model.play(Script::of([writes("hello.txt"), Act::text("All done.")]).using(TOKENS));
    let record = bench.builds("write hello.txt", json!({})).await;
    assert_eq!(record["state"], "succeeded", "{record:#}");
    let result = &record["result"];
    assert_eq!(result["outcome"], "delivered", "{record:#}");
    let commit = result["commit_sha"].as_str().expect("a commit");
    assert_eq!(git(&bench.repository, &["rev-parse", "main"]), commit);
    assert_eq!(git(&bench.repository, &["show", "main:hello.txt"]), "hello from the model");
    let trailer = format!("Rdev-Task: {}", record["id"].as_str().expect("an id"));
    assert!(
        git(&bench.repository, &["log", "-1", "--format=%(trailers)", "main"]).contains(&trailer)
    );
    assert_eq!(
        result["files_changed"],
        json!([{"path": "hello.txt", "status": "added", "additions": 1, "deletions": 0}])
    );
    assert_eq!(result["summary"], "All done.");
    let agent = &result["agent"];
    assert_eq!(agent["provider"], self::agent(bench.cli));
    assert_eq!(agent["version"], bench.cli.version());
    assert!(agent["session_id"].is_string() && agent["model"].is_string(), "{agent:#}");
    let usage = &result["usage"];
    assert_eq!((&usage["turns"], &usage["output_tokens"]), (&json!(2), &json!(400)), "{usage:#}");
    assert!(usage["input_tokens"].as_u64().is_some_and(|tokens| tokens >= 1400), "{usage:#}");
    assert!(usage["cost_usd"].as_f64().is_some_and(|cost| cost > 0.0), "{usage:#}");
    let events = bench.server.events("site", record["id"].as_str().expect("an id")).await;
    for kind in
        ["state", "phase", "agent.text", "agent.tool_use", "agent.tool_result", "agent.usage"]
    {
        assert!(
            events.as_array().expect("events").iter().any(|event| event["kind"] == kind),
            "no {kind}: {events:#}"
        );
    }
    assert!(!events.to_string().contains("sk-scripted"), "the model's key is in the log");
}

async fn refused_key(bench: &Bench) {
    bench.model.play(Script::of([Act::error(401)]));
    let record = bench.builds("write hello.txt", json!({})).await;
    assert_eq!(
        (&record["state"], &record["failure"]["class"]),
        (&json!("failed"), &json!("auth")),
        "{record:#}"
    );
    assert_eq!(bench.commits(), 1);
}

async fn overload(bench: &Bench) {
    let then = Box::new(writes("hello.txt"));
    bench.model.play(Script::of([Act::Flaky { status: 529, times: 1, then }, Act::text("done")]));
    let record = bench.builds("write hello.txt", json!({})).await;
    assert_eq!(record["result"]["outcome"], "delivered", "{record:#}");
    assert_eq!(bench.commits(), 2);
}

async fn silence(bench: &Bench) {
    bench.model.play(Script::of([writes("hello.txt"), Act::Hang]));
    // Each is silent for some seconds before it asks the model, and more on a busy machine.
    let stall = if bench.cli == Cli::Opencode { 40 } else { 15 };
    let record = bench.builds("write hello.txt", json!({"stall_timeout_s": stall})).await;
    assert_eq!(record["failure"]["class"], "agent_stalled", "{record:#}");
    assert_eq!(bench.commits(), 1);
}

async fn cancel(bench: &Bench) {
    let runs_away =
        "(setsid sleep 300 >/dev/null 2>&1 &); nohup sleep 300 >/dev/null 2>&1 & echo started";
    bench.model.play(Script::of([Act::Shell(runs_away.to_owned()), Act::Hang]));
    let task = bench.server.build("site", bench.spec("run away", &json!({}))).await;
    bench.asked_for(1).await;
    let work = bench.data.path().join("work");
    assert!(processes_below(&work).len() >= 3, "agent, setsid child and background child live");
    let answer =
        bench.server.post(&format!("/projects/site/builds/{task}/cancel"), json!({})).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let record = bench.server.ended("site", &task).await;
    assert_eq!(record["state"], "cancelled", "{record:#}");
    assert_eq!(processes_below(&work), [], "something outlived the cancel");
    assert_eq!(bench.commits(), 1);
}

async fn turn_limit(bench: &Bench) {
    let endless = (0..8).map(|n| Act::write(format!("f{n}.txt"), "x\n"));
    bench.model.play(Script::of(endless).using(TOKENS));
    let record = bench.builds("write for ever", json!({"max_turns": 3})).await;
    assert_eq!(record["failure"]["class"], "budget_exceeded", "{record:#}");
    assert!(
        record["usage"]["turns"].as_u64().is_some_and(|turns| turns >= 3),
        "what failed has cost too: {record:#}"
    );
    assert_eq!(bench.commits(), 1);
}

async fn planted(bench: &Bench) {
    let trap = bench.data.path().join("trap");
    let touch = format!("touch {}", trap.display());
    let hook = json!([{"hooks": [{"type": "command", "command": touch}]}]);
    let claude = json!({
        "env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"},
        "hooks": {"SessionStart": hook, "PreToolUse": hook},
    });
    let opencode =
        json!({"mcp": {"x": {"type": "local", "command": ["touch", trap], "enabled": true}}});
    let codex = format!("[mcp_servers.x]\ncommand = \"touch\"\nargs = [{trap:?}]\n");
    let clone = tempfile::tempdir().expect("a folder");
    let at = clone.path();
    git(at, &["clone", "-q", &bench.repository.display().to_string(), "."]);
    for (path, text) in [
        (".claude/settings.json", claude.to_string()),
        ("opencode.json", opencode.to_string()),
        (".codex/config.toml", codex),
    ] {
        let path = at.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    git(at, &["add", "-A"]);
    git(at, &["commit", "-q", "-m", "Plant settings"]);
    git(at, &["push", "-q", "origin", "HEAD:main"]);

    bench.model.play(Script::of([writes("hello.txt"), Act::text("done")]));
    let record = bench.builds("write hello.txt", json!({})).await;
    assert_eq!(record["result"]["outcome"], "delivered", "{record:#}");
    let changed = &record["result"]["files_changed"];
    assert_eq!(changed.as_array().map(Vec::len), Some(1), "only what was asked for: {changed:#}");
    assert_eq!(git(&bench.repository, &["show", "main:hello.txt"]), "hello from the model");
    assert!(!trap.exists(), "a command of the repository's settings ran");
}

async fn follow_up(bench: &Bench) {
    bench.model.play(Script::of([writes("one.txt"), Act::text("first")]).using(TOKENS));
    let first = bench.builds("remember the word xylophone", json!({})).await;
    assert_eq!(first["result"]["outcome"], "delivered", "{first:#}");
    bench.model.play(Script::of([writes("two.txt"), Act::text("second")]).using(TOKENS));
    let second = bench.builds("which word was it?", json!({"continue_from": first["id"]})).await;
    assert_eq!(second["result"]["outcome"], "delivered", "{second:#}");
    assert_eq!(second["result"]["agent"]["session_id"], first["result"]["agent"]["session_id"]);
    assert_eq!(git(&bench.repository, &["show", "main:two.txt"]), "hello from the model");
    let requests = bench.model.requests();
    let last = requests
        .iter()
        .rfind(|request| request.step == Some(0))
        .expect("a request")
        .body
        .to_string();
    assert!(
        last.contains("xylophone") && last.contains("which word was it?"),
        "the session was not resumed"
    );
    assert_eq!(
        second["result"]["usage"]["output_tokens"], 400,
        "only this run's share: {second:#}"
    );
}

async fn verified(bench: &Bench) {
    let write = |content: &str| Act::Write {
        path: "hello.txt".to_owned(),
        content: format!("{content}\n"),
        text: Some("I will write it.".to_owned()),
    };
    // The second run of the session goes on where the first one ended.
    let script = [write("wrong"), Act::text("done"), write("right"), Act::text("mended")];
    bench.model.play(Script::of(script).using(TOKENS));
    let verify = json!(["grep -q right hello.txt || { echo no xylophone here; exit 1; }"]);
    let record = bench.builds("write hello.txt", json!({"verify": verify})).await;
    assert_eq!(record["result"]["outcome"], "delivered", "{record:#}");
    assert_eq!(git(&bench.repository, &["show", "main:hello.txt"]), "right");
    assert_eq!(record["result"]["usage"]["turns"], 4, "both runs count: {record:#}");
    let requests = bench.model.requests();
    let told = requests.iter().find(|request| request.step == Some(2)).expect("a second run");
    let told = told.body.to_string();
    assert!(
        told.contains("write hello.txt") && told.contains("no xylophone here"),
        "the session was not told: {told}"
    );
}
