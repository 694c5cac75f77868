//! Codex: `codex exec --json`.
//!
//! Observed with 0.169.0: the stream has token counts only at the end, added up over the resumed
//! runs of the session, and never the model's turns. The session file (`rollout`) has one record
//! per answer of the model. The runner uses that file, and the stream where there is no file.

use std::path::PathBuf;

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::result::Usage;
use rdev_domain::time::Timestamp;
use serde_json::{Value, json};

use super::model_error::{self, ModelError};
use super::parsed_output::ParsedOutput;
use super::{Agent, AgentRequest, Invocation, Reader, environment, log};
use crate::config::{AgentSettings, Price};
use crate::process::{Exit, Stream};

mod rollout;

use rollout::{Rollouts, Tokens};

/// The base URL when none is configured.
const BASE_URL: &str = "https://api.openai.com/v1";

pub(super) struct Codex;

impl Agent for Codex {
    fn program(&self) -> Option<&'static str> {
        Some("codex")
    }

    fn keys(&self) -> &'static [&'static str] {
        &["OPENAI_API_KEY", "CODEX_API_KEY"]
    }

    fn variables(&self) -> &'static [&'static str] {
        &["OPENAI_BASE_URL"]
    }

    fn ignored_artifacts(&self) -> &'static [&'static str] {
        &[]
    }

    fn needs_version_call(&self) -> bool {
        true
    }

    fn invocation(
        &self,
        settings: &AgentSettings,
        request: &AgentRequest<'_>,
    ) -> Result<Invocation, Failure> {
        let model = request.model.or(settings.model.as_deref());
        if request.max_cost_usd.is_some() && price(settings, model).is_none() {
            let message = "codex needs the model's prices to watch max_cost_usd: set agents.codex.model and agents.codex.prices";
            return Err(Failure::new(FailureClass::Invalid, message));
        }
        let base_url = settings.base_url.clone();
        let base_url = base_url.or_else(|| environment::value("OPENAI_BASE_URL", settings));
        let base_url = base_url.unwrap_or_else(|| BASE_URL.to_owned());
        let key = self.keys().iter().find(|name| environment::value(name, settings).is_some());
        let key = key.unwrap_or(&"OPENAI_API_KEY");
        // A JSON string is also a TOML string.
        let provider = format!(
            "model_providers.rdev={{name=\"rdev\",base_url={},env_key=\"{key}\",wire_api=\"responses\",request_max_retries=2,stream_max_retries=2}}",
            json!(base_url)
        );
        let mut args = vec![
            "exec",
            "--json",
            "-c",
            "model_provider=rdev",
            "-c",
            &provider,
            "-c",
            "analytics.enabled=false",
            "--disable",
            "plugins",
            // Without this it waits forever for a model that does not answer.
            "--disable",
            "unbounded_connection_retries",
            "--dangerously-bypass-approvals-and-sandbox",
            "--skip-git-repo-check",
        ];
        if let Some(model) = model {
            args.extend(["-m", model]);
        }
        if let Some(thread) = request.resume {
            args.extend(["resume", thread]);
        }
        // It reads the prompt from standard input.
        args.push("-");
        Ok(Invocation {
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            stdin: Some(request.prompt.into()),
            hide: &[],
        })
    }

    fn reader(
        &self,
        settings: &AgentSettings,
        request: Option<&AgentRequest<'_>>,
    ) -> Box<dyn Reader> {
        let model = request.and_then(|request| request.model).or(settings.model.as_deref());
        let sessions = request.map(|request| request.home.join(".codex/sessions"));
        Box::new(Lines::new(sessions, price(settings, model)))
    }
}

fn price(settings: &AgentSettings, model: Option<&str>) -> Option<Price> {
    settings.prices.get(model?).copied()
}

struct Lines {
    rollouts: Rollouts,
    price: Option<Price>,
    /// Counted from the stream alone.
    streamed_turns: u64,
    in_turn: bool,
    last_error: Option<String>,
    failed: Option<String>,
    completed: bool,
    worked: bool,
    denied: Option<String>,
}

impl Reader for Lines {
    fn line(&mut self, stream: Stream, line: &str, parsed: &mut ParsedOutput) {
        if stream == Stream::Stderr && is_denial(line) {
            self.denied = Some(line.to_owned());
        }
        let event = match serde_json::from_str::<Value>(line) {
            Ok(event) if stream == Stream::Stdout && event.is_object() => event,
            // It prints this whenever the prompt comes from standard input.
            _ if line.starts_with("Reading ") && line.ends_with(" from stdin...") => return,
            _ => return parsed.plain(stream, line),
        };
        parsed.turn_follows = false;
        let item = &event["item"];
        match event["type"].as_str() {
            Some("thread.started") => {
                parsed.session =
                    event["thread_id"].as_str().map(str::to_owned).or(parsed.session.take());
            }
            Some("item.started") => self.item_started(item, parsed),
            Some("item.completed") => self.item_completed(item, parsed),
            Some("error") => self.error(&event["message"], parsed),
            Some("turn.completed") => {
                self.completed = true;
                parsed.result_received = true;
                self.count(&event["usage"], parsed);
                return;
            }
            Some("turn.failed") => {
                let text = event["error"]["message"].as_str().map(str::to_owned);
                self.failed = Some(text.unwrap_or_else(|| event["error"].to_string()));
                parsed.result_received = true;
            }
            _ => {}
        }
        self.count(&Value::Null, parsed);
    }

    fn verdict(&mut self, exit: Exit, _: &ParsedOutput, now: Timestamp) -> Result<(), Failure> {
        let failed = |message: String| Err(Failure::new(FailureClass::AgentFailed, message));
        let text = self.failed.as_ref().or(self.last_error.as_ref().filter(|_| !self.completed));
        if let Some(text) = text {
            return Err(model_error::failure(ModelError::from_text(text), now));
        }
        if !self.completed {
            return failed(format!("codex ended {} in the middle of its turn", exit.describe()));
        }
        if let Some(denied) = &self.denied {
            return failed(format!("codex was denied a tool: {denied}"));
        }
        if exit.code != Some(0) {
            return failed(format!("codex ended {} after its turn", exit.describe()));
        }
        if !self.worked {
            return failed("the model answered nothing".to_owned());
        }
        Ok(())
    }
}

impl Lines {
    fn new(sessions: Option<PathBuf>, price: Option<Price>) -> Self {
        Self {
            rollouts: Rollouts::from_now(sessions),
            price,
            streamed_turns: 0,
            in_turn: false,
            last_error: None,
            failed: None,
            completed: false,
            worked: false,
            denied: None,
        }
    }

    fn item_started(&mut self, item: &Value, parsed: &mut ParsedOutput) {
        if let Some(tool) = tool(item) {
            self.answer_begun();
            parsed.tool_use(tool, item["id"].as_str().unwrap_or_default(), &input(item));
        }
    }

    fn item_completed(&mut self, item: &Value, parsed: &mut ParsedOutput) {
        match (item["type"].as_str(), tool(item)) {
            (Some("agent_message"), _) => {
                self.answer_begun();
                self.worked = true;
                parsed.text(item["text"].as_str().unwrap_or_default());
            }
            (Some("error"), _) => {
                let (kind, data) = log("agent", item["message"].as_str().unwrap_or_default());
                parsed.event(kind, data);
            }
            (_, Some(_)) => {
                self.worked = true;
                self.in_turn = false;
                let id = item["id"].as_str().unwrap_or_default();
                let is_error = item["status"] == "failed"
                    || item["exit_code"].as_i64().is_some_and(|code| code != 0);
                parsed.tool_result(id, is_error, &output(item));
                // The model gets the result and answers again.
                parsed.turn_follows = true;
            }
            _ => {}
        }
    }

    /// Not every error ends the run: "Reconnecting…" is one.
    fn error(&mut self, message: &Value, parsed: &mut ParsedOutput) {
        let text = message.as_str().unwrap_or_default();
        self.last_error = Some(text.to_owned());
        let (kind, data) = log("agent", text);
        parsed.event(kind, data);
    }

    fn answer_begun(&mut self) {
        self.streamed_turns += u64::from(!self.in_turn);
        self.in_turn = true;
    }

    fn count(&mut self, total: &Value, parsed: &mut ParsedOutput) {
        self.rollouts.read_new();
        if self.rollouts.answers > 0 {
            parsed.usage = self.usage(self.rollouts.used, self.rollouts.answers);
        } else {
            let tokens = Tokens::of(total);
            parsed.usage = Usage { turns: self.streamed_turns, ..self.usage(tokens, 0) };
        }
    }

    fn usage(&self, tokens: Tokens, turns: u64) -> Usage {
        let fresh = tokens.input.saturating_sub(tokens.cached);
        #[expect(clippy::cast_precision_loss, reason = "tokens are far below 2^52")]
        let cost = |price: Price| {
            (fresh as f64 * price.input
                + tokens.cached as f64 * price.cached
                + tokens.output as f64 * price.output)
                / 1e6
        };
        Usage {
            input_tokens: fresh,
            output_tokens: tokens.output,
            cache_tokens: tokens.cached,
            // There are no tokens before the first answer.
            cost_usd: self.price.filter(|_| tokens.input + tokens.output > 0).map(cost),
            turns,
        }
    }
}

/// The name of the tool, if the item is a tool call.
fn tool(item: &Value) -> Option<&str> {
    match item["type"].as_str()? {
        "agent_message" | "reasoning" | "error" | "todo_list" => None,
        "mcp_tool_call" => item["tool"].as_str(),
        other => Some(other),
    }
}

/// The input of the tool: all fields that are neither names nor results.
fn input(item: &Value) -> Value {
    let mut input = item.clone();
    if let Some(fields) = input.as_object_mut() {
        for name in ["id", "type", "status", "aggregated_output", "exit_code", "result", "error"] {
            fields.remove(name);
        }
    }
    input
}

fn output(item: &Value) -> String {
    let fields = ["aggregated_output", "result", "error"].iter().map(|key| &item[*key]);
    let fields = fields.filter(|value| !value.is_null());
    let texts = fields.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    texts.collect::<Vec<_>>().join("\n")
}

/// Only standard error says that a write was refused.
fn is_denial(line: &str) -> bool {
    line.contains("rejected by user approval settings") || line.contains("read-only sandbox")
}
