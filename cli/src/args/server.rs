//! `rdev up`, `rdev quickstart`, `rdev backup` and `rdev restore`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use rdev_domain::spec::AgentName;

use super::values::not_empty;
use crate::agents;

/// `rdev up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The address to listen on [env: RDEV_LISTEN; default: 127.0.0.1:7777].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// Use the built-in sample as the agent `command`: it only writes the prompt into index.html.
    #[arg(long)]
    pub(crate) sample_agent: bool,
}

/// `rdev quickstart`.
#[derive(Debug, Args)]
pub(crate) struct Quickstart {
    /// The prompt for the agent.
    #[arg(long, value_name = "TEXT", default_value = DEFAULT_PROMPT, value_parser = not_empty)]
    pub(crate) prompt: String,
    #[arg(long, value_name = "NAME",
        help = agents::help("the first one that is installed and has a key"))]
    pub(crate) agent: Option<AgentName>,
}

/// `rdev backup`.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The file to write, which must not exist.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// `rdev restore`.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// A file of `rdev backup`.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// The prompt of the quickstart unless `--prompt` gives another.
pub(crate) const DEFAULT_PROMPT: &str =
    "Welcome visitors: say that this page was changed by a prompt and delivered as a commit.";
