//! Any program as an agent.
//!
//! It gets the prompt on standard input and in `RDEV_PROMPT`, works in the checkout, and ends with
//! status 0 when it has succeeded. `RDEV_MODEL` and `RDEV_SESSION` are set when the build names
//! them. Each line of standard output that is a JSON object of one of these kinds is an event:
//!
//! ```text
//! {"kind": "agent.text", "text": "…"}
//! {"kind": "agent.tool_use", "tool": "…", "id": "…", "input": {…}}
//! {"kind": "agent.tool_result", "id": "…", "is_error": false, "output": "…"}
//! {"kind": "agent.usage", "input_tokens": 0, "output_tokens": 0, "cache_tokens": 0, "cost_usd": 0.0, "turns": 0}
//! {"kind": "log", "text": "…"}
//! {"kind": "result", "summary": "…", "session_id": "…", "model": "…", "version": "…"}
//! ```
//!
//! Usage is the sum so far; the limits `max_turns` and `max_cost_usd` are checked against it. After
//! a result the program must end within the grace time. Every other line is a log event. When no
//! result has a summary, the last lines of standard output are the summary.

use std::collections::VecDeque;

use rdev_domain::event::EventKind;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::result::Usage;
use rdev_domain::time::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::parsed_output::ParsedOutput;
use super::{Agent, AgentRequest, Invocation, Reader};
use crate::config::AgentSettings;
use crate::process::{Exit, Stream};

/// The kernel allows 128 KiB per variable; a longer prompt is only on standard input.
const LONGEST_VARIABLE: usize = 120 * 1024;

/// The number of plain lines in the summary.
const SUMMARY_LINES: usize = 10;

pub(super) struct Command;

impl Agent for Command {
    fn program(&self) -> Option<&'static str> {
        None
    }

    fn keys(&self) -> &'static [&'static str] {
        &[]
    }

    fn variables(&self) -> &'static [&'static str] {
        &[]
    }

    fn ignored_artifacts(&self) -> &'static [&'static str] {
        // Aider is a common agent.
        &[".aider*"]
    }

    fn needs_version_call(&self) -> bool {
        false
    }

    fn invocation(
        &self,
        settings: &AgentSettings,
        request: &AgentRequest<'_>,
    ) -> Result<Invocation, Failure> {
        let model = request.model.or(settings.model.as_deref());
        let short = Some(request.prompt).filter(|prompt| prompt.len() <= LONGEST_VARIABLE);
        let variables =
            [("RDEV_PROMPT", short), ("RDEV_MODEL", model), ("RDEV_SESSION", request.resume)];
        let env = variables.into_iter().filter_map(|(name, value)| Some((name, value?.to_owned())));
        Ok(Invocation {
            env: env.collect(),
            stdin: Some(request.prompt.into()),
            ..Invocation::default()
        })
    }

    fn reader(&self, _: &AgentSettings, _: Option<&AgentRequest<'_>>) -> Box<dyn Reader> {
        Box::new(Lines::default())
    }
}

#[derive(Default)]
struct Lines {
    last: VecDeque<String>,
    has_summary: bool,
}

/// An event of the documented kinds.
#[derive(Deserialize)]
#[serde(tag = "kind")]
enum AgentEvent {
    #[serde(rename = "agent.text")]
    Text { text: String },
    #[serde(rename = "agent.tool_use")]
    ToolUse {
        tool: String,
        #[serde(default)]
        id: String,
        #[serde(default)]
        input: Value,
    },
    #[serde(rename = "agent.tool_result")]
    ToolResult {
        #[serde(default)]
        id: String,
        #[serde(default)]
        is_error: bool,
        #[serde(default)]
        output: String,
    },
    #[serde(rename = "agent.usage")]
    Usage {
        #[serde(default)]
        input_tokens: u64,
        #[serde(default)]
        output_tokens: u64,
        #[serde(default)]
        cache_tokens: u64,
        cost_usd: Option<f64>,
        #[serde(default)]
        turns: u64,
    },
    #[serde(rename = "log")]
    Log { text: String },
    #[serde(rename = "result")]
    Result {
        summary: Option<String>,
        session_id: Option<String>,
        model: Option<String>,
        version: Option<String>,
    },
}

impl Reader for Lines {
    fn line(&mut self, stream: Stream, line: &str, parsed: &mut ParsedOutput) {
        parsed.turn_follows = false;
        let event = match serde_json::from_str(line) {
            Ok(event) if stream == Stream::Stdout => event,
            _ => return self.plain(stream, line, parsed),
        };
        match event {
            AgentEvent::Text { text } => parsed.text(&text),
            AgentEvent::ToolUse { tool, id, input } => parsed.tool_use(&tool, &id, &input),
            AgentEvent::ToolResult { id, is_error, output } => {
                parsed.tool_result(&id, is_error, &output)
            }
            AgentEvent::Usage { input_tokens, output_tokens, cache_tokens, cost_usd, turns } => {
                let cost_usd = cost_usd.filter(|cost| cost.is_finite() && *cost >= 0.0);
                parsed.usage = Usage { input_tokens, output_tokens, cache_tokens, cost_usd, turns };
                parsed.turn_follows = true;
            }
            AgentEvent::Log { text } => {
                parsed.event(EventKind::Log, serde_json::json!({"stream": "agent", "text": text}))
            }
            AgentEvent::Result { summary, session_id, model, version } => {
                self.has_summary = summary.is_some();
                parsed.summary = summary.unwrap_or_else(|| std::mem::take(&mut parsed.summary));
                parsed.session = session_id.or(parsed.session.take());
                parsed.model = model.or(parsed.model.take());
                parsed.version = version.or(parsed.version.take());
                parsed.result_received = true;
            }
        }
    }

    fn verdict(&mut self, exit: Exit, parsed: &ParsedOutput, _: Timestamp) -> Result<(), Failure> {
        if exit.code == Some(0) {
            return Ok(());
        }
        let mut message = format!("the command ended {}", exit.describe());
        if !parsed.summary.trim().is_empty() {
            message = format!("{message}; it said: {}", parsed.summary.trim());
        }
        Err(Failure::new(FailureClass::AgentFailed, message))
    }
}

impl Lines {
    fn plain(&mut self, stream: Stream, line: &str, parsed: &mut ParsedOutput) {
        parsed.plain(stream, line);
        if stream == Stream::Stdout && !line.trim().is_empty() && !self.has_summary {
            if self.last.len() == SUMMARY_LINES {
                self.last.pop_front();
            }
            self.last.push_back(line[..line.floor_char_boundary(1000)].to_owned());
            parsed.summary = Vec::from(self.last.clone()).join("\n");
        }
    }
}
