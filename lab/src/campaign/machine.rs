//! Where rdev runs, in either shape.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;

use super::api::Place;
use super::checker::processes::Found;
use super::one_machine::{OneMachine, WORKER};

/// The processes of rdev.
pub(crate) enum Machine {
    OneMachine(OneMachine),
}

/// What was killed.
#[derive(Debug)]
pub(crate) struct Killed {
    /// The worker id of the runner; `None`: a process of the API alone.
    pub(crate) worker: Option<String>,
}

impl Machine {
    /// Starts everything for the first time: where the API is.
    pub(crate) async fn start(&mut self) -> Result<Place> {
        match self {
            Self::OneMachine(one) => one.start().await,
        }
    }

    /// Whether nothing has ended by itself.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        match self {
            Self::OneMachine(one) => one.still_runs(),
        }
    }

    /// SIGKILL for one of the processes.
    pub(crate) fn kill(&mut self, _random: &mut StdRng) -> Result<Killed> {
        match self {
            Self::OneMachine(one) => {
                one.kill()?;
                Ok(Killed { worker: Some(WORKER.to_owned()) })
            }
        }
    }

    /// Those of the marked processes that the killed one has left behind.
    pub(crate) fn agents_of(&self, _killed: &Killed, marked: Vec<Found>) -> Vec<Found> {
        match self {
            Self::OneMachine(_) => {
                marked.into_iter().filter(|found| !found.command.contains("git-server")).collect()
            }
        }
    }

    /// Whether a repository is in the data folder, so that a runner moves its refs by itself.
    pub(crate) fn owns(&self, repository: &Path) -> bool {
        match self {
            Self::OneMachine(one) => repository.starts_with(one.data()),
        }
    }

    /// Starts the killed one again: where the API is now.
    pub(crate) async fn restart(&mut self, _killed: &Killed) -> Result<Place> {
        match self {
            Self::OneMachine(one) => one.start().await,
        }
    }

    /// SIGSTOP for one of the processes, and SIGCONT after a while.
    pub(crate) async fn pause(&mut self, pause: Duration, _random: &mut StdRng) -> Result<()> {
        match self {
            Self::OneMachine(one) => one.pause(pause).await,
        }
    }

    /// SIGTERM for one of the processes, and its next start: where the API is now.
    pub(crate) async fn drain(&mut self, _random: &mut StdRng) -> Result<Place> {
        match self {
            Self::OneMachine(one) => {
                one.stop().await?;
                one.start().await
            }
        }
    }

    /// Lets everything end.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        match self {
            Self::OneMachine(one) => one.stop().await,
        }
    }
}
