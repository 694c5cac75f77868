//! The server in one process: API, runner and maintenance over one data folder.

use std::future::IntoFuture;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use axum::serve::ListenerExt;
use metrics_exporter_prometheus::PrometheusHandle;
use rdev_domain::git_url::UrlPolicy;
use rdev_domain::outbox;
use rdev_domain::ports::{Ci, Forge, Store as _};
use rdev_domain::secret::Secret;
use rdev_domain::spec::AgentName;
use rdev_domain::time::Timestamp;
use rdev_embedded::Embedded;
use rdev_functions::services::templates::check_registry;
use rdev_functions::{HookSecrets, Settings};
use rdev_platform::config::{AnyDns, Platform, Wrong};
use rdev_platform::webhooks::Sender;
use rdev_runner::{Folders, Protection, RunnerHandle};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::folder::Local;
use crate::log::chain;
use crate::{admin, maintenance};

/// How long open requests may take after the runner has ended.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// A server that runs.
pub(crate) struct Server {
    /// Where clients of this machine reach it.
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

/// What ended by itself, and how.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The runner: after a drain, or because of a defect.
    Runner(anyhow::Result<()>),
    /// The API, which should not.
    Api(anyhow::Error),
}

impl Server {
    /// Opens the data folder, recovers what an earlier process left, and serves.
    ///
    /// When this returns, requests are answered and `rdev.json` is written.
    ///
    /// # Errors
    /// When the folder is in use, the address is taken, or something cannot be opened.
    pub(crate) async fn start(
        config: &Config,
        folder: &Path,
        listen: SocketAddr,
        default_agent: AgentName,
    ) -> anyhow::Result<Self> {
        // First: a setting that is wrong is told before anything is opened.
        let systems = config.platform();
        let platform = rdev_platform::config::connect(&systems, None)?;
        if let Some(registry) = &config.registry {
            check_registry(registry).map_err(|why| Wrong::new("registry", why))?;
        }
        let embedded = open(config, folder).await?;
        let folder = embedded.folder.clone();
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}; choose another with --listen"))?;
        let address = listener.local_addr().context("cannot tell the address listened on")?;
        let url = format!("http://{}", reachable(address));

        let folders = Folders {
            work: folder.join("work"),
            cache: folder.join("cache"),
            sessions: folder.join("sessions"),
            repositories: Some(folder.join("repos")),
        };
        let forge: Arc<dyn Forge> = match &platform.forge {
            Some(gitea) => gitea.clone(),
            None => embedded.forge.clone(),
        };
        let (store, queue) = (embedded.store.clone(), embedded.queue.clone());
        let ports = rdev_runner::Ports { store, queue, forge };
        let for_runner = config.for_runner();
        let url_policy = for_runner.url_policy(&folders);
        let runner = {
            let ports = ports.clone();
            // It kills and removes what an earlier process left, and waits for that.
            let start = move || {
                let version = env!("CARGO_PKG_VERSION");
                rdev_runner::start(ports, for_runner, folders, Protection::None, version)
            };
            tokio::task::spawn_blocking(start).await.context("the runner could not start")??
        };
        let outbox = embedded
            .store
            .recover_all(now())
            .await
            .context("cannot recover what an earlier process was at")?;
        let returned = embedded.queue.return_received().await;
        returned.context("cannot take back the wake-ups of an earlier process")?;
        if !outbox.is_empty() {
            info!(wake_ups = outbox.len(), "recovered what an earlier process was at");
        }
        if let Err(error) = outbox::send(&*embedded.store, &*embedded.queue, &outbox, now()).await {
            warn!(error = chain(&error), "a wake-up was not sent; the next sweep sends it");
        }

        let metrics = prometheus()?;
        let handle = runner.handle();
        let context = {
            let handle = handle.clone();
            rdev_functions::Context {
                store: ports.store,
                queue: ports.queue,
                forge: ports.forge,
                ci: platform.ci.clone().map(|ci| ci as Arc<dyn Ci>),
                dns: platform.dns.as_ref().map(AnyDns::port),
                settings: settings(config, &platform, default_agent, url_policy),
                metrics: Some(metrics.clone()),
                on_cancel: Some(Arc::new(move |task| handle.cancel(task))),
            }
        };
        let stop = CancellationToken::new();
        let api = tokio::spawn(serve(listener, rdev_functions::api(context), stop.clone()));
        let earlier = Local::read(&folder).unwrap_or_else(|error| {
            warn!("{error:#}; a new one is written");
            None
        });
        let admin_key =
            admin::key(&*embedded.store, &url, earlier.map(|local| local.admin_key), now())
                .await
                .context("cannot make the local admin key")?;
        let sender =
            Sender::new(config.api.webhooks_to_private_addresses, config.public_url.clone())?;
        let maintenance = {
            let (embedded, stop) = (embedded.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::join!(
                    maintenance::run(&*embedded.store, &*embedded.queue, &metrics, &stop),
                    maintenance::webhooks(&*embedded.store, &sender, &stop)
                );
            })
        };
        // It lies in the data folder, where an agent, which runs as the same user, can read it.
        runner.redact(admin_key.clone());
        for secret in systems.secrets() {
            runner.redact(secret);
        }
        let runner = tokio::spawn(runner.run());
        let server =
            Self { url, admin_key, folder, handle, runner, api, maintenance, stop, embedded };
        server.local(Some(std::process::id())).write(&server.folder)?;
        Ok(server)
    }

    /// Takes no more work; builds that run may end within `runner.drain_s`.
    pub(crate) fn drain(&self) {
        self.handle.drain();
    }

    /// Takes no more work and gives back what runs.
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

    /// Ends everything; the data folder is free afterwards. Call it when the
    /// runner has ended: what it still does is cut off.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        // The one that has ended must not be polled again.
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
        // Not earlier: the next process writes the same file.
        drop(self.embedded);
        written
    }

    fn local(&self, pid: Option<u32>) -> Local {
        Local { url: self.url.clone(), admin_key: self.admin_key.clone(), pid }
    }
}

/// What the API is told: limits and defaults, and how the systems around it are used.
fn settings(
    config: &Config,
    platform: &Platform,
    default_agent: AgentName,
    url_policy: UrlPolicy,
) -> Settings {
    let dns = platform.names.clone();
    let hooks = HookSecrets {
        gitea: platform.forge_signs_with.clone(),
        ci: platform.ci_signs_with.clone(),
    };
    let registry = config.registry.clone();
    Settings { default_agent, url_policy, dns, hooks, registry, ..config.api.clone() }
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

async fn serve(
    listener: TcpListener,
    api: axum::Router,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = listener.tap_io(|connection| {
        // Answers are small; waiting for more to send only delays them.
        if let Err(error) = connection.set_nodelay(true) {
            warn!(%error, "a connection keeps Nagle's algorithm");
        }
    });
    let api = api.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, api).with_graceful_shutdown(stop.cancelled_owned()).into_future().await
}

/// The address that this machine's clients use for the one that is listened on.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn prometheus() -> anyhow::Result<PrometheusHandle> {
    rdev_functions::services::metrics::prometheus()
        .install_recorder()
        .context("cannot set up metrics")
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_every_address_is_reached_on_loopback() {
        let of = |text: &str| reachable(text.parse().expect("an address")).to_string();
        assert_eq!(of("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(of("[::]:80"), "[::1]:80");
        assert_eq!(of("10.0.0.1:80"), "10.0.0.1:80");
    }
}
