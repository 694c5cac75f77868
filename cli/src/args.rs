//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use rdev_domain::dns::RecordKind;
use rdev_domain::git::Branch;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::{KeyId, ProjectId, TaskId, WorkerId};
use rdev_domain::key::Scope;
use rdev_domain::spec::AgentName;
use ulid::Ulid;

/// A prompt goes in, a pushed commit comes out.
///
/// Exit status: 0 done, 1 failed, 2 cancelled, 4 not allowed, 64 bad usage, 78 bad configuration.
#[derive(Debug, Parser)]
#[command(name = "rdev", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// What applies to every command.
    #[command(flatten)]
    pub(crate) common: Common,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What applies to every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The configuration file [env: RDEV_CONFIG; else ./rdev.toml, else rdev.toml in the data folder].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The data folder [env: RDEV_DATA_DIR; else $XDG_DATA_HOME/rdev, else ~/.local/share/rdev].
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The server of the client commands [env: RDEV_URL; else the one that runs on the data folder].
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Print what the server answered, as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How log lines are written.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve: API, runner and maintenance in one process, until SIGTERM or SIGINT.
    Up(Up),
    /// Start everything, make a project, build it once, show the commit.
    Quickstart(Quickstart),
    /// Projects.
    #[command(subcommand)]
    Project(Project),
    /// Builds of a project.
    #[command(subcommand)]
    Build(Build),
    /// Names of a project in DNS.
    #[command(subcommand)]
    Domain(Domain),
    /// What a project's CI did.
    #[command(subcommand)]
    Pipeline(Pipeline),
    /// What new projects may start with.
    #[command(subcommand)]
    Template(Template),
    /// The raw queue.
    #[command(subcommand)]
    Work(Work),
    /// The processes that run builds.
    #[command(subcommand)]
    Worker(Worker),
    /// API keys.
    #[command(subcommand)]
    Key(Key),
    /// Look at everything that is configured, and say how to mend what is not right.
    Doctor,
    /// The AWS shape on this machine.
    #[cfg(feature = "aws")]
    #[command(subcommand)]
    LocalAws(LocalAws),
    /// The sample agent: reads a prompt from stdin and puts it on the page index.html.
    #[command(hide = true)]
    SampleAgent,
}

/// `rdev up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The address to listen on [env: RDEV_LISTEN; default: 127.0.0.1:7777].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// Offer the built-in sample as the agent `command`: it only writes the prompt into index.html.
    #[arg(long)]
    pub(crate) sample_agent: bool,
}

/// `rdev quickstart`.
#[derive(Debug, Args)]
pub(crate) struct Quickstart {
    /// What to ask the agent for.
    #[arg(long, value_name = "TEXT", default_value = DEFAULT_PROMPT, value_parser = words)]
    pub(crate) prompt: String,
    /// The agent: claude-code, opencode, codex or command; else the first that is installed and has a key.
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: Option<AgentName>,
}

/// What the quickstart asks for unless told otherwise.
pub(crate) const DEFAULT_PROMPT: &str =
    "Welcome visitors: say that this page was changed by a prompt and delivered as a commit.";

/// `rdev project …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Project {
    /// Make a project with a repository of its own, or for one that is there.
    Create(ProjectCreate),
    /// List projects, newest first.
    List(Paging),
    /// Show one project.
    Show {
        /// The project.
        name: ProjectId,
    },
    /// Go on with what a project gets, after a step failed.
    Provision {
        /// The project.
        name: ProjectId,
    },
    /// Delete a project; refused while a task of it runs.
    Delete {
        /// The project.
        name: ProjectId,
        /// Delete its repository too.
        #[arg(long)]
        delete_repository: bool,
    },
}

/// `rdev project create`.
#[derive(Debug, Args)]
pub(crate) struct ProjectCreate {
    /// Its name: a-z, 0-9 and '-', at most 40 characters.
    pub(crate) name: ProjectId,
    /// For people.
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// What its repository starts with; `rdev template list` has the names.
    #[arg(long, value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// Build it at once: what to ask the agent for.
    #[arg(long, value_name = "TEXT", value_parser = words,
        conflicts_with_all = ["git_url", "no_repository", "default_branch", "build_limit"])]
    pub(crate) prompt: Option<String>,
    /// The agent of that build; the server's default otherwise.
    #[arg(long, value_name = "NAME", requires = "prompt")]
    pub(crate) agent: Option<AgentName>,
    /// Follow that build and exit with its end state.
    #[arg(short, long, requires = "prompt")]
    pub(crate) follow: bool,
    /// A name in DNS: NAME.<zone> unless another one is given.
    #[arg(long, value_name = "DOMAIN", num_args = 0..=1)]
    pub(crate) domain: Option<Option<String>>,
    /// Who is told when a build ends; the secret that signs it is read from RDEV_WEBHOOK_SECRET.
    #[arg(long, value_name = "URL")]
    pub(crate) webhook_url: Option<String>,
    /// A repository that is there already, instead of a new one.
    #[arg(long, value_name = "URL", conflicts_with = "template")]
    pub(crate) git_url: Option<GitUrl>,
    /// No repository: each build names its own.
    #[arg(long, conflicts_with_all = ["template", "git_url"])]
    pub(crate) no_repository: bool,
    /// The branch that builds use unless they name another.
    #[arg(long, value_name = "BRANCH")]
    pub(crate) default_branch: Option<Branch>,
    /// How many of its builds may run at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) build_limit: Option<u32>,
}

/// `rdev build …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Build {
    /// Start a build.
    Start(Box<BuildStart>),
    /// List a project's builds, newest first.
    List {
        /// The project.
        project: ProjectId,
        /// Which part of the list.
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a build: its spec, result, attempts and cost.
    Show(BuildRef),
    /// Print a build's log; with -f, follow it and exit with the build's end state.
    Logs {
        /// The build.
        #[command(flatten)]
        build: BuildRef,
        /// Go on until the build ends.
        #[arg(short, long)]
        follow: bool,
    },
    /// Print the diff a build made.
    Diff(BuildRef),
    /// Cancel a build.
    Cancel(BuildRef),
    /// Do a failed or cancelled build again.
    Retry {
        /// The build.
        #[command(flatten)]
        build: BuildRef,
        /// Follow the new build and exit with its end state.
        #[arg(short, long)]
        follow: bool,
    },
}

/// Names a build.
#[derive(Debug, Args)]
pub(crate) struct BuildRef {
    /// The build's task id; its project may stand before it.
    #[arg(num_args = 1..=2, required = true, value_names = ["PROJECT", "TASK"])]
    pub(crate) ids: Vec<String>,
}

/// `rdev build start`.
#[derive(Debug, Args)]
pub(crate) struct BuildStart {
    /// The project.
    pub(crate) project: ProjectId,
    /// What to ask the agent for; `-` reads it from stdin.
    #[arg(value_name = "PROMPT", required_unless_present = "prompt", conflicts_with = "prompt")]
    pub(crate) text: Option<String>,
    /// The same, as an option.
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// claude-code, opencode, codex or command; the server's default otherwise.
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: Option<AgentName>,
    /// The model, in the agent's own naming.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// The branch to build on and deliver to.
    #[arg(long, value_name = "BRANCH")]
    pub(crate) branch: Option<Branch>,
    /// Keep only the diff.
    #[arg(long)]
    pub(crate) no_commit: bool,
    /// Keep the commit at refs/rdev/kept/TASK instead of pushing the branch.
    #[arg(long)]
    pub(crate) no_push: bool,
    /// Deliver to a branch of its own and open a pull request.
    #[arg(long)]
    pub(crate) pull_request: bool,
    /// A shell command that must succeed before anything is committed; may be repeated.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) verify: Vec<String>,
    /// Seconds that one attempt may take: 1 to 7200.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout_s: Option<u32>,
    /// Seconds that the agent may be silent: 1 to 7200.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) stall_timeout_s: Option<u32>,
    /// Model turns that the agent may take.
    #[arg(long, value_name = "N")]
    pub(crate) max_turns: Option<u32>,
    /// US dollars that the agent may spend.
    #[arg(long, value_name = "USD")]
    pub(crate) max_cost_usd: Option<f64>,
    /// The repository, where the project gives none.
    #[arg(long, value_name = "URL")]
    pub(crate) git_url: Option<GitUrl>,
    /// A finished build of the project whose agent session goes on.
    #[arg(long, value_name = "TASK")]
    pub(crate) continue_from: Option<TaskId>,
    /// The commit's message; made from the prompt otherwise.
    #[arg(long, value_name = "TEXT")]
    pub(crate) commit_message: Option<String>,
    /// 0 to 9, higher first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    pub(crate) priority: Option<u8>,
    /// How many attempts it may have: 1 to 10.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10))]
    pub(crate) max_attempts: Option<u32>,
    /// Makes it safe to run the same command twice: the second gets the first one's answer.
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Follow the build and exit with its end state.
    #[arg(short, long)]
    pub(crate) follow: bool,
}

/// `rdev domain …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Domain {
    /// Add a domain, or change where it leads.
    Add {
        /// The project.
        project: ProjectId,
        /// A name in the zone, or a bare label, which becomes LABEL.<zone>; the project's name otherwise.
        domain: Option<String>,
        /// A or CNAME; with --target.
        #[arg(long = "type", value_name = "TYPE", requires = "target")]
        kind: Option<RecordKind>,
        /// An IPv4 address, or a name; with --type.
        #[arg(long, value_name = "TARGET", requires = "kind")]
        target: Option<String>,
        /// Put the provider's proxy before it, or not.
        #[arg(long, value_name = "BOOL")]
        proxied: Option<bool>,
        /// Seconds that answers may be kept: 60 to 86400, or 1 for the provider's own choice.
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
    },
    /// List a project's domains, newest first.
    List {
        /// The project.
        project: ProjectId,
        /// Which part of the list.
        #[command(flatten)]
        paging: Paging,
    },
    /// Remove a domain and its record.
    Remove {
        /// The project.
        project: ProjectId,
        /// The name, or the bare label.
        #[arg(value_parser = name)]
        domain: String,
    },
}

/// `rdev pipeline …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Pipeline {
    /// List a project's pipelines, newest first.
    List {
        /// The project.
        project: ProjectId,
        /// Only of this branch.
        #[arg(long, value_name = "BRANCH")]
        branch: Option<String>,
        /// Only in this state.
        #[arg(long, value_name = "STATUS")]
        status: Option<String>,
        /// Which part of the list.
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a pipeline and its steps.
    Show {
        /// The project.
        project: ProjectId,
        /// The pipeline's number; the newest otherwise.
        number: Option<u64>,
        /// Wait until it has ended, and exit with 1 unless it was a success.
        #[arg(short, long)]
        follow: bool,
        /// The pipeline of this commit; with --follow, wait until there is one.
        #[arg(long, value_name = "SHA", conflicts_with = "number")]
        commit: Option<String>,
    },
    /// Print the logs of a pipeline's steps.
    Logs {
        /// The project.
        project: ProjectId,
        /// The pipeline's number; the newest otherwise.
        number: Option<u64>,
        /// Only of the step with this name.
        #[arg(long, value_name = "NAME")]
        step: Option<String>,
    },
}

/// `rdev template …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Template {
    /// List what new projects may start with.
    List,
}

/// Which part of a list.
#[derive(Debug, Args)]
pub(crate) struct Paging {
    /// How many entries: 1 to 100.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) limit: u32,
    /// Where the page before ended.
    #[arg(long, value_name = "CURSOR")]
    pub(crate) cursor: Option<String>,
}

/// `rdev work …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Work {
    /// List tasks of every type and project, newest first.
    List(Paging),
    /// How much there is to do.
    Stats,
    /// List messages that could not be delivered.
    Dead(Paging),
    /// Wake up for dead letters and do failed tasks again: all of them, or those named.
    Redrive(Redrive),
}

/// `rdev work redrive`: everything, unless something is named.
#[derive(Debug, Args)]
pub(crate) struct Redrive {
    /// Dead letters to send again.
    #[arg(long = "letter", value_name = "ID")]
    pub(crate) letters: Vec<Ulid>,
    /// Failed or cancelled tasks to do again, on the same lineage.
    #[arg(long = "task", value_name = "TASK")]
    pub(crate) tasks: Vec<TaskId>,
}

/// `rdev worker …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Worker {
    /// List workers.
    List(Paging),
    /// Let a worker end what it runs and take nothing new.
    Drain {
        /// The worker.
        id: WorkerId,
    },
    /// Let a drained worker take work again.
    Resume {
        /// The worker.
        id: WorkerId,
    },
}

/// `rdev key …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key. It is printed once and can never be shown again.
    Create {
        /// What people call it.
        name: String,
        /// What it allows, as builds:write; may be repeated.
        #[arg(long = "scope", value_name = "SCOPE", required = true, value_delimiter = ',')]
        scopes: Vec<Scope>,
    },
    /// List keys, without their secrets.
    List(Paging),
    /// Revoke a key.
    Revoke {
        /// The key's id.
        id: KeyId,
    },
    /// Write the first key straight into the table on AWS, with your own rights there.
    #[cfg(feature = "aws")]
    Bootstrap(Bootstrap),
}

/// `rdev key bootstrap`.
#[cfg(feature = "aws")]
#[derive(Debug, Args)]
pub(crate) struct Bootstrap {
    /// The stack whose table it is.
    #[arg(long, value_name = "NAME", required_unless_present = "table", conflicts_with = "table")]
    pub(crate) stack: Option<String>,
    /// The table itself.
    #[arg(long, value_name = "NAME")]
    pub(crate) table: Option<String>,
    /// What people call the key.
    #[arg(long, value_name = "TEXT", default_value = "bootstrap", value_parser = words)]
    pub(crate) name: String,
    /// What it allows; may be repeated.
    #[arg(long = "scope", value_name = "SCOPE", default_value = "admin", value_delimiter = ',')]
    pub(crate) scopes: Vec<Scope>,
}

/// `rdev local-aws …`.
#[cfg(feature = "aws")]
#[derive(Debug, Subcommand)]
pub(crate) enum LocalAws {
    /// Deploy everything to an emulator on this machine and run builds, until SIGTERM or SIGINT.
    Up(LocalAwsUp),
}

/// `rdev local-aws up`. Run it in a checkout of rdev.
#[cfg(feature = "aws")]
#[derive(Debug, Args)]
pub(crate) struct LocalAwsUp {
    /// Use LocalStack (Docker) instead of MiniStack (Python). Nobody has tried this.
    #[arg(long)]
    pub(crate) localstack: bool,
    /// Offer the built-in sample as the agent `command`: it only writes the prompt into index.html.
    #[arg(long)]
    pub(crate) sample_agent: bool,
}

/// A text that can stand in a path as it is.
fn name(text: &str) -> Result<String, &'static str> {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !"/?#%\\".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("must be a name")
    }
}

/// A text that says something.
fn words(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("must not be empty") } else { Ok(text.to_owned()) }
}
