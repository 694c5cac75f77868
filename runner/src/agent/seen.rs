//! What the output of an agent has told so far.

use rdev_domain::event::EventKind;
use rdev_domain::result::Usage;
use serde_json::{Value, json};

use super::{Progress, log};
use crate::process::Stream;
use crate::redact::Redactor;

/// What is kept of one text in an event, in bytes.
const LONGEST_TEXT: usize = 64 * 1024;

/// Filled by an agent's reader.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) session: Option<String>,
    pub(super) version: Option<String>,
    pub(super) model: Option<String>,
    /// What this run has used so far.
    pub(super) usage: Usage,
    /// What the agent said last.
    pub(super) summary: String,
    /// Nothing of interest will follow.
    pub(super) last_words: bool,
    /// It would go on for ever without getting anywhere: it is stopped, and its reader asked why.
    pub(super) hopeless: bool,
    /// The model will be asked again: the moment to stop for a limit of turns.
    pub(super) turn_follows: bool,
    events: Vec<(EventKind, Value)>,
    told: Usage,
}

impl Seen {
    pub(super) fn new(model: Option<String>) -> Self {
        Self { model, ..Self::default() }
    }

    pub(super) fn event(&mut self, kind: EventKind, data: Value) {
        self.events.push((kind, data));
    }

    /// The agent spoke.
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

    /// A line that is not in the agent's own form.
    pub(super) fn plain(&mut self, stream: Stream, line: &str) {
        if !line.trim().is_empty() {
            let stream = if stream == Stream::Stdout { "stdout" } else { "stderr" };
            let (kind, data) = log(stream, line);
            self.event(kind, data);
        }
    }

    /// Hands out what is new: redacted first, then cut, so that no half of a secret is left.
    pub(super) fn hand_out(&mut self, redactor: &Redactor, to: &mut dyn FnMut(Progress)) {
        for (kind, mut data) in self.events.drain(..) {
            redactor.redact_json(&mut data);
            cut(&mut data);
            to(Progress::Event(kind, data));
        }
        if self.told != self.usage {
            self.told = self.usage;
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
