//! What a campaign is asked to do, and the builds that it asks for.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// Starts real processes of rdev, kills them at random moments while builds run, lets people change
/// the repositories meanwhile, and then checks that every promise was kept.
#[derive(Debug, Clone, Parser)]
#[command(name = "chaos")]
pub struct Options {
    /// What runs.
    #[arg(long)]
    pub shape: Shape,
    /// Builds to ask for.
    #[arg(long, default_value_t = 200)]
    pub builds: usize,
    /// Processes to kill: runners, the API, the git server.
    #[arg(long, default_value_t = 50)]
    pub kills: usize,
    /// Acts of people; default: three for each twenty builds.
    #[arg(long)]
    pub people: Option<usize>,
    /// The most attempts of a build. A kill spends one, and each doubles the backoff after the next
    /// failure, which is waited for at the end: so there are not the ten that a build may have.
    #[arg(long, default_value_t = 6)]
    pub attempts: u32,
    /// Repeats the random choices of an earlier campaign (not its timing).
    #[arg(long)]
    pub seed: u64,
    /// The program `rdev`, with its feature `aws` for `--shape aws`; default: builds it.
    #[arg(long)]
    pub rdev: Option<PathBuf>,
    /// The program `rdev-runner`, for `--shape aws`; default: builds it.
    #[arg(long)]
    pub runner: Option<PathBuf>,
    /// The folder with the functions, for `--shape aws`; default: builds them.
    #[arg(long)]
    pub functions: Option<PathBuf>,
    /// The folder for everything that the campaign writes, which stays; default: a temporary one,
    /// which stays only if a promise was broken.
    #[arg(long)]
    pub folder: Option<PathBuf>,
    /// Seconds that tasks may still take after the last fault.
    #[arg(long, default_value_t = 2700)]
    pub quiet_s: u64,
}

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// `rdev up`: API and runner in one process, on SQLite.
    OneMachine,
    /// Functions, table and queue in an emulator of AWS, and three runners.
    Aws,
}

impl Options {
    /// Acts of people.
    pub(crate) fn acts(&self) -> usize {
        self.people.unwrap_or(self.builds * 3 / 20)
    }

    /// How long tasks may still take after the last fault.
    pub(crate) fn quiet(&self) -> Duration {
        Duration::from_secs(self.quiet_s)
    }
}

/// A build to ask for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wish {
    /// The index of its project.
    pub(crate) project: usize,
    /// Its `Idempotency-Key`.
    pub(crate) key: String,
    /// The request.
    pub(crate) body: Value,
}

/// What an agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    /// Writes a file of its own.
    Own,
    /// Adds to a file that others add to as well, so that its work may not apply any more.
    Shared,
    /// Ends with an error, half-way.
    Fails,
    /// Hangs and ignores TERM.
    Stubborn,
    /// Writes a file, and leaves a process behind that hides: another session, no environment.
    Hides,
    /// Changes nothing.
    Idle,
}

/// The seeded random choices of one actor of a campaign.
pub(crate) fn random(seed: u64, actor: &str) -> StdRng {
    // FNV-1a: the same for every version of the compiler.
    let mixed = actor.bytes().fold(0xcbf2_9ce4_8422_2325_u64 ^ seed, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    rand::SeedableRng::seed_from_u64(mixed)
}

/// All builds of a campaign.
pub(crate) fn wishes(options: &Options, projects: usize, mark: &str) -> Vec<Wish> {
    let mut random = random(options.seed, "builds");
    (0..options.builds).map(|n| wish(n, options.attempts, projects, mark, &mut random)).collect()
}

fn wish(n: usize, attempts: u32, projects: usize, mark: &str, random: &mut StdRng) -> Wish {
    let script = match random.random_range(0..100) {
        0..66 => Script::Own,
        66..82 => Script::Shared,
        82..87 => Script::Fails,
        87..90 => Script::Stubborn,
        90..97 => Script::Hides,
        _ => Script::Idle,
    };
    let pause =
        format!("sleep {}.{:03}; ", random.random_range(0..2), random.random_range(0..1000));
    let own = format!("echo {n} > file-{n}.txt");
    let prompt = match script {
        Script::Own => pause + &own,
        Script::Shared => format!("{pause}echo {n} >> shared.txt"),
        Script::Fails => format!("{pause}{own}; exit 1"),
        Script::Stubborn => format!("trap '' TERM; {own}; sleep 600"),
        // Its first argument after the script is what the checker looks for.
        Script::Hides => format!(
            "(cd / && exec setsid env -i /bin/sh -c 'while :; do sleep 1; done' sh {mark}) & {pause}{own}"
        ),
        Script::Idle => pause + "true",
    };
    let fails = matches!(script, Script::Fails | Script::Stubborn);
    let attempts = if fails { 1 } else { attempts };
    let mut body = json!({"prompt": prompt, "max_attempts": attempts});
    if script == Script::Stubborn {
        body["stall_timeout_s"] = json!(2);
    }
    if script == Script::Own && random.random_bool(0.3) {
        body["verify"] = json!([format!("test -s file-{n}.txt")]);
    }
    if random.random_bool(0.1) {
        body["priority"] = json!(random.random_range(0..10));
    }
    Wish { project: random.random_range(0..projects), key: format!("wish-{n}"), body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_asks_for_the_same_builds_and_another_one_for_others() {
        let options = |seed| {
            let seed = format!("{seed}");
            Options::parse_from(["chaos", "--shape", "aws", "--builds", "50", "--seed", &seed])
        };
        let of = |seed| wishes(&options(seed), 8, "mark");
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert_eq!(of(1).len(), 50);
        assert_eq!(options(1).acts(), 7);
    }
}
