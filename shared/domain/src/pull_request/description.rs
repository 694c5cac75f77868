//! What a pull request says: its title and its body. Nothing of strangers in it does anything.

use crate::foreign_text::{code_block, inline_code, one_line};
use crate::ids::TaskId;
use crate::result::{AgentRun, BuildResult, ChangeStatus, FileChange, Usage, VerifyRun};

/// The most characters of a title.
pub const MAX_TITLE_CHARS: usize = 72;

/// The most bytes of a body: the parts' own limits add up to less. Forges take 65,535.
pub const MAX_BODY_BYTES: usize = 60_000;

/// The most bytes of each part that has text of strangers, and of the list of files.
const PROMPT_BYTES: usize = 14_000;
const SUMMARY_BYTES: usize = 6_000;
const FILES_BYTES: usize = 14_000;
const VERIFY_BYTES: usize = 10_000;
const WARNINGS_BYTES: usize = 6_000;

/// The most entries of a list.
const MOST_ENTRIES: usize = 100;

/// What begins the title of a draft, in upper case. Only [`crate::pull_request::PullRequestOptions`]
/// make one.
const DRAFT: [&str; 5] = ["WIP:", "[WIP]", "DRAFT:", "[DRAFT]", "(DRAFT)"];

/// A title: the first line of the text that says something, without the marks of Markdown that
/// begin it; `otherwise` when there is none. One line of at most [`MAX_TITLE_CHARS`] characters.
pub fn title(text: &str, otherwise: &str) -> String {
    let lines = text.split(['\n', '\r']).map(str::trim).filter(|line| !is_mark_alone(line));
    let mut lines = lines.map(without_marks);
    let line = lines.find(|line| line.contains(char::is_alphanumeric)).unwrap_or(otherwise);
    let line = one_line(line, MAX_TITLE_CHARS);
    if !is_draft(&line) {
        return line;
    }
    let mut chars = line.chars();
    let first: String = chars.by_ref().take(1).collect();
    one_line(&format!("{first}\u{2060}{}", chars.as_str()), MAX_TITLE_CHARS)
}

/// What a pull request tells of the build that has opened it.
#[derive(Debug, Clone, Copy)]
pub struct Description<'a> {
    /// The build.
    pub task: TaskId,
    /// Its attempt, 1 is the first.
    pub attempt: u32,
    /// Its page.
    pub page: Option<&'a str>,
    /// What it was asked for.
    pub prompt: &'a str,
    /// What it made.
    pub result: &'a BuildResult,
    /// What all its attempts have used.
    pub usage: Usage,
}

impl Description<'_> {
    /// The body, in Markdown. Its last paragraph is of no stranger: where a forge makes the body a
    /// commit's message, nobody else writes its trailers.
    pub fn body(&self) -> String {
        let Self { task, attempt, result, .. } = self;
        let mut parts = vec![match self.page.filter(|page| is_plain_url(page)) {
            Some(page) => format!("Made by [build {task}](<{page}>)."),
            None => format!("Made by build {task}."),
        }];
        parts.push(self.facts());
        parts.push(verified(&result.verify));
        parts.push(files(&result.files_changed, result.files_changed_total));
        if !result.warnings.is_empty() {
            let lines = result.warnings.iter().map(|warning| {
                let code = inline_code(&warning.code, 50);
                format!("- {code}: {}", inline_code(&warning.message, 400))
            });
            let all = result.warnings.len() as u64;
            parts.push(format!("**Warnings**\n\n{}", listed(lines, all, WARNINGS_BYTES)));
        }
        parts.push(folded("The prompt", &code_block(self.prompt, PROMPT_BYTES)));
        if !result.summary.trim().is_empty() {
            let words = code_block(&result.summary, SUMMARY_BYTES);
            parts.push(folded("What the agent said last", &words));
        }
        parts.push(format!("Task {task}, attempt {attempt}"));
        parts.join("\n\n")
    }

    fn facts(&self) -> String {
        let agent = match &self.result.agent {
            Some(run) => agent(run),
            None => "none ran in this attempt; the work is of an earlier one".to_owned(),
        };
        let Usage { input_tokens, output_tokens, cache_tokens, cost_usd, turns } = self.usage;
        let cost = cost_usd.map_or("cost not known".to_owned(), |cost| format!("{cost:.4} USD"));
        format!(
            "- Agent: {agent}\n- Used: {input_tokens} tokens in, {output_tokens} out, {cache_tokens} cached, {turns} turns, {cost}\n- Attempt: {}",
            self.attempt
        )
    }
}

fn agent(run: &AgentRun) -> String {
    let mut text = inline_code(run.provider.as_str(), 50);
    for (name, value) in [("version", &run.version), ("model", &run.model)] {
        if let Some(value) = value {
            text.push_str(&format!(", {name} {}", inline_code(value, 100)));
        }
    }
    text
}

fn verified(runs: &[VerifyRun]) -> String {
    if runs.is_empty() {
        return "**Verified**: no command ran.".to_owned();
    }
    let lines = runs.iter().map(|run| {
        let status = match run.exit_code {
            Some(code) => format!("exit status {code}"),
            None => "ended by a signal".to_owned(),
        };
        let verdict = if run.passed { "passed" } else { "failed" };
        let (command, time) = (inline_code(&run.command, 100), time(run.duration_ms));
        format!("- {command}: {verdict}, {status}, {time}")
    });
    format!("**Verified**\n\n{}", listed(lines, runs.len() as u64, VERIFY_BYTES))
}

fn time(millis: u64) -> String {
    if millis < 1000 {
        return format!("{millis} ms");
    }
    format!("{}.{} s", millis / 1000, millis % 1000 / 100)
}

fn files(changes: &[FileChange], total: u64) -> String {
    let lines = changes.iter().map(|change| {
        let FileChange { path, status, additions, deletions } = change;
        let status = match status {
            ChangeStatus::Added => " (new)",
            ChangeStatus::Modified => "",
            ChangeStatus::Deleted => " (deleted)",
            ChangeStatus::Renamed => " (renamed)",
        };
        format!("- {} +{additions} −{deletions}{status}", inline_code(path, 200))
    });
    let total = total.max(changes.len() as u64);
    format!("**Changed files**: {total}\n\n{}", listed(lines, total, FILES_BYTES))
}

/// The lines of a list as far as they fit, and how many of all are left out.
fn listed(lines: impl Iterator<Item = String>, all: u64, most_bytes: usize) -> String {
    let (mut text, mut shown) = (String::new(), 0);
    for line in lines.take(MOST_ENTRIES) {
        if text.len() + line.len() >= most_bytes {
            break;
        }
        text.push_str(&line);
        text.push('\n');
        shown += 1;
    }
    if all > shown {
        text.push_str(&format!("- and {} more\n", all - shown));
    }
    text.truncate(text.trim_end().len());
    text
}

/// A part that opens when somebody asks for it. `content` is Markdown in blocks of its own.
fn folded(summary: &str, content: &str) -> String {
    format!("<details><summary>{summary}</summary>\n\n{content}\n\n</details>")
}

/// Whether a line says nothing itself: it begins or ends a block of code, or is a comment.
fn is_mark_alone(line: &str) -> bool {
    ["```", "~~~", "<!--"].iter().any(|mark| line.starts_with(mark))
}

/// A line without the marks of headings, quotes and lists that begin it.
fn without_marks(line: &str) -> &str {
    let mut line = line;
    while let Some((mark, rest)) = line.split_once(char::is_whitespace) {
        let heading = (1..=6).contains(&mark.len()) && mark.bytes().all(|b| b == b'#');
        if !heading && !matches!(mark, ">" | "-" | "*" | "+") {
            break;
        }
        line = rest.trim_start();
        if heading {
            line = line.trim_end_matches('#').trim_end();
        }
    }
    line
}

/// Whether a forge may take a title for that of a draft; it compares in upper case.
fn is_draft(title: &str) -> bool {
    let title = title.to_uppercase();
    DRAFT.iter().any(|mark| title.starts_with(mark))
}

fn is_plain_url(page: &str) -> bool {
    !page.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>' | '\\'))
}
