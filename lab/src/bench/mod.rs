//! A benchmark: a warm build of rdev against the script that a person would write for the same
//! work, side by side over HTTP.
//!
//! Both do the same to repositories that are alike: the agent's command changes one file, the verify
//! command runs, the change is committed and pushed. The script clones and pushes once. rdev is a
//! real `rdev up` that is asked over its API, and has a mirror of the repository. Each round does
//! both, in another order than the round before, so that what else the machine does meets both.

mod build;
mod forge;
mod report;
mod script;
mod trace;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use tokio::runtime::Runtime;

use crate::campaign::note;
use build::Server;
use forge::Forge;
use report::Round;

pub use report::Report;

/// Measures a warm build against the script that does the same: clone, agent, verify, commit, one
/// push.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench")]
pub struct Options {
    /// The git server: one whose hooks take 120 ms each, or one without hooks.
    #[arg(long)]
    pub forge: Kind,
    /// How often each side is measured.
    #[arg(long, default_value_t = 30)]
    pub rounds: usize,
    /// Rounds before that, which are not counted.
    #[arg(long, default_value_t = 3)]
    pub warm_up: usize,
    /// The agent takes so many milliseconds.
    #[arg(long, default_value_t = 0)]
    pub agent_ms: u64,
    /// Both run a verify command that takes so many milliseconds; default: none.
    #[arg(long)]
    pub verify_ms: Option<u64>,
    /// The server is a Gitea, whose API rdev uses and which answers after so many milliseconds;
    /// several, as `0,150`, are compared. Default: a git server without an API.
    #[arg(long, value_delimiter = ',')]
    pub api_ms: Vec<u64>,
    /// Files of the repository.
    #[arg(long, default_value_t = 10)]
    pub files: usize,
    /// Bytes of each.
    #[arg(long, default_value_t = 1000)]
    pub file_bytes: usize,
    /// The script clones no more than so many commits; default: all.
    #[arg(long)]
    pub depth: Option<u32>,
    /// Shows where the time of a build goes.
    #[arg(long)]
    pub trace: bool,
    /// The program `rdev`; default: builds it.
    #[arg(long)]
    pub rdev: Option<PathBuf>,
}

/// The git server's hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// `pre-receive`, `update` (for each ref) and `post-receive` take 120 ms each.
    Slow,
    /// None.
    Bare,
}

/// The work of one round.
#[derive(Debug, Clone)]
struct Work {
    /// What the agent's shell runs.
    prompt: String,
    /// What verifies it.
    verify: Option<String>,
}

impl Work {
    fn of(options: &Options, round: usize) -> Self {
        let seconds = |millis: u64| Duration::from_millis(millis).as_secs_f64();
        let change = format!("echo round {round} > file-0.txt");
        let prompt = match options.agent_ms {
            0 => change,
            millis => format!("sleep {}; {change}", seconds(millis)),
        };
        let verify = options.verify_ms.map(|millis| format!("sleep {}", seconds(millis)));
        Self { prompt, verify }
    }
}

/// Measures.
///
/// # Errors
/// When something does not start, or one of the sides fails.
pub fn run(options: &Options) -> Result<Report> {
    let apis: Vec<Option<u64>> = match options.api_ms.as_slice() {
        [] => vec![None],
        apis => apis.iter().copied().map(Some).collect(),
    };
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let runtime = Runtime::new().context("cannot start a runtime")?;
    runtime.block_on(async {
        let mut servers = Vec::new();
        for (n, api_ms) in apis.iter().enumerate() {
            let forge = Forge::start(options, *api_ms);
            let folder = folder.path().join(n.to_string());
            servers.push(Server::start(options, forge, &folder).await?);
        }
        let mut rounds = Vec::new();
        for round in 0..options.warm_up + options.rounds {
            let done = one_round(options, &mut servers, folder.path(), round).await?;
            if round >= options.warm_up {
                rounds.push(done);
            }
            if round % 10 == 9 {
                note(format_args!("{} of {} rounds", rounds.len(), options.rounds));
            }
        }
        for mut server in servers {
            server.stop().await?;
        }
        Ok(Report { options: options.clone(), apis, rounds })
    })
}

/// Runs a build on each server, and the script against the first one's forge; every other time from
/// the last to the first.
async fn one_round(
    options: &Options,
    servers: &mut [Server],
    folder: &Path,
    round: usize,
) -> Result<Round> {
    let work = Work::of(options, round);
    let mut builds = vec![None; servers.len()];
    let mut script = None;
    // The number after the servers' is the script's.
    let mut order: Vec<usize> = (0..=servers.len()).collect();
    if !round.is_multiple_of(2) {
        order.reverse();
    }
    for n in order {
        match servers.get_mut(n) {
            Some(server) => builds[n] = Some(server.build(&work).await?),
            None => {
                script = Some(script::run(folder, &servers[0].forge, options.depth, &work).await?)
            }
        }
    }
    let builds = builds.into_iter().flatten().collect();
    Ok(Round { builds, script: script.context("the script did not run")? })
}
