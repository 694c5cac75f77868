//! Any program as an agent.
//!
//! It gets the prompt on standard input and in `RDEV_PROMPT`, works in the checkout, and ends with status
//! 0 when it is done. `RDEV_MODEL` and `RDEV_SESSION` are there when the build names them. Each line
//! of standard output that is a JSON object with one of these kinds is an event:
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
//! Usage is the sum so far; `max_turns` and `max_cost_usd` are held against it. After a result
//! it has the grace time to end. Every other line is a log event, and the last ones on standard
//! output are the summary when no result gives one.

use std::collections::VecDeque;

use rdev_domain::event::EventKind;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::result::Usage;
use rdev_domain::time::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::seen::Seen;
use super::{Agent, Ask, Invocation, Reader};
use crate::config::AgentSettings;
use crate::process::{Exit, Stream};

/// The kernel takes 128 KiB per variable; a longer prompt is only on standard input.
const LONGEST_VARIABLE: usize = 120 * 1024;

/// How many plain lines make the summary.
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

    fn droppings(&self) -> &'static [&'static str] {
        // Aider is a common one.
        &[".aider*"]
    }

    fn asks_version(&self) -> bool {
        false
    }

    fn invocation(&self, settings: &AgentSettings, ask: &Ask<'_>) -> Result<Invocation, Failure> {
        let model = ask.model.or(settings.model.as_deref());
        let short = Some(ask.prompt).filter(|prompt| prompt.len() <= LONGEST_VARIABLE);
        let named = [("RDEV_PROMPT", short), ("RDEV_MODEL", model), ("RDEV_SESSION", ask.resume)];
        let env = named.into_iter().filter_map(|(name, value)| Some((name, value?.to_owned())));
        Ok(Invocation {
            env: env.collect(),
            stdin: Some(ask.prompt.into()),
            ..Invocation::default()
        })
    }

    fn reader(&self, _: &AgentSettings, _: Option<&Ask<'_>>) -> Box<dyn Reader> {
        Box::new(Lines::default())
    }
}

#[derive(Default)]
struct Lines {
    last: VecDeque<String>,
    summary_told: bool,
}

/// The documented kinds.
#[derive(Deserialize)]
#[serde(tag = "kind")]
enum Told {
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
    fn line(&mut self, stream: Stream, line: &str, seen: &mut Seen) {
        seen.turn_follows = false;
        let told = match serde_json::from_str(line) {
            Ok(told) if stream == Stream::Stdout => told,
            _ => return self.plain(stream, line, seen),
        };
        match told {
            Told::Text { text } => seen.text(&text),
            Told::ToolUse { tool, id, input } => seen.tool_use(&tool, &id, &input),
            Told::ToolResult { id, is_error, output } => seen.tool_result(&id, is_error, &output),
            Told::Usage { input_tokens, output_tokens, cache_tokens, cost_usd, turns } => {
                let cost_usd = cost_usd.filter(|cost| cost.is_finite() && *cost >= 0.0);
                seen.usage = Usage { input_tokens, output_tokens, cache_tokens, cost_usd, turns };
                seen.turn_follows = true;
            }
            Told::Log { text } => {
                seen.event(EventKind::Log, serde_json::json!({"stream": "agent", "text": text}))
            }
            Told::Result { summary, session_id, model, version } => {
                self.summary_told = summary.is_some();
                seen.summary = summary.unwrap_or_else(|| std::mem::take(&mut seen.summary));
                seen.session = session_id.or(seen.session.take());
                seen.model = model.or(seen.model.take());
                seen.version = version.or(seen.version.take());
                seen.last_words = true;
            }
        }
    }

    fn verdict(&mut self, exit: Exit, seen: &Seen, _: Timestamp) -> Result<(), Failure> {
        if exit.code == Some(0) {
            return Ok(());
        }
        let mut message = format!("the command ended {}", exit.words());
        if !seen.summary.trim().is_empty() {
            message = format!("{message}; it said: {}", seen.summary.trim());
        }
        Err(Failure::new(FailureClass::AgentFailed, message))
    }
}

impl Lines {
    fn plain(&mut self, stream: Stream, line: &str, seen: &mut Seen) {
        seen.plain(stream, line);
        if stream == Stream::Stdout && !line.trim().is_empty() && !self.summary_told {
            if self.last.len() == SUMMARY_LINES {
                self.last.pop_front();
            }
            self.last.push_back(line[..line.floor_char_boundary(1000)].to_owned());
            seen.summary = Vec::from(self.last.clone()).join("\n");
        }
    }
}
