//! What a model is to do, turn by turn.

use std::time::Duration;

use serde_json::Value;

/// The model's turns. After the last one it says "done".
#[derive(Debug, Clone, Default)]
pub struct Script {
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone)]
pub struct Step {
    pub act: Act,
    /// What it says that it used.
    pub usage: Tokens,
    /// How long it thinks before the first byte.
    pub delay: Duration,
}

/// Token counts as a model reports them.
#[derive(Debug, Clone, Copy)]
pub struct Tokens {
    /// Sent, those read from the cache included where the protocol counts them so.
    pub input: u64,
    /// Written.
    pub output: u64,
    /// Read from the cache.
    pub cached: u64,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { input: 100, output: 20, cached: 0 }
    }
}

/// What the model does in a turn.
#[derive(Debug, Clone)]
pub enum Act {
    /// Says something, and is done.
    Text(String),
    /// Says something, and is cut by the limit of output tokens.
    Length(String),
    /// Writes a file with whatever tool the agent offers.
    Write {
        /// Relative to the agent's working folder.
        path: String,
        /// All of the file.
        content: String,
        /// Said before.
        text: Option<String>,
    },
    /// Runs a shell command with whatever tool the agent offers.
    Shell(String),
    /// Calls a tool by its name.
    Tool {
        name: String,
        /// Its arguments; a text for tools that take one.
        input: Value,
    },
    /// Answers with an HTTP error, each time.
    Error {
        status: u16,
        /// The error's type; the usual one of the status when absent.
        kind: Option<String>,
        message: String,
        headers: Vec<(String, String)>,
    },
    /// Answers `times` times with an HTTP error, then does something else.
    Flaky { status: u16, times: u32, then: Box<Act> },
    /// Begins a stream, and then sends nothing more.
    Hang,
    /// Begins a stream, and then closes the connection.
    Cut,
    /// Answers 200 with a body that is not of the protocol.
    Garbage { content_type: String, body: String },
}

impl Script {
    /// The given turns with the default usage.
    pub fn of(acts: impl IntoIterator<Item = Act>) -> Self {
        Self { steps: acts.into_iter().map(Step::of).collect() }
    }

    /// The same turns, each with this usage.
    #[must_use]
    pub fn using(mut self, usage: Tokens) -> Self {
        self.steps.iter_mut().for_each(|step| step.usage = usage);
        self
    }
}

impl Step {
    /// A turn with the default usage and no delay.
    pub fn of(act: Act) -> Self {
        Self { act, usage: Tokens::default(), delay: Duration::ZERO }
    }
}

impl Act {
    /// Writes a file and says nothing.
    pub fn write(path: impl Into<String>, content: impl Into<String>) -> Self {
        Self::Write { path: path.into(), content: content.into(), text: None }
    }

    /// Says something, and is done.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Answers with `status`, each time.
    pub fn error(status: u16) -> Self {
        let message = format!("scripted error {status}");
        Self::Error { status, kind: None, message, headers: Vec::new() }
    }
}

/// What a protocol has to put into its own words.
pub(super) struct Turn {
    pub(super) text: Option<String>,
    /// A tool's name and its input.
    pub(super) call: Option<(String, Value)>,
    pub(super) usage: Tokens,
    pub(super) stop: Stop,
}

/// Why a turn ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Done,
    Tool,
    Length,
}
