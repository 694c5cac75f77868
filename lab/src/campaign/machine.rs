//! Where rdev runs, in either shape.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;

use super::api::Place;
use super::aws::Aws;
use super::checker::left;
use super::checker::processes::Found;
use super::one_machine::{OneMachine, WORKER};

/// The processes of rdev.
pub(crate) enum Machine {
    OneMachine(OneMachine),
    Aws(Box<Aws>),
}

/// What was killed.
#[derive(Debug)]
pub(crate) enum Killed {
    /// The runner with this worker id; on one machine the API too.
    Runner(String),
    /// A process of the API alone, which needs no start.
    Api,
}

impl Machine {
    /// Starts everything for the first time: where the API is.
    pub(crate) async fn start(&mut self) -> Result<Place> {
        match self {
            Self::OneMachine(one) => one.start().await,
            Self::Aws(aws) => aws.start(),
        }
    }

    /// Lets some calls go wrong that the machine makes by itself.
    pub(crate) fn break_some(&self) {
        if let Self::Aws(aws) = self {
            aws.break_some();
        }
    }

    /// Lets nothing go wrong any more.
    pub(crate) fn heal(&self) {
        if let Self::Aws(aws) = self {
            aws.heal();
        }
    }

    /// Whether nothing has ended by itself.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        match self {
            Self::OneMachine(one) => one.still_runs(),
            Self::Aws(aws) => aws.still_runs(),
        }
    }

    /// SIGKILL for one of the processes.
    pub(crate) fn kill(&mut self, random: &mut StdRng) -> Result<Killed> {
        Ok(match self {
            Self::OneMachine(one) => {
                one.kill()?;
                Killed::Runner(WORKER.to_owned())
            }
            Self::Aws(aws) => aws.kill(random)?.map_or(Killed::Api, Killed::Runner),
        })
    }

    /// Those of the marked processes that the killed one has left behind.
    pub(crate) fn agents_of(&self, killed: &Killed, marked: Vec<Found>) -> Vec<Found> {
        match (self, killed) {
            (Self::OneMachine(_), _) => {
                marked.into_iter().filter(|found| !found.command.contains("git-server")).collect()
            }
            (Self::Aws(_), Killed::Runner(name)) => Aws::agents_of(name, marked),
            (Self::Aws(_), Killed::Api) => Vec::new(),
        }
    }

    /// How long what a killed runner has left behind may live on after [`Machine::restart`].
    pub(crate) fn last_moments(&self) -> Duration {
        match self {
            Self::OneMachine(_) => Duration::ZERO,
            Self::Aws(_) => Duration::from_secs(10),
        }
    }

    /// Whether a repository is in the data folder, so that a runner moves its refs by itself.
    pub(crate) fn owns(&self, repository: &Path) -> bool {
        match self {
            Self::OneMachine(one) => repository.starts_with(one.data()),
            Self::Aws(_) => false,
        }
    }

    /// Starts the killed one again: where the API is now.
    pub(crate) async fn restart(&mut self, killed: &Killed) -> Result<Place> {
        match (self, killed) {
            (Self::OneMachine(one), _) => one.start().await,
            (Self::Aws(aws), Killed::Runner(name)) => aws.restart(name).map(|()| aws.place()),
            (Self::Aws(aws), Killed::Api) => Ok(aws.place()),
        }
    }

    /// SIGSTOP for one of the processes, and SIGCONT after a while.
    pub(crate) async fn pause(&mut self, pause: Duration, random: &mut StdRng) -> Result<()> {
        match self {
            Self::OneMachine(one) => one.pause(pause).await,
            Self::Aws(aws) => aws.pause(pause, random).await,
        }
    }

    /// SIGTERM for one of the processes, and its next start: where the API is now.
    pub(crate) async fn drain(&mut self, random: &mut StdRng) -> Result<Place> {
        match self {
            Self::OneMachine(one) => {
                one.stop().await?;
                one.start().await
            }
            Self::Aws(aws) => aws.drain(random).await.map(|()| aws.place()),
        }
    }

    /// Starts runners anew that have been there for long: where the API is now. A runner that has
    /// just started forgets the work of tasks that others have ended; else it would only do so
    /// within the hour.
    pub(crate) async fn refresh(&mut self) -> Result<Place> {
        match self {
            Self::OneMachine(one) => {
                one.stop().await?;
                one.start().await
            }
            Self::Aws(aws) => {
                aws.stop().await?;
                aws.start()
            }
        }
    }

    /// What is left in the store of tasks that run or wait.
    pub(crate) async fn left_in_store(&self) -> Result<Vec<String>> {
        match self {
            Self::OneMachine(one) => left::in_database(&one.data().join("rdev.db")),
            Self::Aws(aws) => Ok(left::in_table(&aws.items().await?)),
        }
    }

    /// The data folders of the runners.
    pub(crate) fn folders(&self) -> Vec<&Path> {
        match self {
            Self::OneMachine(one) => vec![one.data()],
            Self::Aws(aws) => aws.folders().collect(),
        }
    }

    /// Lets everything end.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        match self {
            Self::OneMachine(one) => one.stop().await,
            Self::Aws(aws) => aws.stop().await,
        }
    }
}
