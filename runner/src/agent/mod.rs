//! Code agents: how each one is started, and how its output and its end are read.
//!
//! A new agent is one file with an `Agent` and a `Reader`, one line in `of`, and its name in
//! the domain's `AgentName`.

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
mod parsed_output;
mod program;

pub use environment::{base_environment, has_credentials, secrets};
use parsed_output::ParsedOutput;

/// The request to an agent: the task, the folders and the limits.
#[derive(Debug, Clone, Copy)]
pub struct AgentRequest<'a> {
    /// The task, in words.
    pub prompt: &'a str,
    /// The model. `None`: the model of the settings.
    pub model: Option<&'a str>,
    /// The limit of model turns.
    pub max_turns: Option<u32>,
    /// The limit of costs in US dollars.
    pub max_cost_usd: Option<f64>,
    /// The session to continue. Its files are in `home`.
    pub resume: Option<&'a str>,
    pub checkout: &'a Path,
    /// Its HOME, private to the attempt.
    pub home: &'a Path,
    /// Its TMPDIR, private to the attempt.
    pub tmp: &'a Path,
    /// The attempt's folder, which contains the others. Processes are recognized by it.
    pub attempt_dir: &'a Path,
    /// When the agent must have ended.
    pub deadline: Instant,
    /// The longest time without output.
    pub stall: Duration,
    /// The time between TERM and KILL.
    pub grace: Duration,
}

/// A progress report, already redacted.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// An event for the build's log.
    Event(EventKind, Value),
    /// The usage of this run so far.
    Usage(Usage),
}

/// The report about a run that has ended, well or not.
#[derive(Debug, Clone)]
pub struct Report {
    /// The agent, its version, model and session.
    pub run: AgentRun,
    /// The usage of this run, without earlier runs of its session.
    pub usage: Usage,
    /// The agent's last message, redacted, at most 4,000 characters.
    pub summary: String,
    /// How it ended.
    pub end: End,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub enum End {
    /// The agent succeeded. Only the diff tells whether it changed anything.
    Done,
    /// The agent failed. The message is redacted.
    Failed(Failure),
    /// The run was stopped through its token.
    Stopped,
}

/// One code agent.
trait Agent: Sync {
    /// The program to find in `PATH` when none is configured.
    fn program(&self) -> Option<&'static str>;

    /// The variables with its credentials. The runner passes them on from its own environment.
    fn keys(&self) -> &'static [&'static str];

    /// Other variables that it needs.
    fn variables(&self) -> &'static [&'static str];

    /// Patterns of file names for what it leaves in the work tree. They are not committed.
    fn ignored_artifacts(&self) -> &'static [&'static str];

    /// Whether the runner must call `--version`, because the agent's output does not contain it.
    fn needs_version_call(&self) -> bool;

    /// How to start it.
    fn invocation(
        &self,
        settings: &AgentSettings,
        request: &AgentRequest<'_>,
    ) -> Result<Invocation, Failure>;

    /// A reader of its output.
    fn reader(
        &self,
        settings: &AgentSettings,
        request: Option<&AgentRequest<'_>>,
    ) -> Box<dyn Reader>;
}

/// How an agent is started, apart from its program.
#[derive(Debug, Default)]
struct Invocation {
    args: Vec<OsString>,
    env: Vec<(&'static str, String)>,
    stdin: Option<Vec<u8>>,
    /// Files of the repository that it must not find, because it would run their contents.
    hide: &'static [&'static str],
}

/// Reads the output of one run of an agent.
trait Reader: Send {
    /// Reads one line.
    fn line(&mut self, stream: Stream, line: &str, parsed: &mut ParsedOutput);

    /// Decides whether a run that ended by itself succeeded.
    fn verdict(&mut self, exit: Exit, parsed: &ParsedOutput, now: Timestamp)
    -> Result<(), Failure>;
}

fn of(agent: AgentName) -> &'static dyn Agent {
    match agent {
        AgentName::ClaudeCode => &claude_code::ClaudeCode,
        AgentName::Opencode => &opencode::Opencode,
        AgentName::Codex => &codex::Codex,
        AgentName::Command => &command::Command,
    }
}

/// The agents that can run here: their program is configured or in `PATH`, and executable.
pub fn available(settings: &BTreeMap<AgentName, AgentSettings>) -> Vec<AgentName> {
    let default = AgentSettings::default();
    let installed = |agent: &AgentName| {
        program::find(*agent, of(*agent).program(), settings.get(agent).unwrap_or(&default)).is_ok()
    };
    AgentName::ALL.into_iter().filter(installed).collect()
}

/// Patterns of file names that the agent leaves in the work tree and that must not be committed.
pub fn ignored_artifacts(agent: AgentName) -> &'static [&'static str] {
    of(agent).ignored_artifacts()
}

/// The agent that runs, and what its run depends on.
#[derive(Debug, Clone, Copy)]
pub struct AgentContext<'a> {
    pub agent: AgentName,
    pub settings: &'a AgentSettings,
    /// Redacts everything that the agent prints.
    pub redactor: &'a Redactor,
    pub stop: &'a CancellationToken,
}

/// Runs an agent until it and every process that it started have ended.
///
/// Every event is redacted before `progress` gets it.
pub async fn run(
    context: &AgentContext<'_>,
    request: &AgentRequest<'_>,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Report {
    let AgentContext { agent, settings, redactor, .. } = *context;
    let model = request.model.or(settings.model.as_deref()).map(str::to_owned);
    let mut parsed = ParsedOutput::new(model);
    let end = match supervise(context, request, progress, &mut parsed).await {
        Ok(end) => end,
        Err(failure) => End::Failed(failure),
    };
    report(agent, parsed, redactor, end)
}

/// The report and the progress of an agent that printed `lines` and ended with `exit`: for tests
/// with recorded output.
pub fn replay<'a>(
    agent: AgentName,
    settings: &AgentSettings,
    lines: impl IntoIterator<Item = (Stream, &'a str)>,
    exit: Exit,
    now: Timestamp,
) -> (Report, Vec<Progress>) {
    let redactor = Redactor::default();
    let mut reader = of(agent).reader(settings, None);
    let mut parsed = ParsedOutput::new(settings.model.clone());
    let mut progress = Vec::new();
    for (stream, line) in lines {
        reader.line(stream, line, &mut parsed);
        parsed.emit(&redactor, &mut |item| progress.push(item));
    }
    let verdict = reader.verdict(exit, &parsed, now);
    let end = verdict.map_or_else(End::Failed, |()| End::Done);
    (report(agent, parsed, &redactor, end), progress)
}

async fn supervise(
    context: &AgentContext<'_>,
    request: &AgentRequest<'_>,
    progress: &mut (dyn FnMut(Progress) + Send),
    parsed: &mut ParsedOutput,
) -> Result<End, Failure> {
    let AgentContext { agent, settings, redactor, stop } = *context;
    let this = of(agent);
    let program = program::find(agent, this.program(), settings)?;
    let invocation = this.invocation(settings, request)?;
    let env = environment::of(this, settings, request, invocation.env);
    if this.needs_version_call() {
        parsed.version = program::version(&program, &env, request, stop).await;
    }
    let hidden = hidden::hide(request.checkout, request.attempt_dir, invocation.hide)
        .map_err(|error| infra(&error))?;
    let mut reader = this.reader(settings, Some(request));
    let args = settings.args.iter().map(OsString::from).chain(invocation.args);
    let launch = Launch {
        program,
        args: args.collect(),
        env,
        cwd: request.checkout.to_owned(),
        stdin: invocation.stdin,
        marker: Marker::new(request.attempt_dir),
        grace: request.grace,
    };
    let limits = Limits { deadline: request.deadline, stall: Some(request.stall) };
    let mut errors = Tail::default();
    let mut exceeded = None;
    let ended = process::run(launch, limits, stop, |stream, line| {
        // Redact before anything is cut, so that no half of a secret remains. Secrets that are
        // escaped in the line are redacted when its event is emitted.
        let line = &*redactor.redact(line);
        if stream == Stream::Stderr {
            errors.add(line);
        }
        reader.line(stream, line, parsed);
        parsed.emit(redactor, progress);
        exceeded = exceeded.take().or_else(|| over_budget(request, parsed));
        match parsed.result_received {
            _ if exceeded.is_some() || parsed.unrecoverable => Flow::Stop,
            true => Flow::ResultReceived,
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
        Ended::HungAfterResult => Exit::SUCCESS,
        Ended::Stopped if parsed.unrecoverable && !stop.is_cancelled() => Exit::SUCCESS,
        Ended::Stopped => return Ok(End::Stopped),
        Ended::Stalled => {
            let message = format!("{agent} printed nothing for {} s", request.stall.as_secs());
            return Err(Failure::new(FailureClass::AgentStalled, message));
        }
        Ended::TimedOut => {
            let message = format!("{agent} did not end within the task's timeout_s");
            return Err(Failure::new(FailureClass::Timeout, message));
        }
    };
    match reader.verdict(exit, parsed, SystemTime::now().into()) {
        Ok(()) => Ok(End::Done),
        Err(failure) => Err(errors.explain(failure)),
    }
}

/// Checks the limits, for agents that do not check them themselves.
fn over_budget(request: &AgentRequest<'_>, parsed: &ParsedOutput) -> Option<String> {
    let over = |max: &u32| {
        let (turns, max) = (parsed.usage.turns, u64::from(*max));
        turns > max || (turns == max && parsed.turn_follows)
    };
    let turns = request.max_turns.filter(over);
    if let Some(max) = turns {
        return Some(format!("the agent used up its max_turns: {max}"));
    }
    let cost =
        request.max_cost_usd.filter(|max| parsed.usage.cost_usd.is_some_and(|cost| cost > *max));
    cost.map(|max| format!("the agent used up its max_cost_usd: {max}"))
}

fn report(agent: AgentName, parsed: ParsedOutput, redactor: &Redactor, mut end: End) -> Report {
    if let End::Failed(failure) = &mut end {
        failure.message = redactor.redact(&failure.message).into_owned();
    }
    let mut summary = redactor.redact(parsed.summary.trim()).into_owned();
    if let Some((cut, _)) = summary.char_indices().nth(4000) {
        summary.truncate(cut);
    }
    let run = AgentRun {
        provider: agent,
        version: parsed.version,
        model: parsed.model,
        session_id: parsed.session,
    };
    Report { run, usage: parsed.usage, summary, end }
}

fn infra(error: &anyhow::Error) -> Failure {
    Failure::new(FailureClass::Infra, format!("{error:#}"))
}

/// The last lines that an agent wrote to standard error.
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

    /// Adds the lines to a failure of the agent itself. A model's error needs no more words.
    fn explain(self, failure: Failure) -> Failure {
        if failure.class != FailureClass::AgentFailed || self.0.is_empty() {
            return failure;
        }
        let lines = Vec::from(self.0).join("\n");
        Failure::new(failure.class, format!("{}; it wrote:\n{lines}", failure.message))
    }
}

/// A log event of an agent's reader.
fn log(stream: &str, text: impl Into<String>) -> (EventKind, Value) {
    (EventKind::Log, json!({"stream": stream, "text": text.into()}))
}
