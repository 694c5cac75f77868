//! `rdev local-aws`.

use clap::{Args, Subcommand};

/// `rdev local-aws …`.
#[derive(Debug, Subcommand)]
pub(crate) enum LocalAws {
    /// Deploy rdev to an AWS emulator on this machine and run builds, until SIGTERM or SIGINT.
    Up(LocalAwsUp),
}

/// `rdev local-aws up`. Run it in a checkout of rdev.
#[derive(Debug, Args)]
pub(crate) struct LocalAwsUp {
    /// Use LocalStack (Docker) instead of MiniStack (Python). This is untested.
    #[arg(long)]
    pub(crate) localstack: bool,
    /// Use the built-in sample as the agent `command`: it only writes the prompt into index.html.
    #[arg(long)]
    pub(crate) sample_agent: bool,
}
