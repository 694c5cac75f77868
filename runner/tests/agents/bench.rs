//! One agent, one model server, one attempt's folders.

use std::fs;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdev_domain::event::EventKind;
use rdev_domain::failure::FailureClass;
use rdev_domain::secret::Secret;
use rdev_domain::spec::AgentName;
use rdev_runner::agent::{self, AgentContext, AgentRequest, End, Progress, Report};
use rdev_runner::config::{AgentSettings, Price};
use rdev_runner::redact::Redactor;
use rdev_testkit::servers::model::{ModelServer, Script, Tokens};
use rdev_testkit::tools::agents::Cli;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// The key that the agent sends to the model.
pub(crate) const KEY: &str = "sk-scripted-0123456789";

/// What each model turn of a script uses.
pub(crate) const TOKENS: Tokens = Tokens { input: 1000, output: 200, cached: 300 };

pub(crate) type Case = for<'a> fn(&'a Bench) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

pub(crate) struct Bench {
    pub(crate) cli: Cli,
    pub(crate) model: ModelServer,
    pub(crate) checkout: PathBuf,
    pub(crate) progress: Mutex<Vec<Progress>>,
    folder: TempDir,
    settings: AgentSettings,
}

/// What differs between the runs of the cases.
pub(crate) struct RunOptions<'a> {
    pub(crate) prompt: &'a str,
    pub(crate) max_turns: Option<u32>,
    pub(crate) max_cost_usd: Option<f64>,
    pub(crate) resume: Option<&'a str>,
    pub(crate) stall: Duration,
}

impl Default for RunOptions<'_> {
    fn default() -> Self {
        Self {
            prompt: "--please write hello.txt",
            max_turns: None,
            max_cost_usd: None,
            resume: None,
            stall: Duration::from_secs(600),
        }
    }
}

/// Runs a case in its own runtime.
pub(crate) fn run(cli: Cli, program: &Path, case: Case) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let bench = Bench::new(cli, program).await;
        case(&bench).await;
        assert_eq!(bench.alive(), Vec::<i32>::new(), "processes of the attempt live");
    });
}

impl Bench {
    async fn new(cli: Cli, program: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let checkout = folder.path().join("checkout");
        for name in ["checkout", "home", "tmp"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let git = Command::new("git").args(["init", "--quiet"]).arg(&checkout).status();
        assert!(git.expect("git runs").success());
        let model = ModelServer::start(Script::default()).await.expect("a model server");
        let (base_url, name) = match cli {
            Cli::ClaudeCode => (model.url(), "claude-opus-5-5"),
            Cli::Opencode => (format!("{}/v1", model.url()), "scripted-1"),
            Cli::Codex => (format!("{}/v1", model.url()), "gpt-5.6-sol"),
        };
        let key = if cli == Cli::ClaudeCode { "ANTHROPIC_API_KEY" } else { "OPENAI_API_KEY" };
        let settings = AgentSettings {
            program: Some(program.to_owned()),
            model: Some(name.to_owned()),
            base_url: Some(base_url),
            prices: [(name.to_owned(), Price { input: 3.0, output: 15.0, cached: 0.3 })].into(),
            set_env: [(key.to_owned(), KEY.to_owned())].into(),
            ..AgentSettings::default()
        };
        Self { cli, model, checkout, progress: Mutex::default(), folder, settings }
    }

    pub(crate) fn agent(&self) -> AgentName {
        match self.cli {
            Cli::ClaudeCode => AgentName::ClaudeCode,
            Cli::Opencode => AgentName::Opencode,
            Cli::Codex => AgentName::Codex,
        }
    }

    pub(crate) async fn run(&self, options: RunOptions<'_>) -> Report {
        self.run_until(options, &CancellationToken::new()).await
    }

    pub(crate) async fn run_until(
        &self,
        options: RunOptions<'_>,
        stop: &CancellationToken,
    ) -> Report {
        let (home, tmp) = (self.folder.path().join("home"), self.folder.path().join("tmp"));
        let request = AgentRequest {
            prompt: options.prompt,
            model: None,
            max_turns: options.max_turns,
            max_cost_usd: options.max_cost_usd,
            resume: options.resume,
            checkout: &self.checkout,
            home: &home,
            tmp: &tmp,
            attempt_dir: self.folder.path(),
            deadline: Instant::now() + Duration::from_secs(900),
            stall: options.stall,
            grace: Duration::from_secs(2),
        };
        let redactor = Redactor::new([Secret::new(KEY)]);
        self.progress.lock().expect("unpoisoned").clear();
        let mut progress = |item| self.progress.lock().expect("unpoisoned").push(item);
        let context = AgentContext {
            agent: self.agent(),
            settings: &self.settings,
            redactor: &redactor,
            stop,
        };
        agent::run(&context, &request, &mut progress).await
    }

    pub(crate) fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.checkout.join(name)).ok()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.checkout.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    /// The events of the last run, by kind.
    pub(crate) fn events(&self, expected: EventKind) -> Vec<Value> {
        let progress = self.progress.lock().expect("unpoisoned");
        let events = progress.iter().filter_map(|item| match item {
            Progress::Event(kind, data) if *kind == expected => Some(data.clone()),
            _ => None,
        });
        events.collect()
    }

    /// The number of requests for the agent's work that the model has received.
    pub(crate) fn requests(&self) -> usize {
        self.model.requests().iter().filter(|request| request.step.is_some()).count()
    }

    /// Waits until the model has received a request for `step`.
    pub(crate) async fn asked_for(&self, step: usize) {
        let deadline = Instant::now() + Duration::from_secs(800);
        while !self.model.requests().iter().any(|request| request.step == Some(step)) {
            assert!(Instant::now() < deadline, "the model received no request for step {step}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everything that has this attempt in its environment or stands in its folder.
    pub(crate) fn alive(&self) -> Vec<i32> {
        let folder = self.folder.path();
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let ours = pids.filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let marked = environ
                .windows(folder.as_os_str().len())
                .any(|part| part == folder.as_os_str().as_bytes());
            marked
                || fs::read_link(format!("/proc/{pid}/cwd"))
                    .is_ok_and(|cwd| cwd.starts_with(folder))
        });
        ours.collect()
    }
}

pub(crate) fn class(report: &Report) -> FailureClass {
    match &report.end {
        End::Failed(failure) => failure.class,
        other => panic!("it should have failed, but: {other:?}"),
    }
}

pub(crate) fn assert_done(report: &Report) {
    assert!(matches!(report.end, End::Done), "{:?}", report.end);
}

pub(crate) fn process_lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}
