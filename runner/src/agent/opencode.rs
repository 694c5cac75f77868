//! OpenCode: `opencode run --format json`.
//!
//! Observed with 1.18.33: there is no result event, so the reason of the last step decides. The
//! exit status is 0 also for answers that were cut, refused or empty.
//! `OPENCODE_DISABLE_PROJECT_CONFIG` does not affect a second reader of the repository's settings,
//! which loads plugins: the runner hides those settings.

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::result::Usage;
use rdev_domain::time::Timestamp;
use serde_json::{Map, Value, json};

use super::model_error::{self, ModelError};
use super::parsed_output::ParsedOutput;
use super::{Agent, AgentRequest, Invocation, Reader, environment, instructions};
use crate::config::AgentSettings;
use crate::process::{Exit, Stream};

/// The provider's name in the configuration that we write.
const PROVIDER: &str = "rdev";

/// After so many empty answers in a row the model counts as broken. OpenCode itself would call it
/// forever.
const EMPTY_ANSWERS: u32 = 3;

pub(super) struct Opencode;

impl Agent for Opencode {
    fn program(&self) -> Option<&'static str> {
        Some("opencode")
    }

    fn keys(&self) -> &'static [&'static str] {
        &[
            "OPENAI_API_KEY",
            "ANTHROPIC_API_KEY",
            "OPENROUTER_API_KEY",
            "GEMINI_API_KEY",
            "OPENCODE_API_KEY",
        ]
    }

    fn variables(&self) -> &'static [&'static str] {
        &[]
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
        let (model, providers) = match &settings.base_url {
            None => (model.map(str::to_owned), None),
            Some(base_url) => {
                let invalid = |need: &str| {
                    Failure::new(
                        FailureClass::Invalid,
                        format!("opencode with a base_url needs {need}"),
                    )
                };
                let model = model.ok_or_else(|| invalid("a model: set agents.opencode.model"))?;
                if request.max_cost_usd.is_some() && !settings.prices.contains_key(model) {
                    return Err(invalid(
                        "the model's prices to watch max_cost_usd: set agents.opencode.prices",
                    ));
                }
                let provider = provider(base_url, model, settings);
                (Some(format!("{PROVIDER}/{model}")), Some(provider))
            }
        };
        let mut config = Map::from_iter([
            ("autoupdate".to_owned(), json!(false)),
            ("share".to_owned(), json!("disabled")),
            ("permission".to_owned(), json!("allow")),
        ]);
        if let Some(providers) = providers {
            config.insert("provider".to_owned(), json!({PROVIDER: providers}));
            config.insert("small_model".to_owned(), json!(model));
        }
        if let Some(turns) = request.max_turns {
            // Its events arrive late on a busy machine: this limit keeps it from running far ahead.
            // It is one more than allowed, because OpenCode succeeds at its own limit.
            let steps = turns.saturating_add(1);
            config.insert("agent".to_owned(), json!({"build": {"steps": steps}}));
        }
        let mut args = ["run", "--format", "json", "--title", "rdev"].map(str::to_owned).to_vec();
        if let Some(model) = model {
            args.extend(["--model".to_owned(), model]);
        }
        if let Some(session) = request.resume {
            args.extend(["--session".to_owned(), session.to_owned()]);
        }
        // A resumed session has the instructions from its first prompt.
        let instructions = match request.resume {
            None => instructions::read(request.checkout, &["AGENTS.md", "CLAUDE.md"]),
            Some(_) => None,
        };
        let prompt = match instructions {
            Some(instructions) => format!("{instructions}\n\n---\n\n{}", request.prompt),
            None => request.prompt.to_owned(),
        };
        let enabled = |name| (name, "1".to_owned());
        Ok(Invocation {
            args: args.into_iter().map(Into::into).collect(),
            env: vec![
                ("OPENCODE_CONFIG_CONTENT", Value::from(config).to_string()),
                enabled("OPENCODE_DISABLE_PROJECT_CONFIG"),
                enabled("OPENCODE_PURE"),
                enabled("OPENCODE_DISABLE_AUTOUPDATE"),
                enabled("OPENCODE_DISABLE_MODELS_FETCH"),
                enabled("OPENCODE_DISABLE_LSP_DOWNLOAD"),
                enabled("OPENCODE_DISABLE_DEFAULT_PLUGINS"),
            ],
            stdin: Some(prompt.into()),
            hide: &[".opencode", "opencode.json", "opencode.jsonc"],
        })
    }

    fn reader(
        &self,
        settings: &AgentSettings,
        request: Option<&AgentRequest<'_>>,
    ) -> Box<dyn Reader> {
        let model = request.and_then(|request| request.model).or(settings.model.as_deref());
        let priced = model.is_some_and(|model| settings.prices.contains_key(model));
        // OpenCode knows the prices of its own providers.
        let has_prices = priced || settings.base_url.is_none();
        Box::new(Lines { has_prices, ..Lines::default() })
    }
}

fn provider(base_url: &str, model: &str, settings: &AgentSettings) -> Value {
    let mut entry = json!({"limit": {"context": 200_000, "output": 16_384}});
    if let Some(price) = settings.prices.get(model) {
        entry["cost"] =
            json!({"input": price.input, "output": price.output, "cache_read": price.cached});
    }
    let mut options = json!({"baseURL": base_url});
    if environment::value("OPENAI_API_KEY", settings).is_some() {
        // OpenCode inserts the value, so that only one variable has the key.
        options["apiKey"] = json!("{env:OPENAI_API_KEY}");
    }
    json!({"npm": "@ai-sdk/openai-compatible", "options": options, "models": {model: entry}})
}

#[derive(Default)]
struct Lines {
    has_prices: bool,
    last_reason: Option<String>,
    error: Option<Value>,
    refused: Option<String>,
    /// Whether this step, or any step, had text or a tool call.
    step_has_content: bool,
    any_content: bool,
    empty_steps: u32,
}

impl Reader for Lines {
    fn line(&mut self, stream: Stream, line: &str, parsed: &mut ParsedOutput) {
        if stream == Stream::Stderr && line.contains("permission requested") {
            self.refused = Some(line.to_owned());
        }
        let event = match serde_json::from_str::<Value>(line) {
            Ok(event) if stream == Stream::Stdout && event.is_object() => event,
            _ => return parsed.plain(stream, line),
        };
        if let Some(session) = event["sessionID"].as_str() {
            parsed.session = Some(session.to_owned());
        }
        let part = &event["part"];
        match event["type"].as_str() {
            Some("step_start") => {
                parsed.turn_follows = false;
                self.step_has_content = false;
            }
            Some("text") => {
                let text = part["text"].as_str().unwrap_or_default();
                self.step_has_content |= !text.trim().is_empty();
                parsed.text(text);
            }
            Some("tool_use") => {
                self.step_has_content = true;
                self.tool(part, parsed);
            }
            Some("step_finish") => self.step_finish(part, parsed),
            Some("error") => self.error = Some(event["error"].clone()),
            _ => {}
        }
    }

    fn verdict(&mut self, exit: Exit, _: &ParsedOutput, now: Timestamp) -> Result<(), Failure> {
        let failed = |message: String| Err(Failure::new(FailureClass::AgentFailed, message));
        if let Some(error) = &self.error {
            return Err(model_error::failure(read_error(error, now).as_ref(), now));
        }
        if let Some(refused) = &self.refused {
            return failed(format!("opencode was refused a permission: {refused}"));
        }
        if exit.code != Some(0) {
            return failed(format!("opencode ended {}", exit.describe()));
        }
        match self.last_reason.as_deref() {
            Some("stop") if self.any_content => Ok(()),
            Some("length") => {
                failed("the model's answer was cut: it used up its output tokens".to_owned())
            }
            Some("stop") | None => failed("the model answered nothing".to_owned()),
            Some(reason) => failed(format!("opencode's last step ended with {reason:?}")),
        }
    }
}

impl Lines {
    fn tool(&mut self, part: &Value, parsed: &mut ParsedOutput) {
        let [tool, id] = ["tool", "callID"].map(|key| part[key].as_str().unwrap_or_default());
        let state = &part["state"];
        parsed.tool_use(tool, id, &state["input"]);
        let is_error = state["status"] == "error";
        let output = if is_error { &state["error"] } else { &state["output"] };
        let output = output.as_str().unwrap_or_default();
        parsed.tool_result(id, is_error, output);
        if is_error && output.contains("rejected permission") {
            self.refused = Some(format!("{tool}: {output}"));
        }
    }

    fn step_finish(&mut self, part: &Value, parsed: &mut ParsedOutput) {
        let tokens = &part["tokens"];
        let count = |value: &Value| value.as_u64().unwrap_or_default();
        let cost = part["cost"].as_f64().filter(|_| self.has_prices);
        parsed.usage = parsed.usage.plus(Usage {
            input_tokens: count(&tokens["input"]),
            output_tokens: count(&tokens["output"]) + count(&tokens["reasoning"]),
            cache_tokens: count(&tokens["cache"]["read"]) + count(&tokens["cache"]["write"]),
            cost_usd: cost,
            turns: 1,
        });
        self.last_reason = part["reason"].as_str().map(str::to_owned);
        parsed.turn_follows = self.last_reason.as_deref() == Some("tool-calls");
        self.any_content |= self.step_has_content;
        self.empty_steps = if self.step_has_content { 0 } else { self.empty_steps + 1 };
        if self.empty_steps >= EMPTY_ANSWERS {
            parsed.unrecoverable = true;
            self.last_reason = None;
        }
    }
}

struct OwnedError {
    status: Option<u16>,
    text: String,
    retry_at: Option<Timestamp>,
}

impl OwnedError {
    fn as_ref(&self) -> ModelError<'_> {
        ModelError { status: self.status, text: &self.text, retry_at: self.retry_at }
    }
}

/// `{name, data: {message, statusCode, responseHeaders, responseBody}}`.
fn read_error(error: &Value, now: Timestamp) -> OwnedError {
    let data = &error["data"];
    let status = data["statusCode"].as_u64().and_then(|status| u16::try_from(status).ok());
    let mut text = data["message"].as_str().map_or_else(|| error.to_string(), str::to_owned);
    // Only the body tells the kind of a 429.
    let body =
        data["responseBody"].as_str().and_then(|body| serde_json::from_str::<Value>(body).ok());
    let body = body.unwrap_or_default();
    if let Some(code) = body["error"]["code"].as_str().or_else(|| body["error"]["type"].as_str()) {
        text = format!("{text} ({code})");
    }
    let seconds =
        data["responseHeaders"]["retry-after"].as_str().and_then(|text| text.parse().ok());
    let seconds = seconds.or_else(|| body["error"]["resets_in_seconds"].as_u64());
    let retry_at = seconds.map(|seconds| now.plus(std::time::Duration::from_secs(seconds)));
    OwnedError { status, text, retry_at }
}
