//! The command line: the commands, and the options of all of them. Each family of commands has a
//! file of its own.

pub(crate) mod build;
pub(crate) mod domain;
pub(crate) mod key;
#[cfg(feature = "aws")]
pub(crate) mod local_aws;
pub(crate) mod pipeline;
pub(crate) mod project;
pub(crate) mod server;
pub(crate) mod values;
pub(crate) mod work;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A prompt goes in, a pushed commit comes out.
///
/// Exit status: 0 done, 1 failed, 2 cancelled, 4 not allowed, 64 bad usage, 78 bad configuration.
#[derive(Debug, Parser)]
#[command(name = "rdev", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The options of all commands.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The configuration file [env: RDEV_CONFIG; default: ./rdev.toml, else rdev.toml in the data
    /// folder].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The data folder [env: RDEV_DATA_DIR; default: $XDG_DATA_HOME/rdev, else
    /// ~/.local/share/rdev].
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The server for client commands [env: RDEV_URL; default: the server that uses the data
    /// folder].
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Print the server's answer as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The format of log lines.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Plain text, for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// A command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server: API, runner and maintenance in one process, until SIGTERM or SIGINT.
    Up(server::Up),
    /// Start a server, create a project, build it once and show the commit.
    Quickstart(server::Quickstart),
    /// Back the data folder up to a file: store, repositories and unpushed work. The server may
    /// run.
    Backup(server::Backup),
    /// Restore a backup into the data folder, which must be empty or absent.
    Restore(server::Restore),
    /// Create, list, show and delete projects.
    #[command(subcommand)]
    Project(project::Project),
    /// Start, follow and inspect the builds of a project.
    #[command(subcommand)]
    Build(build::Build),
    /// Manage the domains (DNS names) of a project.
    #[command(subcommand)]
    Domain(domain::Domain),
    /// Inspect the CI pipelines of a project.
    #[command(subcommand)]
    Pipeline(pipeline::Pipeline),
    /// List the templates for new projects.
    #[command(subcommand)]
    Template(project::Template),
    /// Inspect the queue of tasks.
    #[command(subcommand)]
    Work(work::Work),
    /// Inspect and drain workers, the processes that run builds.
    #[command(subcommand)]
    Worker(work::Worker),
    /// Manage API keys.
    #[command(subcommand)]
    Key(key::Key),
    /// Check the configuration and the systems around it, and say how to fix what is wrong.
    Doctor,
    /// Run the AWS shape of rdev on this machine.
    #[cfg(feature = "aws")]
    #[command(subcommand)]
    LocalAws(local_aws::LocalAws),
    /// Run the sample agent: it reads a prompt from stdin and adds it to the page index.html.
    #[command(hide = true)]
    SampleAgent,
}
