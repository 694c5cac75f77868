//! `rdev project` and `rdev template`.

use clap::{Args, Subcommand};
use rdev_domain::git::Branch;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::ProjectId;
use rdev_domain::pull_request::Deliver;
use rdev_domain::spec::AgentName;

use super::values::{Paging, PullRequestArgs, not_empty};
use crate::agents;

/// `rdev project …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Project {
    /// Create a project, with a new repository or for an existing one.
    Create(Box<ProjectCreate>),
    /// List projects, newest first.
    List(Paging),
    /// Show one project.
    Show {
        /// The project's name.
        name: ProjectId,
    },
    /// Run the steps of a project's creation that have failed or are not done yet.
    Provision {
        /// The project's name.
        name: ProjectId,
    },
    /// Delete a project. The server refuses while one of its tasks runs.
    Delete {
        /// The project's name.
        name: ProjectId,
        /// Delete the repository, too.
        #[arg(long)]
        delete_repository: bool,
    },
}

/// `rdev project create`.
#[derive(Debug, Args)]
pub(crate) struct ProjectCreate {
    /// The project's name: a-z, 0-9 and '-', at most 40 characters.
    pub(crate) name: ProjectId,
    /// A description for people.
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// The template of the new repository; `rdev template list` lists them.
    #[arg(long, value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// Start a build at once, with this prompt for the agent.
    #[arg(long, value_name = "TEXT", value_parser = not_empty,
        conflicts_with_all = ["git_url", "no_repository", "default_branch", "build_limit"])]
    pub(crate) prompt: Option<String>,
    #[arg(long, value_name = "NAME", requires = "prompt",
        help = agents::help("the server's default; requires --prompt"))]
    pub(crate) agent: Option<AgentName>,
    /// Follow the build and exit with a status that tells how it ended; requires --prompt.
    #[arg(short, long, requires = "prompt")]
    pub(crate) follow: bool,
    /// Give the project a domain: this one, or NAME.<zone> if the option has no value.
    #[arg(long, value_name = "DOMAIN", num_args = 0..=1)]
    pub(crate) domain: Option<Option<String>>,
    /// The URL that gets a webhook when a build ends. RDEV_WEBHOOK_SECRET holds the signing secret.
    #[arg(long, value_name = "URL")]
    pub(crate) webhook_url: Option<String>,
    /// Use an existing repository instead of a new one.
    #[arg(long, value_name = "URL", conflicts_with = "template")]
    pub(crate) git_url: Option<GitUrl>,
    /// Create no repository; every build then needs --git-url.
    #[arg(long, conflicts_with_all = ["template", "git_url"])]
    pub(crate) no_repository: bool,
    /// The branch of builds that do not set one; default: main.
    #[arg(long, value_name = "BRANCH")]
    pub(crate) default_branch: Option<Branch>,
    /// The number of builds that may run at once: 1 to 100.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) build_limit: Option<u32>,
    /// How builds deliver that do not say so: branch (the default) or pull_request.
    #[arg(long, value_name = "HOW")]
    pub(crate) deliver: Option<Deliver>,
    #[command(flatten)]
    pub(crate) options: PullRequestArgs,
}

/// `rdev template …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Template {
    /// List the templates.
    List,
}
