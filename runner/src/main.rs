//! The program `rdev-runner`: a runner that works from a DynamoDB table and an SQS queue.
//!
//! Wiring only. Exit status: 0 drained, 1 failed, 64 bad usage, 78 bad configuration or a
//! table or queue that is missing, denied or not ours.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use metrics_exporter_prometheus::PrometheusBuilder;
use rdev_aws::check::CheckError;
use rdev_aws::{Aws, SettingsError};
use rdev_configuration::{
    ConfigError, Environment, Layers, Names, default_data_dir, find_file, log_directives,
};
use rdev_domain::chain;
use rdev_domain::ports::Forge;
use rdev_domain::retention::Retention;
use rdev_domain::secret::Secret;
use rdev_domain::spec::AgentName;
use rdev_platform::config::{ForgeConfig, PlatformConfig};
use rdev_platform::connect::{WrongSetting, connect};
use rdev_runner::config::{AgentSettings, GitSettings, RunnerSettings};
use rdev_runner::{
    Folders, NotOffered, OwnQueue, Ports, Protection, RunnerConfig, RunnerHandle, health,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// `EX_USAGE`.
const BAD_USAGE: u8 = 64;

/// `EX_CONFIG`: another start has the same result.
const BAD_CONFIGURATION: u8 = 78;

/// The milliseconds that an event waits: until the next renewal, because every write costs.
const EVENT_FLUSH_MS: u64 = 15_000;

/// The longest pause between two checks of table and queue at the start.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Its variables that are in no section.
const NAMES: Names = Names {
    top: &["DATA_DIR", "HEALTH_LISTEN", "PUBLIC_URL"],
    others: &[
        "TABLE",
        "QUEUE_URL",
        "QUEUE_URL_CLAUDE_CODE",
        "QUEUE_URL_OPENCODE",
        "QUEUE_URL_CODEX",
        "QUEUE_URL_COMMAND",
        "QUEUE_AGENT",
        "DEAD_QUEUE_URL",
        "LOG_FORMAT",
    ],
};

/// Variables that must not appear in any record, even if an agent gets hold of them.
const OUR_SECRETS: [&str; 4] = [
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
];

const USAGE: &str = "usage: rdev-runner [--version]
Environment variables configure it: RDEV_TABLE, RDEV_QUEUE_URL, RDEV_DATA_DIR, RDEV_HEALTH_LISTEN,
RDEV_RUNNER__SLOTS and so on; docs/operations.md has the settings.";

/// Everything that can be set.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// The folder for mirrors, sessions and running builds.
    data_dir: Option<PathBuf>,
    /// The address of `/health`, `/live` and `/metrics`.
    health_listen: SocketAddr,
    runner: RunnerSettings,
    git: GitSettings,
    agents: BTreeMap<AgentName, AgentSettings>,
    retention: Retention,
    /// The URL at which people see builds.
    public_url: Option<String>,
    /// The forge, for pull requests and commit statuses.
    forge: Option<ForgeConfig>,
    /// The server's settings: server and runner may share one file.
    ci: IgnoredAny,
    dns: IgnoredAny,
    registry: IgnoredAny,
    listen: IgnoredAny,
    default_agent: IgnoredAny,
    api: IgnoredAny,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: None,
            health_listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            runner: RunnerSettings::default(),
            git: GitSettings::default(),
            agents: BTreeMap::new(),
            retention: Retention::default(),
            public_url: None,
            forge: None,
            ci: IgnoredAny,
            dns: IgnoredAny,
            registry: IgnoredAny,
            listen: IgnoredAny,
            default_agent: IgnoredAny,
            api: IgnoredAny,
        }
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "there is no log yet")]
fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("--version") => {
            println!("rdev-runner {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(_) => {
            eprintln!("{USAGE}");
            return ExitCode::from(BAD_USAGE);
        }
    }
    let environment = Environment::of_process();
    if let Err(error) = log(&environment) {
        eprintln!("error: {error:#}");
        return ExitCode::from(BAD_CONFIGURATION);
    }
    match work(&environment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = format!("{error:#}"), "the runner has failed");
            if is_configuration(&error) { BAD_CONFIGURATION.into() } else { ExitCode::FAILURE }
        }
    }
}

/// Whether a person has to change something before another start makes sense.
fn is_configuration(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<ConfigError>()
            || cause.is::<WrongSetting>()
            || cause.is::<SettingsError>()
            || cause.is::<NotOffered>()
            || cause.downcast_ref::<CheckError>().is_some_and(|check| !check.is_transient())
    })
}

/// One JSON object a line, or text with `RDEV_LOG_FORMAT=text`.
fn log(environment: &Environment) -> Result<()> {
    let filter = log_directives(environment.text("RUST_LOG").unwrap_or("info"));
    let filter: Targets = filter.parse().context("RUST_LOG cannot be read")?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry();
    match environment.text("RDEV_LOG_FORMAT").unwrap_or("json") {
        "json" => {
            let lines = lines.json().flatten_event(true).with_current_span(false);
            registry.with(lines).with(filter).init();
        }
        "text" => {
            let lines = lines.with_ansi(false).with_target(false).compact();
            registry.with(lines).with(filter).init();
        }
        _ => bail!("RDEV_LOG_FORMAT must be json or text"),
    }
    Ok(())
}

fn settings(environment: &Environment) -> Result<Settings, ConfigError> {
    let mut layers = Layers::default().value("runner.event_flush_ms", EVENT_FLUSH_MS);
    if let Some(path) = find_file(None, None, environment)? {
        layers = layers.file(&path)?;
    }
    layers.environment(environment, &NAMES).extract()
}

fn work(environment: &Environment) -> Result<()> {
    let settings = settings(environment)?;
    for name in environment.unknown_variables(&NAMES) {
        warn!("{name} is no setting of rdev-runner; it has no effect");
    }
    let resources = rdev_aws::Settings::from_env()?;
    let protection = match environment.text("ECS_AGENT_URI") {
        Some(agent) => Protection::ecs(agent).context("ECS_AGENT_URI is no URL")?,
        None => Protection::None,
    };
    let data = match &settings.data_dir {
        Some(folder) => folder.clone(),
        None => default_data_dir(environment)?,
    };
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed before this one"))?;
    let metrics = PrometheusBuilder::new().install_recorder().context("cannot set up metrics")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let ended = runtime.block_on(Box::pin(async {
        let mut signals = Signals::new()?;
        let aws = rdev_aws::connect(&resources, settings.retention).await;
        if !available(&aws, &mut signals).await? {
            return Ok(());
        }
        let _lock = lock(&data)?;
        let listener = TcpListener::bind(settings.health_listen).await;
        let listener =
            listener.with_context(|| format!("cannot listen on {}", settings.health_listen))?;
        let Settings { runner, mut git, agents, public_url, forge, .. } = settings;
        if let Some((forge, origin)) = forge.as_ref().and_then(|one| Some((one, one.origin()?))) {
            git.log_in_at_forge(origin, forge.token.as_ref());
        }
        let platform = PlatformConfig { public_url, forge, ..PlatformConfig::default() };
        let forge: Arc<dyn Forge> = match connect(&platform, None)?.forge {
            Some(gitea) => gitea,
            None => Arc::new(rdev_aws::NoForge),
        };
        let ports = Ports { store: aws.store, queue: aws.queue, forge };
        let folders = Folders {
            work: data.join("work"),
            cache: data.join("cache"),
            sessions: data.join("sessions"),
            repositories: None,
        };
        let drain_s = runner.drain_s;
        let secrets = platform.secrets();
        let public_url = platform.public_url;
        let config = RunnerConfig { public_url, runner, git, agents, queue: own_queue(&resources) };
        let start = move || {
            rdev_runner::start(ports, config, folders, protection, env!("CARGO_PKG_VERSION"))
        };
        let runner = tokio::task::spawn_blocking(start).await.context("the runner panicked")??;
        let ours = OUR_SECRETS.into_iter().filter_map(|name| environment.text(name));
        for secret in ours.map(Secret::new).chain(secrets) {
            runner.redact(secret);
        }
        if let Err(error) = runner.warn_of_differences().await {
            warn!(error = chain(&error), "the other workers are not known; going on without");
        }
        let handle = runner.handle();
        let router = health::router(handle.clone(), metrics);
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut running = tokio::spawn(runner.run());
        let mut signalled = 0;
        let ended = loop {
            tokio::select! {
                ended = &mut running => break ended.context("the runner panicked")?,
                () = signals.next() => {
                    signalled += 1;
                    handle_signal(&handle, signalled, drain_s);
                }
            }
        };
        if ended.is_ok() && signalled == 0 {
            bail!("the runner ended without a signal");
        }
        ended
    }));
    // A blocking call that hangs must not keep the process alive.
    runtime.shutdown_background();
    ended
}

/// The queue that the runner receives from, and whose it is.
fn own_queue(resources: &rdev_aws::Settings) -> OwnQueue {
    let agents = resources.own_agents();
    if resources.own_queue() == resources.queue_url {
        let elsewhere = AgentName::ALL.into_iter().filter(|agent| !agents.contains(agent));
        OwnQueue::Default { elsewhere: elsewhere.collect() }
    } else {
        OwnQueue::Of(agents)
    }
}

/// The first signal lets running builds finish; the second gives them back to the queue.
fn handle_signal(runner: &RunnerHandle, signalled: u32, drain_s: u64) {
    if signalled == 1 {
        info!(
            seconds = drain_s,
            "draining: the runner claims nothing more, running builds may finish"
        );
        runner.drain();
    } else {
        info!("giving running builds back to the queue");
        runner.drain_now();
    }
}

/// Waits until table and queue answer. Returns false when a signal arrives first.
async fn available(aws: &Aws, signals: &mut Signals) -> Result<bool, CheckError> {
    let mut pause = Duration::from_secs(1);
    loop {
        let look = async {
            match rdev_aws::check::resources(aws).await {
                Err(error) if error.is_transient() => {
                    warn!(%error, "waiting for table and queue");
                    tokio::time::sleep(pause).await;
                    None
                }
                other => Some(other),
            }
        };
        tokio::select! {
            looked = look => match looked {
                Some(looked) => return looked.map(|()| true),
                None => pause = (pause * 2).min(LONGEST_PAUSE),
            },
            () = signals.next() => return Ok(false),
        }
    }
}

/// Locks the data folder while the returned file is open: two runners in one folder would kill
/// each other's builds.
fn lock(folder: &Path) -> Result<File> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the data folder {}", folder.display()))?;
    let path = folder.join("runner.lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    file.try_lock()
        .with_context(|| format!("the data folder {} is another runner's", folder.display()))?;
    Ok(file)
}

/// SIGTERM, with which containers are stopped, and SIGINT.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// From now on the process handles both signals instead of being ended by them.
    fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
