//! The exit statuses of the program, and the status of each error.

use std::io;
use std::process::ExitCode;

use rdev_configuration::ConfigError;

use crate::client::ApiError;
use crate::usage::UsageError;

/// The exit statuses; README.md has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done.
    Done,
    /// 1: failed.
    Failed,
    /// 2: the build was cancelled.
    Cancelled,
    /// 4: the key is unknown, or it lacks the scope for this.
    NotAllowed,
    /// 64: the command line or a value in it is wrong.
    Usage,
    /// 78: the configuration is wrong.
    Config,
}

impl Exit {
    /// The exit status of an error; `None` if it is no failure at all: the reader of our output
    /// closed the pipe.
    pub(crate) fn of(error: &anyhow::Error) -> Option<Self> {
        for cause in error.chain() {
            if cause.is::<UsageError>() {
                return Some(Self::Usage);
            }
            if cause.is::<ConfigError>() {
                return Some(Self::Config);
            }
            if cause.is::<rdev_platform::connect::WrongSetting>() {
                return Some(Self::Config);
            }
            #[cfg(feature = "aws")]
            if cause.is::<rdev_aws::stack::StackError>() {
                return Some(Self::Config);
            }
            if let Some(api) = cause.downcast_ref::<ApiError>() {
                return Some(of_api(api));
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

fn of_api(error: &ApiError) -> Exit {
    match error.status() {
        Some(401 | 403) => Exit::NotAllowed,
        Some(400 | 413 | 415 | 422) => Exit::Usage,
        _ => Exit::Failed,
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
