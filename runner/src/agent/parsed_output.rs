//! What the runner has read from an agent's output so far.

use rdev_domain::event::EventKind;
use rdev_domain::result::Usage;
use serde_json::{Value, json};

use super::{Progress, log};
use crate::process::Stream;
use crate::redact::Redactor;

/// The longest text in an event, in bytes.
const LONGEST_TEXT: usize = 64 * 1024;

/// The data that an agent's reader has found.
#[derive(Debug, Default)]
pub(super) struct ParsedOutput {
    pub(super) session: Option<String>,
    pub(super) version: Option<String>,
    pub(super) model: Option<String>,
    /// The usage of this run so far.
    pub(super) usage: Usage,
    /// The last message of the agent.
    pub(super) summary: String,
    /// The agent has printed its result; nothing of interest follows.
    pub(super) result_received: bool,
    /// The agent would run forever without progress: it is stopped, and its reader says why.
    pub(super) unrecoverable: bool,
    /// The agent is about to call the model again: the moment to enforce a limit of turns.
    pub(super) turn_follows: bool,
    events: Vec<(EventKind, Value)>,
    reported_usage: Usage,
}

impl ParsedOutput {
    pub(super) fn new(model: Option<String>) -> Self {
        Self { model, ..Self::default() }
    }

    pub(super) fn event(&mut self, kind: EventKind, data: Value) {
        self.events.push((kind, data));
    }

    /// Adds a message of the agent.
    pub(super) fn text(&mut self, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        text.clone_into(&mut self.summary);
        self.event(EventKind::AgentText, json!({"text": text}));
    }

    pub(super) fn tool_use(&mut self, tool: &str, id: &str, input: &Value) {
        self.event(EventKind::AgentToolUse, json!({"tool": tool, "id": id, "input": input}));
    }

    pub(super) fn tool_result(&mut self, id: &str, is_error: bool, output: &str) {
        let data = json!({"id": id, "is_error": is_error, "output": output});
        self.event(EventKind::AgentToolResult, data);
    }

    /// Adds a line that is not in the agent's own format.
    pub(super) fn plain(&mut self, stream: Stream, line: &str) {
        if !line.trim().is_empty() {
            let stream = if stream == Stream::Stdout { "stdout" } else { "stderr" };
            let (kind, data) = log(stream, line);
            self.event(kind, data);
        }
    }

    /// Emits what is new. It is redacted first and then cut, so that no half of a secret remains.
    pub(super) fn emit(&mut self, redactor: &Redactor, to: &mut dyn FnMut(Progress)) {
        for (kind, mut data) in self.events.drain(..) {
            redactor.redact_json(&mut data);
            cut(&mut data);
            to(Progress::Event(kind, data));
        }
        if self.reported_usage != self.usage {
            self.reported_usage = self.usage;
            to(Progress::Usage(self.usage));
        }
    }
}

fn cut(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > LONGEST_TEXT => {
            text.truncate(text.floor_char_boundary(LONGEST_TEXT));
            text.push_str(" […]");
        }
        Value::Array(items) => items.iter_mut().for_each(cut),
        Value::Object(fields) => fields.values_mut().for_each(cut),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
