//! `rdev up`: serve until told to end.

use rdev_configuration::Environment;
use rdev_domain::spec::AgentName;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::args::{Common, Up};
use crate::config::{Config, Flags, NAMES};
use crate::exit::Exit;
use crate::server::{Ended, Server};
use crate::{agents, log};

/// Serves until SIGTERM or SIGINT, then lets running builds end; a second
/// signal gives them back at once.
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
        warn!("{name} is no setting of rdev; it has no effect");
    }
    if up.sample_agent {
        agents::use_sample(&mut config)?;
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
                    info!("giving back what runs");
                    server.drain_now();
                } else {
                    info!(
                        seconds = config.runner.drain_s,
                        "no new work; builds that run may end (a second signal gives them back)"
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

/// The agent of builds that name none.
pub(crate) fn default_agent(config: &Config) -> AgentName {
    if let Some(agent) = config.default_agent {
        return agent;
    }
    if agents::has_command(config) {
        return AgentName::Command;
    }
    agents::first_ready(config).unwrap_or_else(|| {
        warn!(
            "no agent is ready: install claude-code, opencode or codex and set its key, \
             or set agents.command.program; builds wait until then"
        );
        AgentName::default()
    })
}

/// SIGTERM and SIGINT.
pub(crate) struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on both are taken here instead of ending the process.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
