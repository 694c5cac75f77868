//! The server in one process: API, runner and maintenance over one data folder.

mod api;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use metrics_exporter_prometheus::PrometheusHandle;
use rdev_domain::chain;
use rdev_domain::outbox;
use rdev_domain::ports::{Forge, Store as _};
use rdev_domain::secret::Secret;
use rdev_domain::spec::AgentName;
use rdev_domain::time::Timestamp;
use rdev_embedded::Embedded;
use rdev_functions::Context;
use rdev_functions::services::templates::check_registry;
use rdev_platform::connect::{Platform, WrongSetting, connect};
use rdev_platform::webhooks::Sender;
use rdev_runner::{Folders, Ports, Protection, Runner, RunnerConfig, RunnerHandle};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::folder::Local;
use crate::{admin, maintenance};

/// How long open requests may take after the runner has ended.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// A running server.
pub(crate) struct Server {
    /// Its address for clients on this machine.
    pub(crate) url: String,
    /// The local admin key.
    pub(crate) admin_key: Secret,
    /// The data folder, as an absolute path.
    pub(crate) folder: PathBuf,
    handle: RunnerHandle,
    runner: JoinHandle<anyhow::Result<()>>,
    api: JoinHandle<std::io::Result<()>>,
    maintenance: JoinHandle<()>,
    /// Ends API and maintenance.
    stop: CancellationToken,
    /// Holds the data folder's lock.
    embedded: Embedded,
}

/// The part of the server that ended by itself, and its outcome.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The runner: after a drain, or because of a defect.
    Runner(anyhow::Result<()>),
    /// The API, which should not.
    Api(anyhow::Error),
}

impl Server {
    /// Opens the data folder, recovers the tasks of an earlier process, and serves.
    ///
    /// When this returns, the API answers requests and `rdev.json` is written.
    ///
    /// # Errors
    /// When the folder is in use, the address is taken, or something cannot be opened.
    pub(crate) async fn start(
        config: &Config,
        folder: &Path,
        listen: SocketAddr,
        default_agent: AgentName,
    ) -> anyhow::Result<Self> {
        // First: a wrong setting is reported before anything is opened.
        let platform = platform(config)?;
        let embedded = open(config, folder).await?;
        let folder = embedded.folder.clone();
        let (listener, url) = api::listen(listen).await?;

        let ports = ports(&embedded, &platform);
        let folders = runner_folders(&folder);
        let runner_config = config.for_runner();
        let url_policy = runner_config.url_policy(&folders);
        let runner = make_runner(ports.clone(), runner_config, folders).await?;
        recover(&embedded).await?;

        let handle = runner.handle();
        let metrics = api::install_metrics()?;
        let settings = api::settings(config, &platform, default_agent, url_policy);
        let context = api::context(ports, &platform, settings, &metrics, handle.clone());
        let stop = CancellationToken::new();
        let api = tokio::spawn(api::serve(listener, context.clone(), stop.clone()));
        let admin_key = admin_key(&embedded, &url).await?;
        let maintenance = start_maintenance(config, context, metrics, &stop)?;
        redact_secrets(&runner, config, &admin_key);
        let runner = tokio::spawn(runner.run());

        let server =
            Self { url, admin_key, folder, handle, runner, api, maintenance, stop, embedded };
        server.local(Some(std::process::id())).write(&server.folder)?;
        Ok(server)
    }

    /// Stops claiming tasks; running builds may finish within `runner.drain_s`.
    pub(crate) fn drain(&self) {
        self.handle.drain();
    }

    /// Stops claiming tasks and gives running builds back to the queue.
    pub(crate) fn drain_now(&self) {
        self.handle.drain_now();
    }

    /// Waits until the runner or the API has ended.
    pub(crate) async fn ended(&mut self) -> Ended {
        tokio::select! {
            ended = &mut self.runner => Ended::Runner(
                ended.unwrap_or_else(|error| Err(anyhow!(error).context("the runner panicked"))),
            ),
            ended = &mut self.api => Ended::Api(match ended {
                Ok(Ok(())) => anyhow!("the API ended by itself"),
                Ok(Err(error)) => anyhow!(error).context("the API ended"),
                Err(error) => anyhow!(error).context("the API panicked"),
            }),
        }
    }

    /// Ends everything and releases the data folder. Call it after the runner has ended: it aborts
    /// a running one.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        // A finished task must not be polled again.
        if !self.api.is_finished()
            && tokio::time::timeout(LAST_REQUESTS, &mut self.api).await.is_err()
        {
            self.api.abort();
        }
        self.runner.abort();
        if !self.maintenance.is_finished() {
            drop((&mut self.maintenance).await);
        }
        let written = self.local(None).write(&self.folder);
        // Only now: the next process writes the same file.
        drop(self.embedded);
        written
    }

    fn local(&self, pid: Option<u32>) -> Local {
        Local { url: self.url.clone(), admin_key: self.admin_key.clone(), pid }
    }
}

/// The systems around builds. A wrong setting is an error; nothing is sent yet.
fn platform(config: &Config) -> anyhow::Result<Platform> {
    let platform = connect(&config.platform(), None)?;
    if let Some(registry) = &config.registry {
        check_registry(registry).map_err(|rule| WrongSetting::new("registry", rule))?;
    }
    Ok(platform)
}

async fn open(config: &Config, folder: &Path) -> anyhow::Result<Embedded> {
    let options = rdev_embedded::Options {
        retention: config.retention,
        author: rdev_embedded::Author {
            name: config.git.name.clone(),
            email: config.git.email.clone(),
        },
        ..rdev_embedded::Options::default()
    };
    let folder = folder.to_owned();
    let opened = tokio::task::spawn_blocking(move || rdev_embedded::open(&folder, options));
    Ok(opened.await.context("the data folder could not be opened")??)
}

/// Store and queue of the data folder, and the forge: the configured one, else the data folder.
fn ports(embedded: &Embedded, platform: &Platform) -> Ports {
    let forge: Arc<dyn Forge> = match &platform.forge {
        Some(gitea) => gitea.clone(),
        None => embedded.forge.clone(),
    };
    Ports { store: embedded.store.clone(), queue: embedded.queue.clone(), forge }
}

pub(crate) fn runner_folders(folder: &Path) -> Folders {
    Folders {
        work: folder.join("work"),
        cache: folder.join("cache"),
        sessions: folder.join("sessions"),
        repositories: Some(folder.join("repos")),
    }
}

/// Makes the runner. This kills the processes of an earlier runner, removes their folders, and
/// blocks until that is done.
async fn make_runner(
    ports: Ports,
    config: RunnerConfig,
    folders: Folders,
) -> anyhow::Result<Runner> {
    let make = move || {
        let version = env!("CARGO_PKG_VERSION");
        rdev_runner::start(ports, config, folders, Protection::None, version)
    };
    tokio::task::spawn_blocking(make).await.context("the runner could not start")?
}

/// Gives the tasks and wake-ups of an earlier process back to the queue.
async fn recover(embedded: &Embedded) -> anyhow::Result<()> {
    let (store, queue) = (&*embedded.store, &*embedded.queue);
    let outbox = store.recover_all(now()).await;
    let outbox = outbox.context("cannot recover the tasks of an earlier process")?;
    let returned = queue.return_received().await;
    returned.context("cannot take back the wake-ups of an earlier process")?;
    if !outbox.is_empty() {
        info!(wake_ups = outbox.len(), "recovered the tasks of an earlier process");
    }
    if let Err(error) = outbox::send(store, queue, &outbox, now()).await {
        warn!(error = chain(&error), "a wake-up was not sent; the next sweep sends it");
    }
    Ok(())
}

/// The key of `rdev.json`, or a new one.
async fn admin_key(embedded: &Embedded, url: &str) -> anyhow::Result<Secret> {
    let earlier = Local::read(&embedded.folder).unwrap_or_else(|error| {
        warn!("{error:#}; rdev writes a new one");
        None
    });
    let earlier = earlier.map(|local| local.admin_key);
    let key = admin::key(&*embedded.store, url, earlier, now()).await;
    key.context("cannot make the local admin key")
}

/// Starts the sweep and the sending of webhooks and commit statuses.
fn start_maintenance(
    config: &Config,
    context: Context,
    metrics: PrometheusHandle,
    stop: &CancellationToken,
) -> anyhow::Result<JoinHandle<()>> {
    let sender = Sender::new(config.api.webhooks_to_private_addresses, config.public_url.clone())?;
    let (stop, public_url) = (stop.clone(), config.public_url.clone());
    Ok(tokio::spawn(async move {
        tokio::join!(
            maintenance::run(&context, &metrics, &stop),
            maintenance::webhooks(&*context.store, &sender, &stop),
            maintenance::statuses(&context, public_url.as_deref(), &stop)
        );
    }))
}

/// Keeps our secrets out of what agents print. An agent runs as the same user, so it can read the
/// admin key in the data folder.
fn redact_secrets(runner: &Runner, config: &Config, admin_key: &Secret) {
    runner.redact(admin_key.clone());
    for secret in config.platform().secrets() {
        runner.redact(secret);
    }
}

fn now() -> Timestamp {
    SystemTime::now().into()
}
