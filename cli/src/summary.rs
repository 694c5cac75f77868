//! A build's record as text: its result, its changes and its cost.

use rdev_domain::result::{ChangeStatus, FileChange};
use serde::Deserialize;
use serde_json::Value;

use crate::out::clean;
use crate::progress::duration;

/// The width of the `+` and `-` of a diffstat.
const BAR: u64 = 40;

/// Formats a build's record.
pub(crate) fn of_build(record: &Value) -> String {
    let mut lines = Vec::new();
    let mut field = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{name:<9} {value}"));
        }
    };
    let result = &record["result"];
    field("task", text(record, "id"));
    field("project", text(record, "project_id"));
    let outcome = text(result, "outcome");
    let state = text(record, "state");
    field("state", if outcome.is_empty() { state } else { format!("{state}, {outcome}") });
    field("attempts", numbered(&record["attempt"]));
    field("commit", text(result, "commit_sha"));
    field("branch", text(result, "branch"));
    field("pull", text(result, "pull_request_url"));
    for one in record["refs"].as_array().into_iter().flatten() {
        let about = ["name", "commit", "kind"].map(|field| text(one, field));
        field("ref", format!("{} at {} ({})", about[0], about[1], about[2]));
    }
    for one in record["pipelines"].as_array().into_iter().flatten() {
        field("pipeline", pipeline(one));
    }
    field("shown", commit_status(&record["commit_status"]));
    field("agent", agent(&result["agent"]));
    field("used", usage(&record["usage"]));
    field("times", times(&result["durations_ms"]));
    for run in result["verify"].as_array().into_iter().flatten() {
        field("verified", verified(run));
    }
    let failure = &record["failure"];
    if failure.is_object() {
        field("failure", format!("{}: {}", text(failure, "class"), text(failure, "message")));
    }
    let warnings = result["warnings"].as_array().map_or(&[][..], Vec::as_slice);
    for warning in warnings {
        field("warning", format!("{}: {}", text(warning, "code"), text(warning, "message")));
    }
    let mut all = lines.join("\n");
    let changes = changes(&result["files_changed"]);
    if !changes.is_empty() {
        all.push_str("\n\n");
        all.push_str(&diffstat(&changes, result["files_changed_total"].as_u64()));
    }
    let words = text(result, "summary");
    if !words.trim().is_empty() {
        all.push_str("\n\n");
        all.push_str(words.trim());
    }
    all
}

/// A pipeline of the commit, such as `success, number 3 (push)`.
fn pipeline(pipeline: &Value) -> String {
    let number = pipeline["number"].as_u64().map(|number| format!(", number {number}"));
    let event = pipeline["event"].as_str().map(|event| format!(" ({})", clean(event)));
    let status = text(pipeline, "status");
    format!("{status}{}{}", number.unwrap_or_default(), event.unwrap_or_default())
}

/// What the forge shows at the commit, such as `success, taken by the forge`.
fn commit_status(status: &Value) -> String {
    let state = text(status, "state");
    let error = Some(text(status, "error")).filter(|error| !error.is_empty());
    let error = error.map(|error| format!(": {error}")).unwrap_or_default();
    match status["shown"].as_str() {
        Some("taken") => format!("{state}, taken by the forge"),
        Some("given_up") => format!("{state}, given up{error}"),
        Some(_) if status["next_at"].is_string() => {
            let tries = status["tries"].as_u64().unwrap_or(0);
            format!("{state}, not taken yet after {tries} tries{error}")
        }
        Some(_) => state,
        None => String::new(),
    }
}

/// The changed files of a result; skips entries that cannot be parsed.
pub(crate) fn changes(list: &Value) -> Vec<FileChange> {
    let items = list.as_array().map_or(&[][..], Vec::as_slice);
    items.iter().filter_map(|item| FileChange::deserialize(item).ok()).collect()
}

/// Changed files in the format of `git diff --stat`; `total` also counts files that the list omits.
pub(crate) fn diffstat(changes: &[FileChange], total: Option<u64>) -> String {
    let width = changes.iter().map(|change| change.path.chars().count()).max().unwrap_or(0).min(60);
    let most = changes.iter().map(|c| c.additions + c.deletions).max().unwrap_or(0).max(1);
    let digits = most.to_string().len();
    let mut lines: Vec<String> = changes
        .iter()
        .map(|change| {
            let count = change.additions + change.deletions;
            let scaled = |n: u64| if most <= BAR { n } else { (n * BAR).div_ceil(most) };
            let bar = "+".repeat(usize::try_from(scaled(change.additions)).unwrap_or(0))
                + &"-".repeat(usize::try_from(scaled(change.deletions)).unwrap_or(0));
            let note = match change.status {
                ChangeStatus::Added => " (new)",
                ChangeStatus::Deleted => " (gone)",
                ChangeStatus::Renamed => " (renamed)",
                ChangeStatus::Modified => "",
            };
            let line = format!(" {:<width$} | {count:>digits$} {bar}", clean(&change.path));
            format!("{}{note}", line.trim_end())
        })
        .collect();
    let files = total.unwrap_or(changes.len() as u64);
    let (added, removed) = changes.iter().fold((0, 0), |(added, removed), change| {
        (added + change.additions, removed + change.deletions)
    });
    let plural = if files == 1 { "" } else { "s" };
    lines.push(format!(" {files} file{plural} changed, +{added}, -{removed}"));
    lines.join("\n")
}

fn agent(agent: &Value) -> String {
    let parts = ["provider", "version", "model"].map(|field| text(agent, field));
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn usage(usage: &Value) -> String {
    let count = |field: &str| usage[field].as_u64().unwrap_or(0);
    let tokens = ["input_tokens", "output_tokens", "cache_tokens"].map(count);
    if tokens.iter().sum::<u64>() == 0 {
        return String::new();
    }
    let cost = usage["cost_usd"].as_f64().map(|cost| format!(", {cost:.4} USD"));
    format!(
        "{} tokens in, {} out, {} cached, {} turns{}",
        tokens[0],
        tokens[1],
        tokens[2],
        count("turns"),
        cost.unwrap_or_default()
    )
}

fn times(durations: &Value) -> String {
    let order = ["checkout", "agent", "verify", "commit", "push"];
    let shown = order.iter().filter_map(|phase| {
        durations[phase].as_u64().map(|ms| format!("{phase} {}", duration(ms)))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// A verify command, such as `cargo test: status 0, 1.2 s`.
fn verified(run: &Value) -> String {
    let status = match run["exit_code"].as_i64() {
        Some(code) => format!("status {code}"),
        None => "a signal".to_owned(),
    };
    let time = run["duration_ms"].as_u64().map(|ms| format!(", {}", duration(ms)));
    format!("{}: {status}{}", text(run, "command"), time.unwrap_or_default())
}

fn numbered(value: &Value) -> String {
    value.as_u64().filter(|n| *n > 0).map(|n| n.to_string()).unwrap_or_default()
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().map(clean).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_build_reads_from_its_state_to_its_diffstat() {
        let record = json!({
            "id": "T", "project_id": "site", "state": "succeeded", "attempt": 1,
            "pipelines": [
                {"number": 4, "event": "pull_request", "status": "running", "url": null},
                {"number": null, "event": null, "status": "success", "url": null},
            ],
            "usage": {"input_tokens": 10, "output_tokens": 2, "cache_tokens": 0, "cost_usd": 0.5, "turns": 1},
            "result": {
                "outcome": "delivered", "commit_sha": "abc", "branch": "main",
                "agent": {"provider": "codex", "version": "1", "model": null},
                "durations_ms": {"push": 5, "checkout": 1500},
                "verify": [
                    {"command": "make test", "exit_code": 0, "duration_ms": 1200, "passed": true},
                ],
                "files_changed_total": 2,
                "files_changed": [
                    {"path": "index.html", "status": "modified", "additions": 100, "deletions": 1},
                    {"path": "a.css", "status": "added", "additions": 3, "deletions": 0},
                ],
                "summary": "Done.\n",
            },
        });
        let expected = "task      T
project   site
state     succeeded, delivered
attempts  1
commit    abc
branch    main
pipeline  running, number 4 (pull_request)
pipeline  success
agent     codex 1
used      10 tokens in, 2 out, 0 cached, 1 turns, 0.5000 USD
times     checkout 1.5 s, push 5 ms
verified  make test: status 0, 1.2 s

 index.html | 101 ++++++++++++++++++++++++++++++++++++++++-
 a.css      |   3 ++ (new)
 2 files changed, +103, -1

Done.";
        assert_eq!(of_build(&record), expected);
    }

    #[test]
    fn a_failed_build_says_why() {
        let record = json!({
            "id": "T", "state": "failed", "failure": {"class": "auth", "message": "no key"},
            "refs": [{"name": "refs/rdev/part/T/1", "commit": "abc", "kind": "part"}],
        });
        let expected = "task      T
state     failed
ref       refs/rdev/part/T/1 at abc (part)
failure   auth: no key";
        assert_eq!(of_build(&record), expected);
    }
}
