//! `rdev up`: runs the server until a signal ends it.

use rdev_configuration::Environment;
use rdev_domain::spec::AgentName;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::args::Common;
use crate::args::server::Up;
use crate::config::{Config, Flags, NAMES};
use crate::exit::Exit;
use crate::server::{Ended, Server};
use crate::{agents, log};

/// Serves until SIGTERM or SIGINT, then lets running builds finish. A second signal gives them back
/// to the queue at once.
pub(crate) async fn run(
    common: &Common,
    up: &Up,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let mut signals = Signals::new()?;
    log::init(common.log_format, "info", environment.text("RUST_LOG"))?;
    let flags = Flags { listen: up.listen, ..Flags::from(common) };
    let mut config = Config::load(&flags, environment)?;
    for name in environment.unknown_variables(&NAMES) {
        warn!("{name} is not a setting of rdev; it has no effect");
    }
    if up.sample_agent {
        agents::use_sample(&mut config.agents)?;
        warn!("the agent `command` is the sample: it only writes the prompt into index.html");
    }
    let default_agent = default_agent(&config);
    let folder = config.data_dir(environment)?;
    let mut server = Server::start(&config, &folder, config.listen, default_agent).await?;
    info!(url = server.url, data_dir = %server.folder.display(), %default_agent, "rdev is up");

    let mut draining = false;
    let ended = loop {
        tokio::select! {
            ended = server.ended() => break ended,
            () = signals.next() => {
                if draining {
                    info!("giving running builds back to the queue");
                    server.drain_now();
                } else {
                    info!(
                        seconds = config.runner.drain_s,
                        "no new builds; running builds are allowed to finish (a second signal gives them back)"
                    );
                    server.drain();
                    draining = true;
                }
            }
        }
    };
    server.close().await?;
    match ended {
        Ended::Runner(outcome) => outcome?,
        Ended::Api(error) => return Err(error),
    }
    if !draining {
        anyhow::bail!("the runner ended by itself");
    }
    info!("rdev has ended");
    Ok(Exit::Done)
}

/// The agent of builds that give none. Warns when no agent is ready.
pub(crate) fn default_agent(config: &Config) -> AgentName {
    agents::default_agent(config.default_agent, &config.agents).unwrap_or_else(|| {
        warn!("{}; builds wait until then", agents::none_ready());
        AgentName::default()
    })
}

/// SIGTERM and SIGINT.
pub(crate) struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Signals {
    /// Catches both signals from now on, so that they do not end the process.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
