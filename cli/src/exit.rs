//! How the program ends: exit statuses, and which error means which.

use std::io;
use std::process::ExitCode;

use rdev_configuration::ConfigError;

use crate::client::ApiError;

/// The exit statuses; README.md has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done.
    Done,
    /// 1: failed.
    Failed,
    /// 2: the build was cancelled.
    Cancelled,
    /// 4: the key is unknown or may not do this.
    NotAllowed,
    /// 64: the command line or a value in it is wrong.
    Usage,
    /// 78: the configuration is wrong.
    Config,
}

/// The command line is well formed, but what it asks for makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

impl Exit {
    /// The status an error ends the program with; `None` when it is no failure
    /// at all: the reader of our output went away.
    pub(crate) fn of(error: &anyhow::Error) -> Option<Self> {
        for cause in error.chain() {
            if cause.is::<UsageError>() {
                return Some(Self::Usage);
            }
            if cause.is::<ConfigError>() {
                return Some(Self::Config);
            }
            if cause.is::<rdev_platform::config::Wrong>() {
                return Some(Self::Config);
            }
            #[cfg(feature = "aws")]
            if cause.is::<rdev_aws::stack::StackError>() {
                return Some(Self::Config);
            }
            if let Some(api) = cause.downcast_ref::<ApiError>() {
                return Some(api.exit());
            }
            if let Some(io) = cause.downcast_ref::<io::Error>()
                && io.kind() == io::ErrorKind::BrokenPipe
            {
                return None;
            }
        }
        Some(Self::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Cancelled => 2,
            Exit::NotAllowed => 4,
            Exit::Usage => 64,
            Exit::Config => 78,
        })
    }
}
