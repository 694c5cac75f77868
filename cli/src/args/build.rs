//! `rdev build`.

use clap::{Args, Subcommand};
use rdev_domain::git::Branch;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::spec::AgentName;

use super::values::{Paging, PullRequestArgs};
use crate::agents;

/// `rdev build …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Build {
    /// Start a build.
    Start(Box<BuildStart>),
    /// List a project's builds, newest first.
    List {
        /// The project's name.
        project: ProjectId,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a build: its state, result, attempts and cost.
    Show(BuildRef),
    /// Print a build's log. With -f, follow it and exit with a status that tells how the build
    /// ended.
    Logs {
        #[command(flatten)]
        build: BuildRef,
        /// Follow the log until the build ends.
        #[arg(short, long)]
        follow: bool,
    },
    /// Print the diff of a build.
    Diff(BuildRef),
    /// Cancel a build.
    Cancel(BuildRef),
    /// Start a failed or cancelled build again.
    Retry {
        #[command(flatten)]
        build: BuildRef,
        /// Follow the new build and exit with a status that tells how it ended.
        #[arg(short, long)]
        follow: bool,
    },
}

/// Identifies a build.
#[derive(Debug, Args)]
pub(crate) struct BuildRef {
    /// The build's task id, optionally after its project.
    #[arg(num_args = 1..=2, required = true, value_names = ["PROJECT", "TASK"])]
    pub(crate) ids: Vec<String>,
}

/// `rdev build start`.
#[derive(Debug, Args)]
pub(crate) struct BuildStart {
    /// The project's name.
    pub(crate) project: ProjectId,
    /// The prompt for the agent; `-` reads it from stdin.
    #[arg(value_name = "PROMPT", required_unless_present = "prompt", conflicts_with = "prompt")]
    pub(crate) text: Option<String>,
    /// The prompt as an option, instead of the argument.
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    #[arg(long, value_name = "NAME", help = agents::help("the server's default"))]
    pub(crate) agent: Option<AgentName>,
    /// The model, by the name that the agent uses.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// The branch to start from and to push to; default: the project's.
    #[arg(long, value_name = "BRANCH")]
    pub(crate) branch: Option<Branch>,
    /// Do not commit; keep only the diff.
    #[arg(long)]
    pub(crate) no_commit: bool,
    /// Do not push the branch; keep the commit at refs/rdev/kept/TASK.
    #[arg(long)]
    pub(crate) no_push: bool,
    /// Push to a new branch and open a pull request; default: as the project's deliver says.
    #[arg(long)]
    pub(crate) pull_request: bool,
    /// Push to the branch itself, also if the project's builds deliver by pull requests.
    #[arg(long, conflicts_with = "pull_request")]
    pub(crate) no_pull_request: bool,
    #[command(flatten)]
    pub(crate) options: PullRequestArgs,
    /// A shell command that must succeed before rdev commits; can be repeated.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) verify: Vec<String>,
    /// The time limit of one attempt in seconds: 1 to 7200.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout_s: Option<u32>,
    /// The time in seconds that the agent may be silent: 1 to 7200.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) stall_timeout_s: Option<u32>,
    /// The maximum number of model turns.
    #[arg(long, value_name = "N")]
    pub(crate) max_turns: Option<u32>,
    /// The maximum cost of the agent, in US dollars.
    #[arg(long, value_name = "USD")]
    pub(crate) max_cost_usd: Option<f64>,
    /// The repository, if the project has none.
    #[arg(long, value_name = "URL")]
    pub(crate) git_url: Option<GitUrl>,
    /// Continue the agent session of this build; it must have ended and belong to the project.
    #[arg(long, value_name = "TASK")]
    pub(crate) continue_from: Option<TaskId>,
    /// The commit message; default: a message made from the prompt.
    #[arg(long, value_name = "TEXT")]
    pub(crate) commit_message: Option<String>,
    /// The priority: 0 to 9, higher first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    pub(crate) priority: Option<u8>,
    /// The maximum number of attempts: 1 to 10; default: 3.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10))]
    pub(crate) max_attempts: Option<u32>,
    /// A key that makes it safe to run the command twice: the second run returns the first answer.
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Follow the build and exit with a status that tells how it ended.
    #[arg(short, long)]
    pub(crate) follow: bool,
}
