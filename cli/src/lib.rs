//! `rdev`: the server, the quickstart and the client in one program.
//!
//! `up` and `quickstart` run `server`. `backup`, `restore` and `doctor` work on the data folder.
//! Every other command is a client of the HTTP API, and `quickstart` is one, too, once its server
//! runs.

mod admin;
mod agents;
mod args;
mod backup;
#[cfg(feature = "aws")]
mod bootstrap;
mod client;
mod command;
mod config;
mod doctor;
mod exit;
mod folder;
#[cfg(feature = "aws")]
mod local_aws;
mod log;
mod maintenance;
mod out;
mod progress;
mod quickstart;
mod sample_agent;
mod server;
mod summary;
mod up;
mod usage;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use rdev_configuration::Environment;

use crate::args::{Cli, Command};
use crate::command::Session;
use crate::exit::Exit;

/// Parses the command line, runs the command, and returns its exit status.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // If even this cannot be printed, nobody reads it.
            drop(error.print());
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => match Exit::of(&error) {
            Some(exit) => {
                out::note(format_args!("error: {error:#}"));
                exit.into()
            }
            None => Exit::Done.into(),
        },
    }
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    if matches!(cli.command, Command::SampleAgent) {
        sample_agent::run(Path::new("."))?;
        return Ok(Exit::Done);
    }
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed before this one"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let exit = runtime.block_on(Box::pin(dispatch(cli)));
    // A blocking call that hangs must not keep the process alive.
    runtime.shutdown_background();
    exit
}

async fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    let environment = Environment::of_process();
    let common = &cli.common;
    let session = || -> anyhow::Result<Session> {
        Ok(Session { client: client::connect(common, &environment)?, json: common.json })
    };
    match cli.command {
        Command::Up(up) => up::run(common, &up, &environment).await,
        Command::Quickstart(quickstart) => quickstart::run(common, &quickstart, &environment).await,
        Command::Backup(command) => backup::backup(common, command, &environment).await,
        Command::Restore(command) => backup::restore(common, command, &environment).await,
        Command::Project(command) => command::project::run(&session()?, command).await,
        Command::Build(command) => command::build::run(&session()?, command).await,
        Command::Domain(command) => command::domain::run(&session()?, command).await,
        Command::Pipeline(command) => command::pipeline::run(&session()?, command).await,
        Command::Template(command) => command::template::run(&session()?, command).await,
        Command::Doctor => doctor::run(common, &environment).await,
        Command::Work(command) => command::work::run(&session()?, command).await,
        Command::Worker(command) => command::worker::run(&session()?, command).await,
        Command::Key(command) => command::key::run(session, common.json, command).await,
        #[cfg(feature = "aws")]
        Command::LocalAws(args::local_aws::LocalAws::Up(up)) => {
            local_aws::run(common, &up, &environment).await
        }
        Command::SampleAgent => Ok(Exit::Done),
    }
}
