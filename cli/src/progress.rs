//! Progress on stderr: a spinner and phase times on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::client::Event;
use crate::out;

/// The longest line of an agent's output, in characters.
const WIDTH: usize = 160;

/// Shows the progress of a build.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Only on a terminal.
    spinner: Option<ProgressBar>,
}

impl Progress {
    /// Starts without text.
    pub(crate) fn new() -> Self {
        Self { spinner: std::io::stderr().is_terminal().then(spinner) }
    }

    /// Prints a line.
    pub(crate) fn line(&self, text: &str) {
        match &self.spinner {
            Some(spinner) => spinner.println(text),
            None => out::note(text),
        }
    }

    /// Shows the current activity beside the spinner.
    pub(crate) fn doing(&self, text: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.reset_elapsed();
            spinner.set_message(text.to_owned());
        }
    }

    /// Shows an event of a build.
    pub(crate) fn event(&self, event: &Event) {
        if event.kind == "phase" && event.data["status"] == "started" && self.spinner.is_some() {
            self.doing(text(&event.data, "phase"));
            return;
        }
        for line in describe(event) {
            self.line(&line);
        }
    }

    /// Removes the spinner.
    pub(crate) fn finish(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn spinner() -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// An event as lines for people; no lines for events that do not concern them.
pub(crate) fn describe(event: &Event) -> Vec<String> {
    let data = &event.data;
    match event.kind.as_str() {
        "state" => {
            let attempt = data["attempt"].as_u64().filter(|attempt| *attempt > 1);
            let attempt = attempt.map(|n| format!(" (attempt {n})")).unwrap_or_default();
            vec![format!("{}{attempt}", text(data, "state"))]
        }
        "phase" => {
            let phase = text(data, "phase");
            let time = data["duration_ms"].as_u64().map(duration).unwrap_or_default();
            match text(data, "status") {
                "started" => vec![format!("  {phase} …")],
                "finished" => vec![format!("  {phase:<9} {time:>8}")],
                status => vec![format!("  {phase:<9} {time:>8}  {status}")],
            }
        }
        "agent.text" => text(data, "text").lines().map(|line| marked("|", line)).collect(),
        "agent.tool_use" => {
            let input = match &data["input"] {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            vec![marked(">", &format!("{} {input}", text(data, "tool")))]
        }
        "agent.tool_result" if data["is_error"] == true => {
            let output = match &data["output"] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            vec![marked("!", output.lines().next().unwrap_or_default())]
        }
        "log" => text(data, "text").lines().map(|line| marked(".", line)).collect(),
        _ => Vec::new(),
    }
}

/// Milliseconds in a readable unit: `12 ms`, `3.4 s`, `2 min 5 s`.
pub(crate) fn duration(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

fn marked(mark: &str, line: &str) -> String {
    let line = out::clean(line);
    let cut: String = line.chars().take(WIDTH).collect();
    let more = if cut.len() < line.len() { "…" } else { "" };
    format!("    {mark} {}{more}", cut.trim_end())
}

fn text<'a>(data: &'a Value, field: &str) -> &'a str {
    data[field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(kind: &str, data: Value) -> Vec<String> {
        describe(&Event { kind: kind.to_owned(), data })
    }

    #[test]
    fn events_read_as_lines() {
        assert_eq!(lines("state", json!({"state": "running", "attempt": 1})), ["running"]);
        assert_eq!(
            lines("state", json!({"state": "running", "attempt": 2})),
            ["running (attempt 2)"]
        );
        assert_eq!(
            lines("phase", json!({"phase": "push", "status": "finished", "duration_ms": 1234})),
            ["  push         1.2 s"]
        );
        assert_eq!(lines("agent.text", json!({"text": "a\nb\x1b[1m"})), ["    | a", "    | b[1m"]);
        assert_eq!(
            lines("agent.tool_use", json!({"tool": "edit", "input": {"path": "x"}})),
            [r#"    > edit {"path":"x"}"#]
        );
        assert!(lines("agent.usage", json!({"turns": 1})).is_empty());
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        assert_eq!(
            [duration(12), duration(3456), duration(125_000)],
            ["12 ms", "3.4 s", "2 min 5 s"]
        );
    }
}
