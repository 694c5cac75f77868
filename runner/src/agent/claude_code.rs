//! Claude Code: `claude -p`, events as JSON lines, `result` last.
//!
//! Observed with 2.1.330: the exit status can be wrong in both directions, `subtype` is "success"
//! for model errors, and a repository's `.claude/settings.json` can name hooks, a key helper (a
//! command), a proxy and another base URL. So the agent reads only the user's settings, from the
//! private HOME.

use std::collections::BTreeMap;

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::result::Usage;
use rdev_domain::time::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::model_error::{self, ModelError};
use super::parsed_output::ParsedOutput;
use super::{Agent, AgentRequest, Invocation, Reader, environment, instructions, log};
use crate::config::AgentSettings;
use crate::process::{Exit, Stream};

/// The base URL when none is configured.
const BASE_URL: &str = "https://api.anthropic.com";

pub(super) struct ClaudeCode;

impl Agent for ClaudeCode {
    fn program(&self) -> Option<&'static str> {
        Some("claude")
    }

    fn keys(&self) -> &'static [&'static str] {
        &["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"]
    }

    fn variables(&self) -> &'static [&'static str] {
        &["ANTHROPIC_BASE_URL"]
    }

    fn ignored_artifacts(&self) -> &'static [&'static str] {
        // Half-written files of a stopped run: `name.tmp.<pid>.<hex>`.
        &["*.tmp.[0-9]*.[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]*"]
    }

    fn needs_version_call(&self) -> bool {
        false
    }

    fn invocation(
        &self,
        settings: &AgentSettings,
        request: &AgentRequest<'_>,
    ) -> Result<Invocation, Failure> {
        let base_url = settings.base_url.clone();
        let base_url = base_url.or_else(|| environment::value("ANTHROPIC_BASE_URL", settings));
        let base_url = base_url.unwrap_or_else(|| BASE_URL.to_owned());
        let pinned = json!({"env": {"ANTHROPIC_BASE_URL": base_url}, "disableAllHooks": true});
        let mut args: Vec<String> = [
            "-p",
            "--output-format",
            "stream-json",
            "--verbose",
            "--permission-mode",
            "bypassPermissions",
            "--setting-sources",
            "user",
            "--strict-mcp-config",
            "--settings",
        ]
        .map(str::to_owned)
        .into();
        args.push(pinned.to_string());
        let mut option = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                args.extend([name.to_owned(), value]);
            }
        };
        option("--model", request.model.map(str::to_owned).or_else(|| settings.model.clone()));
        option("--max-turns", request.max_turns.map(|turns| turns.to_string()));
        option("--max-budget-usd", request.max_cost_usd.map(|cost| cost.to_string()));
        option("--resume", request.resume.map(str::to_owned));
        let instructions = instructions::read(request.checkout, &["CLAUDE.md", "AGENTS.md"]);
        option("--append-system-prompt", instructions);
        Ok(Invocation {
            args: args.into_iter().map(Into::into).collect(),
            env: vec![
                ("ANTHROPIC_BASE_URL", base_url),
                ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
                ("CLAUDE_CODE_MAX_RETRIES", "2".to_owned()),
                ("CLAUDE_CODE_TMPDIR", request.tmp.display().to_string()),
                // Without it the agent refuses to run as root, as it often does in containers.
                ("IS_SANDBOX", "1".to_owned()),
            ],
            stdin: Some(request.prompt.into()),
            hide: &[],
        })
    }

    fn reader(&self, _: &AgentSettings, _: Option<&AgentRequest<'_>>) -> Box<dyn Reader> {
        Box::new(Lines::default())
    }
}

#[derive(Default)]
struct Lines {
    result: Option<Outcome>,
    last_message: Option<String>,
    worked: bool,
    reset_at: Option<Timestamp>,
}

/// The last event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Outcome {
    subtype: String,
    is_error: bool,
    result: Option<String>,
    errors: Vec<Value>,
    num_turns: u64,
    stop_reason: Option<String>,
    api_error_status: Option<u16>,
    permission_denials: Vec<Value>,
    terminal_reason: Option<String>,
    total_cost_usd: Option<f64>,
    usage: Tokens,
    /// Of this run only. `modelUsage` and `total_cost_usd` add up over resumed runs.
    model_usage_since_last_result: Option<BTreeMap<String, ModelUsage>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tokens {
    input_tokens: u64,
    output_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ModelUsage {
    input_tokens: u64,
    output_tokens: u64,
    cache_read_input_tokens: u64,
    cache_creation_input_tokens: u64,
    #[serde(rename = "costUSD")]
    cost_usd: f64,
}

impl Reader for Lines {
    fn line(&mut self, stream: Stream, line: &str, parsed: &mut ParsedOutput) {
        let event = match serde_json::from_str::<Value>(line) {
            Ok(event) if stream == Stream::Stdout && event.is_object() => event,
            _ => return parsed.plain(stream, line),
        };
        if let Some(session) = event["session_id"].as_str() {
            parsed.session = Some(session.to_owned());
        }
        match event["type"].as_str() {
            Some("system") => system(&event, parsed),
            Some("assistant") => self.assistant(&event, parsed),
            Some("user") => tool_results(&event, parsed),
            Some("rate_limit_event") => self.rate_limit(&event["rate_limit_info"]),
            Some("result") => self.result(event, parsed),
            _ => {}
        }
    }

    fn verdict(
        &mut self,
        exit: Exit,
        parsed: &ParsedOutput,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let failed = |message: String| Err(Failure::new(FailureClass::AgentFailed, message));
        let Some(result) = &self.result else {
            return failed(format!("claude ended {} without a result", exit.describe()));
        };
        let text = result.result.clone().unwrap_or_default();
        match result.subtype.as_str() {
            "error_max_turns" | "error_max_budget_usd" => {
                let which =
                    if result.subtype == "error_max_turns" { "max_turns" } else { "max_cost_usd" };
                let message = format!("the agent used up its {which}{}", result.errors());
                return Err(Failure::new(FailureClass::BudgetExceeded, message));
            }
            _ if result.is_error && result.terminal_reason.as_deref() == Some("api_error") => {
                let status = result.api_error_status;
                let error = ModelError { status, text: &text, retry_at: self.reset_at };
                return Err(model_error::failure(error, now));
            }
            "success" if !result.is_error => {}
            other => {
                return failed(format!("claude ended with {other}: {text}{}", result.errors()));
            }
        }
        if !result.permission_denials.is_empty() {
            let denied = Value::from(result.permission_denials.clone());
            return failed(format!("claude was denied a tool: {denied}"));
        }
        if result.stop_reason.as_deref() == Some("max_tokens") {
            return failed("the model's answer was cut: it used up its output tokens".to_owned());
        }
        if exit.code != Some(0) {
            return failed(format!("claude ended {} after a good result", exit.describe()));
        }
        if !self.worked && parsed.summary.trim().is_empty() {
            return failed("the model answered nothing".to_owned());
        }
        Ok(())
    }
}

impl Lines {
    fn assistant(&mut self, event: &Value, parsed: &mut ParsedOutput) {
        let message = &event["message"];
        for block in message["content"].as_array().into_iter().flatten() {
            match block["type"].as_str() {
                Some("text") => parsed.text(block["text"].as_str().unwrap_or_default()),
                Some("tool_use") => {
                    self.worked = true;
                    let [tool, id] =
                        ["name", "id"].map(|key| block[key].as_str().unwrap_or_default());
                    parsed.tool_use(tool, id, &block["input"]);
                }
                _ => {}
            }
        }
        // One message arrives as one event per block. Each has the same usage, from the start of
        // the answer. The result has the total.
        let id = message["id"].as_str().map(str::to_owned);
        if id != self.last_message && message["model"] != "<synthetic>" {
            self.last_message = id;
            let tokens = Tokens::deserialize(&message["usage"]).unwrap_or_default();
            parsed.usage = parsed.usage.plus(Usage { turns: 1, ..tokens.usage() });
        }
    }

    fn rate_limit(&mut self, info: &Value) {
        if info["status"] == "rejected" {
            self.reset_at = info["resetsAt"].as_i64().and_then(model_error::epoch_time);
        }
    }

    fn result(&mut self, event: Value, parsed: &mut ParsedOutput) {
        parsed.result_received = true;
        // A result that cannot be parsed counts as missing.
        let Ok(result) = serde_json::from_value::<Outcome>(event) else { return };
        if let Some(text) = result.result.as_ref().filter(|text| !text.trim().is_empty()) {
            text.clone_into(&mut parsed.summary);
        }
        parsed.usage = result.usage(&parsed.usage);
        self.result = Some(result);
    }
}

impl Outcome {
    fn usage(&self, so_far: &Usage) -> Usage {
        let turns = if self.num_turns == 0 { so_far.turns } else { self.num_turns };
        let Some(models) = &self.model_usage_since_last_result else {
            return Usage { cost_usd: self.total_cost_usd, turns, ..self.usage.usage() };
        };
        let models = models.values().map(|model| Usage {
            input_tokens: model.input_tokens,
            output_tokens: model.output_tokens,
            cache_tokens: model.cache_read_input_tokens + model.cache_creation_input_tokens,
            cost_usd: Some(model.cost_usd),
            turns: 0,
        });
        let start = Usage { cost_usd: self.total_cost_usd.map(|_| 0.0), turns, ..Usage::default() };
        models.fold(start, Usage::plus)
    }

    fn errors(&self) -> String {
        let errors = self.errors.iter().map(|error| match error.as_str() {
            Some(text) => format!(": {text}"),
            None => format!(": {error}"),
        });
        errors.collect()
    }
}

impl Tokens {
    fn usage(&self) -> Usage {
        Usage {
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cache_tokens: self.cache_creation_input_tokens + self.cache_read_input_tokens,
            ..Usage::default()
        }
    }
}

fn system(event: &Value, parsed: &mut ParsedOutput) {
    let text = |key: &str| event[key].as_str().map(str::to_owned);
    match event["subtype"].as_str() {
        Some("init") => {
            parsed.version = text("claude_code_version").or(parsed.version.take());
            parsed.model = text("model").or(parsed.model.take());
        }
        Some("api_retry") => {
            let (kind, data) = log(
                "agent",
                format!(
                    "the model answered {} {}: attempt {} of {}",
                    event["error_status"],
                    event["error"].as_str().unwrap_or_default(),
                    event["attempt"],
                    event["max_retries"]
                ),
            );
            parsed.event(kind, data);
        }
        _ => {}
    }
}

fn tool_results(event: &Value, parsed: &mut ParsedOutput) {
    for block in event["message"]["content"].as_array().into_iter().flatten() {
        if block["type"] != "tool_result" {
            continue;
        }
        let output = match &block["content"] {
            Value::String(text) => text.clone(),
            Value::Array(parts) => {
                let texts = parts.iter().filter_map(|part| part["text"].as_str());
                texts.collect::<Vec<_>>().join("\n")
            }
            _ => String::new(),
        };
        let id = block["tool_use_id"].as_str().unwrap_or_default();
        parsed.tool_result(id, block["is_error"] == true, &output);
    }
}
