//! Code agents: how each is started, what its output means, and how it ended.
//!
//! A new agent is one file with an `Agent` and a `Reader`, and one line in `of` (and its
//! name in the domain's `AgentName`).

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rdev_domain::event::EventKind;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::result::{AgentRun, Usage};
use rdev_domain::spec::AgentName;
use rdev_domain::time::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::config::AgentSettings;
use crate::process::{self, Ended, Exit, Flow, Launch, Limits, Marker, Stream};
use crate::redact::Redactor;

mod claude_code;
mod codex;
mod command;
mod environment;
mod hidden;
mod instructions;
mod model_error;
mod opencode;
mod program;
mod seen;

pub use environment::{base_environment, has_credentials, secrets};
use seen::Seen;

/// What an agent is asked, and where and how long it works.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The task in words.
    pub prompt: &'a str,
    /// The model; the settings' one when absent.
    pub model: Option<&'a str>,
    /// Model turns it may take.
    pub max_turns: Option<u32>,
    /// US dollars it may spend.
    pub max_cost_usd: Option<f64>,
    /// The session to go on with; `home` holds what the agent kept of it.
    pub resume: Option<&'a str>,
    /// Its working folder.
    pub checkout: &'a Path,
    /// Its HOME, private to the attempt.
    pub home: &'a Path,
    /// Its TMPDIR, private to the attempt.
    pub tmp: &'a Path,
    /// The attempt's folder, which holds the others: by it the processes are known.
    pub attempt_dir: &'a Path,
    /// When it must have ended.
    pub deadline: Instant,
    /// How long it may print nothing.
    pub stall: Duration,
    /// The time between TERM and KILL.
    pub grace: Duration,
}

/// Something that happened, already redacted.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// A line for the build's log.
    Event(EventKind, Value),
    /// What this run has used so far.
    Usage(Usage),
}

/// What is known at the end, however it ended.
#[derive(Debug, Clone)]
pub struct Report {
    /// Who ran, and its session.
    pub run: AgentRun,
    /// What this run used, earlier runs of its session not counted.
    pub usage: Usage,
    /// The agent's last words, redacted, at most 4,000 characters.
    pub summary: String,
    /// How it ended.
    pub end: End,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub enum End {
    /// Well. Whether anything changed is for the diff to say.
    Done,
    /// Badly; the message is redacted.
    Failed(Failure),
    /// The token fired.
    Stopped,
}

/// What one agent is to the rest of the runner.
trait Agent: Sync {
    /// What to look for in `PATH` when no program is configured.
    fn program(&self) -> Option<&'static str>;

    /// The variables with its credentials, passed on from the runner's environment.
    fn keys(&self) -> &'static [&'static str];

    /// Others that it is known to need.
    fn variables(&self) -> &'static [&'static str];

    /// What it leaves in the work tree, as patterns for file names.
    fn droppings(&self) -> &'static [&'static str];

    /// Whether the version has to be asked with `--version`, since its output does not tell.
    fn asks_version(&self) -> bool;

    /// How to start it.
    fn invocation(&self, settings: &AgentSettings, ask: &Ask<'_>) -> Result<Invocation, Failure>;

    /// A reader of its output.
    fn reader(&self, settings: &AgentSettings, ask: Option<&Ask<'_>>) -> Box<dyn Reader>;
}

/// What an agent is started with, beside its program.
#[derive(Debug, Default)]
struct Invocation {
    args: Vec<OsString>,
    env: Vec<(&'static str, String)>,
    stdin: Option<Vec<u8>>,
    /// Files of the repository that it must not find: it would run what they say.
    hide: &'static [&'static str],
}

/// Understands what one run of an agent prints.
trait Reader: Send {
    /// One line.
    fn line(&mut self, stream: Stream, line: &str, seen: &mut Seen);

    /// What it came to, when it ended by itself.
    fn verdict(&mut self, exit: Exit, seen: &Seen, now: Timestamp) -> Result<(), Failure>;
}

fn of(agent: AgentName) -> &'static dyn Agent {
    match agent {
        AgentName::ClaudeCode => &claude_code::ClaudeCode,
        AgentName::Opencode => &opencode::Opencode,
        AgentName::Codex => &codex::Codex,
        AgentName::Command => &command::Command,
    }
}

/// The agents that can be run here: their program is configured or in `PATH`, and executable.
pub fn available(settings: &BTreeMap<AgentName, AgentSettings>) -> Vec<AgentName> {
    let none = AgentSettings::default();
    let there = |agent: &AgentName| {
        program::find(*agent, of(*agent).program(), settings.get(agent).unwrap_or(&none)).is_ok()
    };
    AgentName::ALL.into_iter().filter(there).collect()
}

/// Patterns of file names that the agent leaves in the work tree and that must not be committed.
pub fn droppings(agent: AgentName) -> &'static [&'static str] {
    of(agent).droppings()
}

/// Runs an agent until it and everything it started are gone.
///
/// Every event passes through `redactor` before `progress` sees it.
pub async fn run(
    agent: AgentName,
    settings: &AgentSettings,
    ask: &Ask<'_>,
    redactor: &Redactor,
    stop: &CancellationToken,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Report {
    let model = ask.model.or(settings.model.as_deref()).map(str::to_owned);
    let mut seen = Seen::new(model);
    let end = match attempt(agent, settings, ask, redactor, stop, progress, &mut seen).await {
        Ok(end) => end,
        Err(failure) => End::Failed(failure),
    };
    report(agent, seen, redactor, end)
}

/// What [`run`] would report about an agent that printed `lines` and ended with `exit`, and the
/// events on the way: for tests over recorded output.
pub fn replay<'a>(
    agent: AgentName,
    settings: &AgentSettings,
    lines: impl IntoIterator<Item = (Stream, &'a str)>,
    exit: Exit,
    now: Timestamp,
) -> (Report, Vec<Progress>) {
    let redactor = Redactor::default();
    let mut reader = of(agent).reader(settings, None);
    let mut seen = Seen::new(settings.model.clone());
    let mut progress = Vec::new();
    for (stream, line) in lines {
        reader.line(stream, line, &mut seen);
        seen.hand_out(&redactor, &mut |item| progress.push(item));
    }
    let verdict = reader.verdict(exit, &seen, now);
    let end = verdict.map_or_else(End::Failed, |()| End::Done);
    (report(agent, seen, &redactor, end), progress)
}

async fn attempt(
    agent: AgentName,
    settings: &AgentSettings,
    ask: &Ask<'_>,
    redactor: &Redactor,
    stop: &CancellationToken,
    progress: &mut (dyn FnMut(Progress) + Send),
    seen: &mut Seen,
) -> Result<End, Failure> {
    let this = of(agent);
    let program = program::find(agent, this.program(), settings)?;
    let invocation = this.invocation(settings, ask)?;
    let env = environment::of(this, settings, ask, invocation.env);
    if this.asks_version() {
        seen.version = program::version(&program, &env, ask, stop).await;
    }
    let hidden = hidden::hide(ask.checkout, ask.attempt_dir, invocation.hide)
        .map_err(|error| infra(&error))?;
    let mut reader = this.reader(settings, Some(ask));
    let args = settings.args.iter().map(OsString::from).chain(invocation.args);
    let launch = Launch {
        program,
        args: args.collect(),
        env,
        cwd: ask.checkout.to_owned(),
        stdin: invocation.stdin,
        marker: Marker::new(ask.attempt_dir),
        grace: ask.grace,
    };
    let limits = Limits { deadline: ask.deadline, stall: Some(ask.stall) };
    let mut errors = Tail::default();
    let mut exceeded = None;
    let ended = process::run(launch, limits, stop, |stream, line| {
        // Before anything is cut, so that no half of a secret is left. What is escaped in the
        // line is found when it is handed out.
        let line = &*redactor.redact(line);
        if stream == Stream::Stderr {
            errors.add(line);
        }
        reader.line(stream, line, seen);
        seen.hand_out(redactor, progress);
        exceeded = exceeded.take().or_else(|| over_budget(ask, seen));
        match seen.last_words {
            _ if exceeded.is_some() || seen.hopeless => Flow::Stop,
            true => Flow::LastWords,
            false => Flow::Continue,
        }
    })
    .await;
    hidden.restore().map_err(|error| infra(&error))?;
    let ended = ended.map_err(|error| infra(&error.into()))?;
    if let Some(message) = exceeded {
        return Err(Failure::new(FailureClass::BudgetExceeded, message));
    }
    let exit = match ended {
        Ended::Exited(exit) => exit,
        Ended::LastWordsThenHung => Exit::GOOD,
        Ended::Stopped if seen.hopeless && !stop.is_cancelled() => Exit::GOOD,
        Ended::Stopped => return Ok(End::Stopped),
        Ended::Stalled => {
            let message = format!("{agent} printed nothing for {} s", ask.stall.as_secs());
            return Err(Failure::new(FailureClass::AgentStalled, message));
        }
        Ended::TimedOut => {
            let message = format!("{agent} did not end within the task's timeout_s");
            return Err(Failure::new(FailureClass::Timeout, message));
        }
    };
    match reader.verdict(exit, seen, SystemTime::now().into()) {
        Ok(()) => Ok(End::Done),
        Err(failure) => Err(errors.explain(failure)),
    }
}

/// For agents that do not watch the limits themselves.
fn over_budget(ask: &Ask<'_>, seen: &Seen) -> Option<String> {
    let over = |max: &u32| {
        let (turns, max) = (seen.usage.turns, u64::from(*max));
        turns > max || (turns == max && seen.turn_follows)
    };
    let turns = ask.max_turns.filter(over);
    if let Some(max) = turns {
        return Some(format!("the agent used up its max_turns: {max}"));
    }
    let cost = ask.max_cost_usd.filter(|max| seen.usage.cost_usd.is_some_and(|cost| cost > *max));
    cost.map(|max| format!("the agent used up its max_cost_usd: {max}"))
}

fn report(agent: AgentName, seen: Seen, redactor: &Redactor, mut end: End) -> Report {
    if let End::Failed(failure) = &mut end {
        failure.message = redactor.redact(&failure.message).into_owned();
    }
    let mut summary = redactor.redact(seen.summary.trim()).into_owned();
    if let Some((cut, _)) = summary.char_indices().nth(4000) {
        summary.truncate(cut);
    }
    let run = AgentRun {
        provider: agent,
        version: seen.version,
        model: seen.model,
        session_id: seen.session,
    };
    Report { run, usage: seen.usage, summary, end }
}

fn infra(error: &anyhow::Error) -> Failure {
    Failure::new(FailureClass::Infra, format!("{error:#}"))
}

/// The end of what an agent wrote to standard error.
#[derive(Default)]
struct Tail(VecDeque<String>);

impl Tail {
    fn add(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        if self.0.len() == 10 {
            self.0.pop_front();
        }
        self.0.push_back(line[..line.floor_char_boundary(300)].to_owned());
    }

    /// Adds it to a failure of the agent itself; a model's error says enough.
    fn explain(self, failure: Failure) -> Failure {
        if failure.class != FailureClass::AgentFailed || self.0.is_empty() {
            return failure;
        }
        let lines = Vec::from(self.0).join("\n");
        Failure::new(failure.class, format!("{}; it wrote:\n{lines}", failure.message))
    }
}

/// A log line that the agent's reader adds.
fn log(stream: &str, text: impl Into<String>) -> (EventKind, Value) {
    (EventKind::Log, json!({"stream": stream, "text": text.into()}))
}
